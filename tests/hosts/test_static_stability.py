"""What a host does with its servers away, and how fast the mesh turns from what does not serve. Figures are printed (pytest -s)."""

from __future__ import annotations

import json
import threading
import time
from functools import partial

import pytest

from meshagent.demo.hosts import HostMesh, until
from meshagent.demo.oracle import RemoteOracle
from meshagent.demo.traffic import TIMEOUT

pytestmark = pytest.mark.lab

BOOT_SECONDS = 30.0
# Two probes, each with its interval and its time, and what it takes to tell the other hosts' Envoys.
TOLD_SECONDS = 3.0
PROBES_SECONDS = 2 * (1.0 + 1.0)
LEASE_SECONDS = 5.0  # inventories/lab.py
SERVER_OPTIONS = "/etc/meshagent/server.env"


def answers(oracle: RemoteOracle, service: str = "catalog") -> dict[str, int]:
    return dict(oracle.loads()[service].answers)


@pytest.mark.parametrize("rebooted", ["h2", "h1"])
def test_c3_a_host_that_boots_with_every_server_away_serves_from_its_disk(mesh: HostMesh, rebooted: str) -> None:
    """h2 answers others, h1 calls others."""
    host = mesh.host(rebooted)
    address = mesh.address("catalog")
    mesh.server.run(["systemctl", "stop", "meshagent-server"], check=True)
    before = host.boot_id
    began: list[float] = []

    def first_sign() -> None:
        until("another boot", lambda: host.boot_id not in ("", before), every=0.02)
        began.append(time.monotonic())

    watching = threading.Thread(target=first_sign)
    watching.start()
    host.reboot(hard=True)
    watching.join()
    with mesh.oracle("h1") as oracle:
        oracle.http("catalog", address, 8080, rate=50, fresh=1.0)
        wanted = {"catalog-h2", "catalog-h3"} if rebooted == "h1" else {"catalog-h2"}
        until("its services to be reached", lambda: wanted <= set(answers(oracle)), every=0.02)
        took = time.monotonic() - began[0]
    print(f"\nC3: {rebooted} serves {took:.1f} s after its boot began, with every server away")
    assert took <= BOOT_SECONDS
    said = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
    assert said["managementServerConnectionStatus"] == "NOT_CONNECTED"
    assert said["staleSince"] is not None and said["staleSince"] < time.time()
    assert {one["sync"] for one in said["proxies"]} == {"stale"}
    assert "stale since" in host.run(["meshagent", "status"], check=True).stdout


@pytest.mark.parametrize(
    ("fault", "undo"),
    [
        ("systemctl stop shop-catalog", "systemctl start shop-catalog"),
        ("systemctl kill -s STOP shop-catalog", "systemctl kill -s CONT shop-catalog"),
        ("systemctl kill -s USR1 shop-catalog", "systemctl kill -s USR2 shop-catalog"),
    ],
    ids=["dies", "hangs", "returns-500"],
)
def test_d1_an_application_that_does_not_serve_is_out_of_rotation(mesh: HostMesh, fault: str, undo: str) -> None:
    """No request fails that was sent later than two probes and three seconds after the fault."""
    host = mesh.host("h2")
    with mesh.oracle("h1") as oracle:
        oracle.http("catalog", mesh.address("catalog"), 8080, rate=100)
        until("both to answer", lambda: len(answers(oracle)) == 2)
        assert oracle.failed() == []
        host.run(fault, check=True)
        began = time.monotonic()
        try:
            out = partial(has_health, mesh, str(host.address), "unhealthy")
            until("its endpoint to be out of rotation", out, every=0.05)
            limit = began + PROBES_SECONDS + TOLD_SECONDS
            until("requests after that to have come to something", partial(past, limit + TIMEOUT + 2), seconds=40)
            until("what waits to have ended", lambda: oracle.loads()["catalog"].in_flight < 10)
            last = max((at - began for at, _ in oracle.loads()["catalog"].failures), default=0.0)
            print(
                f"\nD1: the last request that failed was sent {last:.1f} s after the fault, of {len(oracle.failed())}"
            )
            assert oracle.failed(limit) == []
        finally:
            host.run(undo, check=True)
        until("it to be back", partial(has_health, mesh, str(host.address), "healthy"))


def past(moment: float) -> bool:
    return time.monotonic() > moment


def has_health(mesh: HostMesh, address: str, health: str) -> bool:
    return endpoint_health(mesh, address) == health


def endpoint_health(mesh: HostMesh, address: str) -> str:
    """Of the catalog there; "" when it is no endpoint."""
    found = json.loads(mesh.meshctl("endpoints", "--output", "json"))["endpoints"]
    catalog = [one for one in found if one["node"].endswith("/catalog") and one["address"] == address]
    return str(catalog[0]["health"]) if catalog else ""


def test_d2_a_host_that_vanishes_leaves_within_two_leases(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    with mesh.oracle("h1") as oracle:
        oracle.http("catalog", mesh.address("catalog"), 8080, rate=100, fresh=1.0)
        until("both to answer", lambda: len(answers(oracle)) == 2)
        mesh.lab.partition([host.name])  # open connections are cut without a word
        began = time.monotonic()
        until(
            "its endpoint to leave",
            partial(has_health, mesh, str(host.address), ""),
            seconds=2 * LEASE_SECONDS,
            every=0.05,
        )
        took = time.monotonic() - began
        print(f"\nD2: the endpoint of a vanished host leaves after {took:.1f} s, its lease is {LEASE_SECONDS:g} s")
        mesh.lab.heal()
        until("it to be back", partial(has_health, mesh, str(host.address), "healthy"))


OUTLIERS = """
kind: VirtualNode
meshName: shop
virtualNodeName: catalog
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
      outlierDetection:
        {maxServerErrors: 5, interval: {value: 1, unit: s}, baseEjectionDuration: {value: 30, unit: s}, maxEjectionPercent: 50}
  serviceDiscovery:
    dns: {hostname: catalog.shop.internal}
"""
LONG_LEASE = 60
EJECTED_SECONDS = 5.0  # five connections that time out after a second each, at once, and a busy machine


def test_d2_outlier_detection_turns_from_a_vanished_host_before_its_lease_ends(mesh: HostMesh) -> None:
    """The lease is a minute long, so that it is still there when the caller's own Envoy has had enough of the host. What fails was sent
    before: it waits on connections that were open, or for one that is not answered."""
    host = mesh.host("h2")
    options = mesh.server.read(SERVER_OPTIONS)
    shop = mesh.server.run("cat /opt/shop/applied.yaml", check=True).stdout
    try:
        mesh.server.write(SERVER_OPTIONS, options.replace("--lease-seconds 5", f"--lease-seconds {LONG_LEASE}"))
        mesh.server.run(["systemctl", "restart", "meshagent-server"], check=True)
        mesh.server.write("/tmp/outliers.yaml", OUTLIERS)
        mesh.meshctl("apply", "/tmp/outliers.yaml")
        mesh.in_sync()
        with mesh.oracle("h1") as oracle:
            oracle.http("catalog", mesh.address("catalog"), 8080, rate=100, fresh=1.0)
            until("both to answer", lambda: len(answers(oracle)) == 2)
            assert oracle.failed() == []
            began = time.monotonic()
            mesh.lab.partition([host.name])
            until("requests later than that to have ended", partial(past, began + EJECTED_SECONDS + TIMEOUT + 2), 30)
            sent = [at - began for at, _ in oracle.loads()["catalog"].failures]
            print(f"\nD2: {len(sent)} failed, the last sent {max(sent, default=0.0):.1f} s after the host vanished")
            assert ejected(mesh) == 1
            assert oracle.failed(began + EJECTED_SECONDS) == []
            assert endpoint_health(mesh, str(host.address)) == "healthy", "its lease has not ended"
    finally:
        mesh.lab.heal()
        mesh.server.write("/tmp/shop.yaml", shop)
        mesh.meshctl("apply", "/tmp/shop.yaml")
        mesh.server.write(SERVER_OPTIONS, options)
        mesh.server.run(["systemctl", "restart", "meshagent-server"], check=True)
        mesh.in_sync()


def ejected(mesh: HostMesh) -> int:
    """How many endpoints of catalog h1's Envoy has ejected."""
    filtered = "http://envoy/stats?filter=shop_catalog.*outlier_detection.ejections_active"
    asked = f"curl -sg --unix-socket /run/meshagent/*/admin.sock '{filtered}'"
    return int(mesh.host("h1").run(asked, check=True).stdout.rpartition(":")[2])
