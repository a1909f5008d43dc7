"""An agent comes to the limit of its unit's memory, on a real host; what it serves goes on."""

from __future__ import annotations

import time

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.lab import Host, cgroups
from tests.hosts.watching import flowing

pytestmark = pytest.mark.lab

AGENT = "meshagent-agent.service"
GROUP = f"/sys/fs/cgroup/memory/system.slice/{AGENT}"
# Fills the memory that the unit may have, but for what its agent takes: pages of files that stay in memory count for whoever wrote them. Of
# the unit's processes the kernel ends the largest, with what OOMScoreAdjust= adds to it: not this shell.
BALLAST = f"""
echo $$ > {GROUP}/cgroup.procs || exit 1
for i in $(seq 1000); do
  [ "$(sed -n 's/^oom_kill //p' {GROUP}/memory.oom_control)" = 0 ] || exit 0
  head -c 4M /dev/zero > /dev/shm/ballast-$i || exit 0
done"""


def main_pid(host: Host, unit: str) -> int:
    return int(host.run(["systemctl", "show", "--property=MainPID", "--value", unit], check=True).stdout)


def score(host: Host, pid: int | str) -> int:
    return int(host.run(["cat", f"/proc/{pid}/oom_score_adj"], check=True).stdout)


def test_h6_an_agent_that_its_units_memory_limit_ends_returns_and_envoy_lives(mesh: HostMesh) -> None:
    """The limit is the unit's MemoryMax= as it is shipped. The host boots with cgroup v1, where it has a memory controller to keep it."""
    host = mesh.host("h2")
    if not cgroups.HostGroup(mesh.lab.name, host.name).has_memory_controller:
        pytest.skip("a lab's host limits memory only where this machine's memory controller is version 1's")
    host.reboot(hard=True, legacy=True)
    try:
        mesh.in_sync()
        envoys = host.run("pgrep -x envoy", check=True).stdout.split()
        agent = main_pid(host, AGENT)
        limit = int(host.run(["systemctl", "show", "-P", "MemoryMax", AGENT], check=True).stdout)
        assert int(host.read(f"{GROUP}/memory.limit_in_bytes")) == limit == 512 << 20
        # A host of the lab may not spare its processes more than the machine does; a real one does as the unit says.
        assert score(host, agent) > 0 >= max(score(host, each) for each in envoys)
        with mesh.oracle("h1") as oracle:
            oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=150)
            until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
            host.run(BALLAST, limit=120, check=True)
            began = time.monotonic()
            host.run("rm -f /dev/shm/ballast-*", check=True)
            until("another agent", lambda: main_pid(host, AGENT) not in (0, agent))
            said = host.run(["journalctl", "-b", "-u", AGENT, "-o", "cat"]).stdout
            assert "Main process exited, code=killed, status=9/KILL" in said
            mesh.in_sync()
            print(f"\nH6: in sync {time.monotonic() - began:.1f} s after the kernel ended the agent")
            assert host.run("pgrep -x envoy", check=True).stdout.split() == envoys
            flowing(oracle, 100)
            assert oracle.failed() == []
        assert host.failed_units() == []
    finally:
        host.reboot(hard=True)
