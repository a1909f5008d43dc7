"""Versions of Envoy that fail beside the one that serves, on real hosts, with requests of every kind running through all of it.

tests/hosts/test_drains.py has the one that crashes at its start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshagent.demo.hosts import HostMesh, until
from tests.hosts.watching import Placed, failed_units, flowing, load, tidy

pytestmark = pytest.mark.lab

OTHER, GOOD = "1.43.0", "1.40.0"
# A real Envoy, of which a part is switched off: it takes its bootstrap, and then refuses what names that part.
WITHOUT = f"""#!/bin/sh
exec /var/lib/meshagent/envoys/{GOOD}/envoy --disable-extensions %s "$@"
"""
TCP = "envoy.filters.network/envoy.filters.network.tcp_proxy"
TLS = "envoy.transport_sockets.upstream/envoy.transport_sockets.tls"
PREDICATE = "envoy.retry_host_predicates/envoy.retry_host_predicates.previous_hosts"
FAULTS = {
    "hangs": ('#!/bin/sh\n[ "$1" = --mode ] && exit 0\nexec sleep 600\n', "it hung: nothing was heard of it"),
    "refuses-listeners": (WITHOUT % TCP, "it refused"),
    "refuses-clusters": (WITHOUT % TLS, "it refused"),
    "refuses-routes": (WITHOUT % PREDICATE, "it refused"),
}
TRIAL_SECONDS = 60.0  # so long one may be silent


@pytest.mark.parametrize("fault", FAULTS)
def test_h4_a_version_that_fails_is_ended_its_host_marked_and_the_rollout_stopped(mesh: HostMesh, fault: str) -> None:
    """The first host of three tries it; its Envoy from before is the same process, and no request fails. The one on trial has
    taken none, whatever it refuses, although its listeners share the ports of the one that serves."""
    program, words = FAULTS[fault]
    for host in mesh.hosts:
        host.write(f"/var/lib/meshagent/envoys/{OTHER}/envoy", program, 0o755)
    web = Placed(mesh.host("h1"), "web")
    before, unit, pid = running(mesh), web.unit, web.pid
    try:
        with load(mesh) as oracle:
            mesh.meshctl("envoy", "install", OTHER, "--sha256", "0" * 64)
            mesh.meshctl("envoy", "use", OTHER, "--all")
            until("the rollout to stop", lambda: policy(mesh)["state"] == "stopped", TRIAL_SECONDS + 120, every=0.5)
            assert "h1: mesh/shop/virtualNode/web" in policy(mesh)["stopped"]
            assert words in policy(mesh)["stopped"]
            assert [one["state"] for one in listed(mesh)["hosts"]] == ["failed", "pending", "pending"]
            assert words in mesh.meshctl("envoy", "list")
            assert running(mesh) == before
            until("the one on trial to be gone", lambda: tidy(web.host))
            flowing(oracle)
            assert oracle.failed() == []
            assert (web.unit, web.pid, web.live()) == (unit, pid, [pid])
            assert all(not tried(mesh, name) for name in ("h2", "h3"))
    finally:
        mesh.meshctl("envoy", "use", "own", "--all")
        until("all to be as before", lambda: policy(mesh)["state"] == "done", seconds=120, every=0.5)
        mesh.meshctl("envoy", "forget", OTHER)
        for host in mesh.hosts:
            host.run(["rm", "-r", f"/var/lib/meshagent/envoys/{OTHER}"])
    mesh.in_sync()
    assert failed_units(mesh) == []


def listed(mesh: HostMesh) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(mesh.meshctl("envoy", "list", "-o", "json"))
    return answer


def policy(mesh: HostMesh) -> dict[str, Any]:
    found: dict[str, Any] = listed(mesh)["policies"][0]
    return found


def running(mesh: HostMesh) -> dict[str, list[str]]:
    return {one["host"]: one["running"] for one in listed(mesh)["hosts"]}


def tried(mesh: HostMesh, name: str) -> str:
    """What a host's journal says of that version."""
    read = ["journalctl", "-b", "-u", "meshagent-agent", "-o", "cat", f"--grep=Envoy {OTHER.replace('.', '[.]')} "]
    return mesh.host(name).run(read).stdout
