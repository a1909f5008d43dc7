"""What is found out of a host and of a process."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from pathlib import Path

import pytest

from meshagent.host import facts, metadata
from meshagent.host.facts import Usage


def test_this_host_is_found() -> None:
    found = facts.system()
    assert (found.kernel, found.arch) == (platform.release(), platform.machine())
    assert found.cpus >= 1
    assert found.memory_total > 1 << 28
    assert 0 < found.booted < time.time()


def test_what_changes_is_rounded() -> None:
    found = facts.present([Path("/"), Path("/etc"), Path("/no/such/directory")])
    assert found.load % 0.25 == 0
    assert found.memory_available % (facts.system().memory_total // 20) == 0
    assert next(disk.path for disk in found.disks) == "/"
    assert all(0 <= disk.used_percent <= 100 and disk.total > 0 for disk in found.disks)
    assert not [address for address in found.addresses if " 127." in address or " fe80" in address]


def test_a_process_s_use_is_found_and_a_gone_one_s_is_none() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        found = facts.usage(child.pid)
        assert found is not None
        assert found.memory > 0
        assert found.open_files >= 3
    finally:
        child.kill()
        child.wait()
    assert facts.usage(child.pid) is None


def test_open_sockets_count() -> None:
    before = facts.usage(os.getpid())
    with socket.socket(), socket.socket():
        after = facts.usage(os.getpid())
    assert before is not None
    assert after is not None
    assert after.open_files == before.open_files + 2


@pytest.mark.parametrize(
    ("used", "seconds", "cores"), [(5.0, 10.0, 0.5), (0.0, 10.0, 0.0), (-1.0, 10.0, 0.0), (1, 0, 0.0)]
)
def test_busy_cores(used: float, seconds: float, cores: float) -> None:
    assert facts.cores(Usage(100.0, 0, 0), Usage(100.0 + used, 0, 0), seconds) == cores


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"sys_vendor": "Amazon EC2\n"}, True),
        ({"sys_vendor": "Xen", "product_uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n"}, True),
        ({"sys_vendor": "QEMU", "product_uuid": "4c4c4544"}, False),
        ({}, False),
    ],
)
def test_only_an_instance_s_firmware_says_ec2(tmp_path: Path, files: dict[str, str], wanted: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert metadata.on_ec2(tmp_path) is wanted


def test_a_file_system_is_read_only_as_a_whole_or_not_at_all() -> None:
    found = facts.superblocks(
        "36 35 98:0 / / ro,noatime shared:1 - ext4 /dev/root rw,errors=remount-ro\n"
        "37 35 0:45 / /v rw - overlay overlay ro,lowerdir=/a\nshort\n"
    )
    assert found == {"98:0": False, "0:45": True}
