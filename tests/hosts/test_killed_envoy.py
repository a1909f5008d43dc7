"""Envoys that are killed, alone or with their agent, on real hosts: how soon they are back, and what callers see meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshagent.demo.hosts import HostMesh, until
from tests.hosts.watching import CALLER, Placed, calm, failed_units, flowing, load

pytestmark = pytest.mark.lab

AGENT = "meshagent-agent.service"
# So soon a caller's Envoy knows that a connection was reset, on a busy machine.
LOST_SECONDS = 1.0
BACK_SECONDS, BOTH_BACK_SECONDS = 2.0, 5.0
# On the host itself, where asking takes a hundredth of a second: kills, and waits until Envoy says at the same socket that it serves.
# Prints both moments of time.monotonic(), which all processes of a machine share.
KILL = """
import os, signal, socket, sys, time
path, *pids = sys.argv[1:]
began = time.monotonic()
for pid in pids:
    os.kill(int(pid), signal.SIGKILL)
while os.path.exists(f"/proc/{pids[0]}/fd/0"):
    time.sleep(0.001)
while time.monotonic() < began + 30:
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(0.5)
            admin.connect(path)
            admin.sendall(b"GET /ready HTTP/1.1\\r\\nhost: envoy\\r\\nconnection: close\\r\\n\\r\\n")
            if b" 200 " in admin.recv(64):
                break
    except OSError:
        pass
    time.sleep(0.01)
print(began, time.monotonic())
"""
# As an App Mesh user writes it who wants requests to be tried again that were reset: App Mesh's default policy leaves them.
RETRIED = """
kind: VirtualRouter
meshName: shop
virtualRouterName: catalog
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: Route
meshName: shop
virtualRouterName: catalog
routeName: all
spec:
  httpRoute:
    match: {prefix: /}
    action: {weightedTargets: [{virtualNode: catalog, weight: 1}]}
    retryPolicy:
      maxRetries: 3
      perRetryTimeout: {value: 5, unit: s}
      httpRetryEvents: [gateway-error, stream-error]
      tcpRetryEvents: [connection-error]
---
kind: VirtualService
meshName: shop
virtualServiceName: catalog.shop.internal
spec: {provider: {virtualRouter: {virtualRouterName: catalog}}}
"""
DIRECT = """
kind: VirtualService
meshName: shop
virtualServiceName: catalog.shop.internal
spec: {provider: {virtualNode: {virtualNodeName: catalog}}}
"""


def kill(placed: Placed, *others: int) -> tuple[float, float]:
    """Kills its Envoy, and these processes of its host; the moments of that and of when the next one serves."""
    state = placed.state()
    socket = f"/run/meshagent/{state['placement']}-{state['generation']}/admin.sock"
    pids = [str(pid) for pid in (placed.pid, *others)]
    printed = placed.host.run(["python3", "-c", KILL, socket, *pids], check=True).stdout
    began, back = map(float, printed.split())
    return began, back


@contextmanager
def retried(mesh: HostMesh) -> Iterator[None]:
    """Requests to catalog take a route that tries them again when they were reset."""
    mesh.server.write("/tmp/retried.yaml", RETRIED)
    mesh.server.write("/tmp/direct.yaml", DIRECT)
    mesh.meshctl("apply", "/tmp/retried.yaml")
    try:
        mesh.in_sync()
        yield
    finally:
        mesh.meshctl("apply", "/tmp/direct.yaml")
        mesh.meshctl("delete", "mesh/shop/virtualRouter/catalog/route/all")
        mesh.meshctl("delete", "mesh/shop/virtualRouter/catalog")
        mesh.in_sync()


@pytest.mark.parametrize("what", ["envoy", "envoy-and-agent"])
def test_h2_callers_on_other_hosts_that_may_retry_see_nothing_of_a_killed_envoy(mesh: HostMesh, what: str) -> None:
    """With a route that retries resets and failed connections, as gateway-error and connection-error do, no request fails: the answers
    are small, so that none has begun to arrive when its Envoy dies. (One that has begun cannot be had again from another host.)"""
    catalog = Placed(mesh.host("h2"), "catalog")
    with retried(mesh), load(mesh) as oracle:
        began, back = kill(catalog, *agents(catalog, what))
        print(f"\nH2: {what} killed, Envoy serves again after {back - began:.2f} s")
        assert back - began < (BACK_SECONDS if what == "envoy" else BOTH_BACK_SECONDS)
        flowing(oracle, 400)
        assert [words for words in oracle.failed() if words.startswith("catalog")] == []
        calm(mesh, oracle, back)
    assert failed_units(mesh) == []


def test_h2_by_default_only_what_was_in_flight_on_the_killed_envoy_fails(mesh: HostMesh) -> None:
    """App Mesh's default policy retries connections that failed, and not what was reset: that is lost with the process that had it."""
    catalog = Placed(mesh.host("h2"), "catalog")
    with load(mesh) as oracle:
        began, _ = kill(catalog)
        flowing(oracle, 400)
        failed = [words for words in oracle.failed() if words.startswith("catalog")]
        print(f"\nH2: {len(failed)} requests failed with the Envoy that had them")
        assert all("status 503" in words for words in failed), failed
        assert oracle.failed(began + LOST_SECONDS) == []


@pytest.mark.parametrize("what", ["envoy", "envoy-and-agent"])
def test_h2_on_the_host_of_a_killed_envoy_nothing_fails_once_it_is_back(mesh: HostMesh, what: str) -> None:
    """Calls of h1's own applications have no way but its Envoy: of every kind of request, none fails that is sent two seconds later, or
    five where the agent was killed, too."""
    web = Placed(mesh.host(CALLER), "web")
    with load(mesh) as oracle:
        began, back = kill(web, *agents(web, what))
        limit = BACK_SECONDS if what == "envoy" else BOTH_BACK_SECONDS
        print(f"\nH2: {what} killed, Envoy serves again after {back - began:.2f} s")
        assert back - began < limit
        calm(mesh, oracle, began + limit)
    assert failed_units(mesh) == []


def test_h2_an_envoy_that_is_killed_right_after_an_upgrade_is_back_as_the_new_one(mesh: HostMesh) -> None:
    catalog = Placed(mesh.host("h2"), "catalog")
    before, other = catalog.state(), "1.39.3"
    assert before["version"] != other
    try:
        mesh.meshctl("envoy", "use", other, "--host", "h2")
        until(
            "the new one to serve",
            lambda: catalog.state()["generation"] != before["generation"],
            seconds=120,
            every=0.02,
        )
        began, back = kill(catalog)
        assert back - began < BACK_SECONDS
        assert catalog.state()["version"] == other
        until("the upgrade to be over", lambda: versions(mesh) == [other], seconds=120, every=0.5)
    finally:
        mesh.meshctl("envoy", "unset", "--host", "h2")
        until("the one from before", lambda: versions(mesh) == [str(before["version"])], seconds=120, every=0.5)
    mesh.in_sync()
    assert failed_units(mesh) == []


def agents(placed: Placed, what: str) -> list[int]:
    return [int(placed.show("MainPID", unit=AGENT)[0])] if what == "envoy-and-agent" else []


def versions(mesh: HostMesh) -> list[str]:
    listed = json.loads(mesh.meshctl("envoy", "list", "-o", "json"))["hosts"]
    found: list[str] = next(one["running"] for one in listed if one["host"] == "h2")
    return found
