"""What /proc says, of processes that are named to mislead, and of those that are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from meshagent.host import processes

# A name is cut at 15 bytes, in the middle of a letter if need be; this one also looks like the end of its own field.
NAMED = "import ctypes, time; ctypes.CDLL(None).prctl(15, b') Z 1 \\xd0', 0, 0, 0); print(flush=True); time.sleep(60)"


def test_a_process_whose_name_is_no_text_keeps_nobody_from_being_found() -> None:
    with subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE) as odd:
        try:
            assert odd.stdout is not None
            odd.stdout.readline()
            found = {process.pid: process for process in processes.own_processes()}
            assert found[os.getpid()].start_time == processes.start_time(os.getpid())
            assert found[odd.pid].arguments[1] == "-c"
        finally:
            odd.kill()


def test_a_zombie_is_nobody(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.start_time(child.pid) is None
    assert processes.start_time(child.pid) is None
    assert processes.boot_id(tmp_path) == ""


def test_containers_and_their_boots_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("11a1\n")
    (tmp_path / "1").mkdir()
    (tmp_path / "self/ns").mkdir(parents=True)

    def boot_id(namespace: str, started: int, container: str = "") -> str:
        (tmp_path / "self/ns/pid").unlink(missing_ok=True)
        (tmp_path / "self/ns/pid").hardlink_to(tmp_path / namespace)
        (tmp_path / "1/stat").write_text(f"1 (systemd) S 0 1 1 0 -1 4194560 1 1 0 0 1 1 1 1 20 0 1 0 {started} 1 1")
        return processes.boot_id(tmp_path, tmp_path / container)

    for namespace in ("one", "other"):
        (tmp_path / namespace).touch()
    assert len({boot_id("one", 700), boot_id("one", 900), boot_id("other", 700)}) == 3
    assert boot_id("one", 700) == boot_id("one", 700)
    assert boot_id("one", 700, "none") == boot_id("other", 900, "none") == "11a1"
