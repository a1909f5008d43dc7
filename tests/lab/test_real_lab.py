"""A real lab, small and short: what it promises, and that it leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshagent.lab import Lab, LabError, Places, cgroups, labs, machine

pytestmark = pytest.mark.lab

_LIMIT = 30.0

OWNER = """
import sys
from pathlib import Path
from meshagent.lab import Lab, Places
with Lab.of_process(1, Places(Path(sys.argv[1]))) as lab:
    print(lab.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    reason = machine.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Its own labs, on the root file system that all share."""
    return Places(tmp_path_factory.mktemp("labs"))


@pytest.fixture(scope="module")
def pair(places: Places) -> Iterator[Lab]:
    with Lab.of_process(2, places) as lab:
        yield lab


def left_of(lab: str, places: Places) -> list[str]:
    """Whatever there is on this machine that bears the lab's name."""
    return [
        *(link for link in machine.links() if link.startswith((f"{lab}-", f"mlab-{lab}"))),
        *(name for name in machine.namespaces() if name.startswith(f"mlab-{lab}")),
        *cgroups.hosts_left(lab),
        *map(str, machine.mounts_under(places.state / lab)),
        *([lab] if f"mlab_{lab}" in machine.run(("nft", "list", "tables")) else []),
        *([str(places.state / lab)] if (places.state / lab).exists() else []),
    ]


def test_the_disk_outlives_a_reboot_and_a_power_cut(pair: Lab) -> None:
    host = pair.host("h1")
    host.write("/root/note", "kept")
    boots = {host.boot_id}
    for hard in (False, True):
        host.reboot(hard=hard)
        assert host.read("/root/note") == "kept"
        assert host.state == "running", host.failed_units()
        boots.add(host.boot_id)
    assert len(boots) == 3
    listed = host.run(["journalctl", "--list-boots", "--no-pager"]).stdout
    assert len(listed.splitlines()) >= 3  # the journal, too


def test_a_host_that_reboots_itself_comes_back(pair: Lab) -> None:
    host = pair.host("h2")
    before = host.boot_id
    host.run(["systemctl", "reboot"], check=True)
    host.wait(other_than=before)
    assert host.boot_id != before


EATS = """[Service]
Type=exec
MemoryMax=20M
ExecStart=/usr/bin/python3 -c 'bytearray(10**8); print("it could", flush=True); import time; time.sleep(60)'
"""


def test_a_host_of_cgroup_v1_limits_the_memory_of_its_units_where_the_machine_has_version_1(pair: Lab) -> None:
    if not cgroups.HostGroup(pair.name, "h2").has_memory_controller:
        pytest.skip("this machine's memory controller is not version 1's")
    host = pair.host("h2")
    host.write("/etc/systemd/system/eats.service", EATS)
    host.reboot(hard=True, legacy=True)
    try:
        for _ in range(2):  # a reboot from within keeps the version
            assert host.run("stat -f -c %T /sys/fs/cgroup").stdout == "tmpfs\n"
            host.run(["systemctl", "start", "eats"], check=True)
            deadline = time.monotonic() + _LIMIT
            while (state := host.run(["systemctl", "is-active", "eats"]).stdout.strip()) == "active":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert state == "failed"
            said = host.run("systemctl show -P ExecMainStatus eats; journalctl -b -u eats").stdout
            assert said.startswith("9\n") and "it could" not in said
            host.run(["systemctl", "reset-failed"], check=True)
            host.reboot()
    finally:
        host.run(["rm", "/etc/systemd/system/eats.service"])
        host.reboot(hard=True)
    assert host.run("stat -f -c %T /sys/fs/cgroup").stdout == "cgroup2fs\n"
    assert host.state == "running"


def test_no_two_hosts_share_an_identity(pair: Lab) -> None:
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/hostname"):
        assert pair.host("h1").read(path) != pair.host("h2").read(path)


def test_ssh_is_root_with_a_key_and_a_known_host(pair: Lab) -> None:
    done = subprocess.run([*pair.ssh("h2"), "hostname && id -u"], capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == ["h2", "0"], done.stderr


def test_the_command_line_does_the_same(pair: Lab) -> None:
    def meshagent_lab(*words: str, status: int = 0) -> str:
        command = [sys.executable, "-c", "from meshagent.cli.meshagent import main; main()", "lab", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout

    which = ("--name", pair.name, "--directory", str(pair.places.state))
    assert meshagent_lab("exec", *which, "h1", "--", "hostname") == "h1\n"
    assert meshagent_lab("ssh", *which, "h2", "hostname") == "h2\n"
    meshagent_lab("exec", *which, "h1", "sh", "-c", "exit 3", status=3)
    rows = json.loads(meshagent_lab("list", *which, "--output", "json"))
    assert [(row["name"], row["state"]) for row in rows] == [("h1", "running"), ("h2", "running")]
    meshagent_lab("reboot", *which, "--legacy", "h1", status=2)


def test_a_partition_cuts_both_ways_and_heals(pair: Lab) -> None:
    one, other = pair.host("h1"), pair.host("h2")

    def hears(host: str) -> bool:
        return pair.host("h1" if host == "h2" else "h2").run(["ping", "-c1", "-W1", host]).returncode == 0

    assert hears("h2")
    pair.partition(["h1"])
    try:
        assert not hears("h2")
        assert not hears("h1")
        assert pair.status()[0].cut_off_from == ("h2",)
        assert one.run("true").returncode == other.run("true").returncode == 0
        assert subprocess.run([*pair.ssh("h1"), "true"], timeout=20).returncode == 0  # the machine reaches all
    finally:
        pair.heal()
    assert hears("h2")


def test_a_firewall_of_a_hosts_own_touches_no_other(pair: Lab) -> None:
    machine_before = machine.run(("nft", "list", "ruleset"))
    pair.host("h1").run("nft add table inet own && nft list table inet own", check=True)
    assert "own" not in pair.host("h2").run(["nft", "list", "ruleset"]).stdout
    assert machine.run(("nft", "list", "ruleset")) == machine_before


def test_two_labs_stand_side_by_side_and_one_goes_without_the_other(pair: Lab, places: Places) -> None:
    other = Lab("other", places)
    try:
        other.up(1)
        assert other.layout.network != pair.layout.network
        assert set(labs(places)) >= {"other", pair.name}
    finally:
        other.down()
    assert left_of("other", places) == []
    assert pair.host("h1").run("true").returncode == 0


def test_up_again_starts_what_is_off_and_adds_what_is_missing(places: Places) -> None:
    lab = Lab("again", places)
    try:
        lab.up(1)
        lab.host("h1").write("/root/note", "kept")
        lab.host("h1").cut_power()
        assert lab.host("h1").state == "off"
        with pytest.raises(LabError, match="h1 of lab again is off: meshagent lab up --name again"):
            lab.host("h1").run("true")
        lab.up(2)
        assert [host.state for host in lab.hosts] == ["running", "running"]
        assert lab.host("h1").read("/root/note") == "kept"
        assert "h2" in lab.host("h1").read("/etc/hosts")
    finally:
        lab.down()
    assert left_of("again", places) == []


def test_a_lab_goes_with_its_process_even_when_that_is_killed(places: Places) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(places.state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert left_of(name, places) != []
        owner.kill()
    deadline = time.monotonic() + _LIMIT
    while left := left_of(name, places):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_an_up_that_was_killed_is_completed_by_the_next(places: Places) -> None:
    lab = Lab("half", places)
    up = "import sys; from pathlib import Path; from meshagent.lab import Lab, Places; Lab('half', Places(Path(sys.argv[1]))).up(2)"
    try:
        with subprocess.Popen([sys.executable, "-c", up, str(places.state)]) as process:
            deadline = time.monotonic() + _LIMIT
            while not any(cgroups.hosts_left("half")):  # the first host of two is being started
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.kill()
        lab.up()
        assert [host.state for host in lab.hosts] == ["running", "running"]
        assert lab.host("h1").run(["ping", "-c1", "-W2", "h2"]).returncode == 0
    finally:
        lab.down()
    assert left_of("half", places) == []


def test_what_lost_its_record_is_taken_down_all_the_same(places: Places) -> None:
    lab = Lab("lost", places)
    try:
        lab.up(1)
        (lab.directory / "lab.json").unlink()
    finally:
        lab.down()
    assert left_of("lost", places) == []


def test_the_root_file_system_is_built_once(pair: Lab, places: Places) -> None:
    root = Path(json.loads((pair.directory / "lab.json").read_text())["root"])
    assert root.parent == places.cache
    assert not (root / "root/note").exists()  # hosts write to disks of their own
