"""Fresh hosts become a mesh by the roles, and a second run finds nothing to do."""

from __future__ import annotations

import time

import pytest

from meshagent.demo.hosts import HostMesh, until

pytestmark = pytest.mark.lab


def test_p1_a_second_run_changes_nothing(mesh: HostMesh) -> None:
    assert mesh.deploy() == 0


def test_hosts_call_each_other_over_mutual_tls(mesh: HostMesh) -> None:
    with mesh.oracle("h1") as oracle:
        mesh.start_traffic(oracle)
        until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
        until("streams and connections", lambda: all(load.ok > 50 for load in oracle.loads().values()))
        loads = oracle.loads()
        assert oracle.failed() == []
    assert set(loads["catalog"].answers) == {"catalog-h2", "catalog-h3"}
    assert all("URI=spiffe://mesh.local/mesh/shop/virtualNode/web" in caller for caller in loads["catalog"].callers)


def test_hosts_have_no_secret_that_others_can_read(mesh: HostMesh) -> None:
    """The token and every private key, of every host."""
    for host in mesh.hosts:
        found = host.run(
            "find /etc/meshagent/join-token /var/lib/meshagent -name '*token' -o -name '*key*.pem'"
        ).stdout.split()
        assert "/etc/meshagent/join-token" in found
        assert any(path.endswith("key.pem") for path in found)
        modes = host.run(["stat", "-c", "%a", *found], check=True).stdout.split()
        assert set(modes) <= {"600", "400"}, dict(zip(found, modes, strict=True))


def test_the_servers_unit_is_hardened_and_returns_when_killed(mesh: HostMesh) -> None:
    exposure = mesh.server.run(["systemd-analyze", "security", "--no-pager", "meshagent-server.service"]).stdout
    assert float(exposure.split("meshagent-server.service:")[1].split()[0]) <= 2.0
    before = mesh.server.run(["systemctl", "show", "-P", "MainPID", "meshagent-server"]).stdout.strip()
    began = time.monotonic()
    mesh.server.run(["systemctl", "kill", "-s", "KILL", "meshagent-server"], check=True)

    def back() -> bool:
        shown = mesh.server.run("systemctl show -P MainPID -P ActiveState meshagent-server").stdout.split()
        return shown[0] not in (before, "0") and shown[1] == "active"

    until("the server to be back", back)
    mesh.in_sync(seconds=30)
    assert time.monotonic() - began < 30
