"""What the mesh does while its only server is dead or hangs, on real hosts, with the traffic oracle running through all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshagent.demo.hosts import HostMesh, until
from meshagent.demo.oracle import RemoteOracle

pytestmark = pytest.mark.lab

# Leases are 5 s there, connections to the server are given up after 10 s, and the longest pause between attempts is 5 s.
THREE_TIMES_EVERY_TIMER = 30.0


@contextmanager
def load(mesh: HostMesh) -> Iterator[RemoteOracle]:
    with mesh.oracle("h1") as oracle:
        mesh.start_traffic(oracle, rate=200)
        until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
        flowing(oracle)
        yield oracle


def flowing(oracle: RemoteOracle, requests: int = 100) -> None:
    """Every load has that many more successes."""
    goals = {name: one.ok + requests for name, one in oracle.loads().items()}
    until(
        f"{requests} more successes of each load",
        lambda: all(one.ok >= goals[name] for name, one in oracle.loads().items()),
    )


def for_at_least(seconds: float, oracle: RemoteOracle) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        flowing(oracle, 20)


def sent(mesh: HostMesh) -> dict[str, int]:
    """How many resources the server that runs now has sent to each proxy."""
    return {f"{one['host']} {one['resource']}": one["sent"] for one in mesh.proxies()}


def test_c1_the_only_server_is_dead_for_longer_than_every_timer(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        mesh.server.run("systemctl kill -s KILL meshagent-server; systemctl stop meshagent-server", check=True)
        for_at_least(THREE_TIMES_EVERY_TIMER, oracle)
        assert oracle.failed() == []

        # An application dies meanwhile: its caller's Envoy finds out by itself.
        mesh.host("h2").run("systemctl stop shop-catalog", check=True)
        try:
            until("h3 alone to answer without a failure for a while", lambda: calm(oracle))
            settled = time.monotonic()
            flowing(oracle, 300)
            assert oracle.failed(settled) == []
        finally:
            mesh.host("h2").run("systemctl start shop-catalog", check=True)

        back = time.monotonic()
        mesh.server.run("systemctl start meshagent-server", check=True)
        mesh.in_sync(30)
        print(f"\nC1: in sync {time.monotonic() - back:.1f} s after the server's return")
        resent = sent(mesh)
        # The caller hears that the application is well again, if it was not when the server came back; nobody hears what they hold.
        assert sum(resent.values()) <= 2, resent
        assert all(number == 0 for name, number in resent.items() if not name.endswith("/web")), resent
        flowing(oracle)
        assert oracle.failed(settled) == []


def calm(oracle: RemoteOracle) -> bool:
    """Two seconds of answers, none of them by h2 and none a failure."""
    before, began = oracle.loads()["catalog"].answers, time.monotonic()
    flowing(oracle, 40)
    for_at_least(2.0 - (time.monotonic() - began), oracle)
    after = oracle.loads()["catalog"].answers
    return after["catalog-h2"] == before["catalog-h2"] and not oracle.failed(began)


def test_c6_a_server_that_hangs_is_given_up_and_hosts_boot_without_it(mesh: HostMesh) -> None:
    """It goes on taking connections, and says nothing."""
    with load(mesh) as oracle:
        mesh.server.run("systemctl kill -s STOP meshagent-server", check=True)
        # Its watchdog would end it: that is another fault.
        mesh.server.run("systemctl service-watchdogs no", check=True)
        try:
            h3 = mesh.host("h3")
            until("agents to notice", lambda: contact(mesh, "h3") == "NOT_CONNECTED")
            assert oracle.failed() == []
            h3.reboot(hard=True)
            until("its Envoy to be live from its disk", lambda: live(mesh, "h3"))
            assert contact(mesh, "h3") == "NOT_CONNECTED"
            rebooted = time.monotonic()
            flowing(oracle, 200)
            until("h3 to answer", lambda: calls_reach(oracle, "catalog-h3"))
            assert rebooted < time.monotonic()
        finally:
            mesh.server.run("systemctl kill -s CONT meshagent-server; systemctl service-watchdogs yes", check=True)
        mesh.in_sync(60)
        settled = time.monotonic()
        flowing(oracle, 200)
        assert oracle.failed(settled) == []


def calls_reach(oracle: RemoteOracle, name: str) -> bool:
    before = oracle.loads()["catalog"].answers[name]
    flowing(oracle, 20)
    return oracle.loads()["catalog"].answers[name] > before


def status(mesh: HostMesh, host: str) -> dict[str, object]:
    said: dict[str, object] = json.loads(mesh.host(host).run(["meshagent", "status", "--output", "json"]).stdout)
    return said


def contact(mesh: HostMesh, host: str) -> object:
    return status(mesh, host)["managementServerConnectionStatus"]


def live(mesh: HostMesh, host: str) -> bool:
    proxies = status(mesh, host)["proxies"]
    assert isinstance(proxies, list)
    return bool(proxies) and all(one["envoyState"] == "LIVE" for one in proxies)
