"""Hosts whose address or name changes under a running agent, on real hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until

pytestmark = pytest.mark.lab

LEASE_SECONDS = 5.0  # inventories/lab.py
CONFIGURATION = "/etc/meshagent/agent.yaml"


def addresses(mesh: HostMesh, host: str) -> set[str]:
    """Of the host's endpoints that are healthy."""
    found = json.loads(mesh.meshctl("endpoints", "--output", "json"))["endpoints"]
    return {one["address"] for one in found if one["host"] == host and one["health"] == "healthy"}


@contextmanager
def configured(mesh: HostMesh, host: str, address: str | None) -> Iterator[None]:
    """The host's agent with that address in its configuration, or with none."""
    machine = mesh.host(host)
    before = machine.read(CONFIGURATION)
    lines = [line for line in before.splitlines() if not line.startswith("  address:")]
    if address is not None:
        lines.insert(lines.index("host:") + 1, f"  address: '{address}'")
    try:
        machine.write(CONFIGURATION, "\n".join(lines) + "\n")
        machine.run("systemctl restart meshagent-agent", check=True)
        yield
    finally:
        machine.write(CONFIGURATION, before)
        machine.run("systemctl restart meshagent-agent", check=True)
        mesh.in_sync()


def device(mesh: HostMesh, host: str) -> str:
    links = json.loads(mesh.host(host).run("ip -j -4 address show scope global", check=True).stdout)
    return str(links[0]["ifname"])


def test_h10_another_address_is_registered_and_the_old_one_is_gone_within_a_lease(mesh: HostMesh) -> None:
    host, link = mesh.host("h3"), device(mesh, "h3")
    old, new = str(host.address), str(host.address + 100)
    move = "ip address del {0}/24 dev {2} && ip address add {1}/24 dev {2} && ip route replace default dev {2}"
    host.run(f"ip route replace default dev {link}", check=True)
    try:
        with configured(mesh, "h3", None), mesh.oracle("h1") as oracle:
            until("h3 to be found at its address", lambda: addresses(mesh, "h3") == {old})
            oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100, fresh=1.0)
            until("h3 to answer", lambda: oracle.loads()["catalog"].answers.get("catalog-h3"))
            try:
                host.run(move.format(old, new, link), check=True)
                began = time.monotonic()
                until("the old address to go", lambda: old not in addresses(mesh, "h3"), seconds=2 * LEASE_SECONDS)
                gone = time.monotonic() - began
                until("the new one to be there", lambda: addresses(mesh, "h3") == {new})
                print(
                    f"\nH10: the old address is gone after {gone:.1f} s, the new one is there after {time.monotonic() - began:.1f} s"
                )
                before = oracle.loads()["catalog"].answers["catalog-h3"]
                until("h3 to answer there", lambda: oracle.loads()["catalog"].answers["catalog-h3"] > before)
                settled = time.monotonic()
                goal = oracle.loads()["catalog"].ok + 300
                until("300 more answers", lambda: oracle.loads()["catalog"].ok >= goal)
                assert oracle.failed(settled) == []
            finally:
                host.run(move.format(new, old, link), check=True)
    finally:
        host.run("ip route del default")


def test_h10_a_host_that_is_renamed_goes_on_as_who_it_joined_as(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    try:
        with mesh.oracle("h1") as oracle:
            mesh.start_traffic(oracle)
            until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
            assert oracle.failed() == []
            host.run("hostnamectl set-hostname somebody-else && systemctl restart meshagent-agent", check=True)
            mesh.in_sync()
            until("h3's endpoints to be there", lambda: addresses(mesh, "h3") == {str(host.address)})
            assert addresses(mesh, "somebody-else") == set()
            goal = oracle.loads()["catalog"].ok + 200
            until("200 more answers", lambda: oracle.loads()["catalog"].ok >= goal)
            assert oracle.failed() == []
    finally:
        host.run("hostnamectl set-hostname h3", check=True)


def test_h10_peers_reach_a_host_by_ipv6(mesh: HostMesh) -> None:
    """The host has both families; what the mesh knows of it is IPv6 alone."""
    places = {name: f"fd00:6d65:7368::{number}" for number, name in enumerate(("h1", "h3"), 1)}
    try:
        for name, address in places.items():
            mesh.host(name).run(f"ip -6 address add {address}/64 dev {device(mesh, name)} nodad", check=True)
        with configured(mesh, "h3", places["h3"]):
            until("h3 to be found there", lambda: addresses(mesh, "h3") == {places["h3"]})
            with mesh.oracle("h1") as oracle:
                oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100, fresh=1.0)
                until("h3 to answer", lambda: oracle.loads()["catalog"].answers.get("catalog-h3"))
                settled = time.monotonic()
                goal = oracle.loads()["catalog"].ok + 300
                until("300 more answers", lambda: oracle.loads()["catalog"].ok >= goal)
                assert oracle.failed(settled) == []
    finally:
        for name, address in places.items():
            mesh.host(name).run(f"ip -6 address del {address}/64 dev {device(mesh, name)}")
