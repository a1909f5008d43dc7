"""The kernel ends an agent for want of memory, on a real host; what it serves goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.lab import Host

pytestmark = pytest.mark.lab

AGENT = "meshagent-agent.service"
TOO_LITTLE = "65536"
CONTROLLER = Path("/sys/fs/cgroup/memory")  # version 1, whose groups need not follow systemd's tree


def main_pid(host: Host, unit: str) -> int:
    """As the host counts."""
    return int(host.run(["systemctl", "show", "--property=MainPID", "--value", unit], check=True).stdout)


def outside(host: Host, pid: int) -> int:
    """The same process as this machine counts."""
    namespace = Path(f"/proc/{host.pid}/ns/pid").readlink()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if (status.parent / "ns/pid").readlink() != namespace:
                continue
            numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()
        except (OSError, StopIteration):
            continue  # it ended meanwhile
        if int(numbers[-1]) == pid:
            return int(numbers[1])
    raise LookupError(f"no process {pid} in {host}")


@contextmanager
def group(name: str) -> Iterator[Path]:
    if not (CONTROLLER / "memory.limit_in_bytes").exists() or not os.access(CONTROLLER, os.W_OK):
        pytest.skip(f"needs the memory controller at {CONTROLLER}: this machine's is elsewhere")
    path = CONTROLLER / name
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


def kills(path: Path) -> int:
    lines = dict(line.split() for line in (path / "memory.oom_control").read_text().splitlines())
    return int(lines["oom_kill"])


def test_h6_an_agent_that_the_kernel_ends_for_want_of_memory_returns_and_envoy_lives(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    envoys = host.run("pgrep -x envoy", check=True).stdout.split()
    agent = main_pid(host, AGENT)
    of_agent = int(host.run(["cat", f"/proc/{agent}/oom_score_adj"], check=True).stdout)
    of_envoys = {int(host.run(["cat", f"/proc/{each}/oom_score_adj"], check=True).stdout) for each in envoys}
    # A host of the lab may not spare its processes more than the machine does; a real one does as the unit says.
    assert of_agent > 0 >= max(of_envoys)
    with mesh.oracle("h1") as oracle, group(f"meshagent-{mesh.lab.name}-h6") as limited:
        oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=150)
        until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2, seconds=30)
        (limited / "memory.limit_in_bytes").write_text(TOO_LITTLE)
        (limited / "cgroup.procs").write_text(f"{outside(host, agent)}\n")
        until("the kernel to end the agent", lambda: kills(limited) >= 1, seconds=60)
        until("another agent", lambda: main_pid(host, AGENT) not in (0, agent), seconds=20)
        mesh.in_sync()
        assert host.run("pgrep -x envoy", check=True).stdout.split() == envoys
        goal = oracle.loads()["catalog"].ok + 100
        until("more answers", lambda: oracle.loads()["catalog"].ok >= goal, seconds=30)
        assert oracle.failed() == []
