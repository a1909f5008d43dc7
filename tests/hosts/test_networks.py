"""Hosts without a network, and with more than one, on real hosts."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from meshagent.demo.hosts import PORTS, SERVER, HostMesh, until
from meshagent.demo.oracle import RemoteOracle
from meshagent.lab import Host
from tests.hosts.watching import flowing

pytestmark = pytest.mark.lab

# Leases are 5 s there, connections to the server are given up after 10 s, and the longest pause between attempts is 5 s.
THREE_TIMES_EVERY_TIMER = 30.0
AGENT_CONFIGURATION, SERVER_OPTIONS = "/etc/meshagent/agent.yaml", "/etc/meshagent/server.env"


def device(host: Host) -> str:
    return str(json.loads(host.run("ip -j -4 address show scope global", check=True).stdout)[0]["ifname"])


def status(host: Host) -> dict[str, object]:
    said: dict[str, object] = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
    return said


def test_h11_a_host_that_boots_with_no_network_for_longer_than_every_timer_is_back_with_the_network(
    mesh: HostMesh,
) -> None:
    host = mesh.host("h3")
    link = device(host)
    with mesh.oracle("h1") as oracle:
        oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100, fresh=1.0)
        host.run(["ip", "link", "set", link, "down"], check=True)
        try:
            host.reboot(hard=True)
            booted = time.monotonic()
            until("its Envoys to be live", lambda: all(each == "LIVE" for each in states(host)))
            while time.monotonic() < booted + THREE_TIMES_EVERY_TIMER:
                flowing(oracle, 50)
            assert status(host)["managementServerConnectionStatus"] == "NOT_CONNECTED"
            assert states(host) == ["LIVE"] * 3
            assert host.failed_units() == []
            before = oracle.loads()["catalog"].answers["catalog-h3"]
        finally:
            host.run(["ip", "link", "set", link, "up"], check=True)
        up = time.monotonic()
        mesh.in_sync(seconds=30, proxies=7)
        print(f"\nH11: in sync {time.monotonic() - up:.1f} s after the network came")
        until("h3 to answer", lambda: oracle.loads()["catalog"].answers["catalog-h3"] > before)
        settled = time.monotonic()
        flowing(oracle, 300)
        assert oracle.failed(settled) == []
    assert host.failed_units() == []
    assert host.run("systemctl show -P NRestarts meshagent-agent").stdout.strip() == "0"


def states(host: Host) -> list[str]:
    proxies = status(host)["proxies"]
    assert isinstance(proxies, list) and len(proxies) == 3
    return [one["envoyState"] for one in proxies]


def test_h10_a_host_with_two_networks_is_reached_on_the_one_that_it_is_configured_for_or_routes_by(
    mesh: HostMesh,
) -> None:
    """The second has an address that sorts before the first one's, and nobody can reach it."""
    host = mesh.host("h3")
    link = device(host)
    configuration = host.read(AGENT_CONFIGURATION)
    free = without_address(configuration)
    host.run(f"ip route replace default dev {link}", check=True)
    host.run(
        "ip link add aside type veth peer name aside-peer && ip address add 10.1.1.1/24 dev aside && ip link set aside up",
        check=True,
    )
    try:
        host.write(AGENT_CONFIGURATION, free)
        host.run("systemctl restart meshagent-agent", check=True)
        mesh.in_sync(proxies=7)
        until("h3 to be found at its address", lambda: addresses(mesh, "h3") == {str(host.address)})
        with mesh.oracle("h1") as oracle:
            oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100, fresh=1.0)
            until("h3 to answer", lambda: oracle.loads()["catalog"].answers.get("catalog-h3"))
        host.write(AGENT_CONFIGURATION, free.replace("host:\n", "host:\n  address: 10.1.1.1\n"))
        host.run("systemctl restart meshagent-agent", check=True)
        until("h3 to be found where it is told to be", lambda: addresses(mesh, "h3") == {"10.1.1.1"})
    finally:
        host.run("ip link del aside; ip route del default")
        host.write(AGENT_CONFIGURATION, configuration)
        host.run("systemctl restart meshagent-agent", check=True)
        mesh.in_sync(proxies=7)


def without_address(configuration: str) -> str:
    return "".join(line for line in configuration.splitlines(keepends=True) if not line.startswith("  address:"))


def addresses(mesh: HostMesh, host: str) -> set[str]:
    found = json.loads(mesh.meshctl("endpoints", "--output", "json"))["endpoints"]
    return {one["address"] for one in found if one["host"] == host}


def test_h10_hosts_without_ipv4_serve_each_other(mesh: HostMesh) -> None:
    """All of them: they find the server, tell their addresses, and call each other by IPv6 alone."""
    six = {name: f"fd00:6d65:7368::{number}" for number, name in enumerate(("h1", "h2", "h3", SERVER), 1)}
    agents = {host.name: host.read(AGENT_CONFIGURATION) for host in mesh.hosts}
    options = mesh.server.read(SERVER_OPTIONS)
    with contextlib.ExitStack() as undo:
        undo.callback(mesh.in_sync, proxies=7)
        for name, address in six.items():
            host, link = mesh.host(name), device(mesh.host(name))
            host.run(f"ip -6 address add {address}/64 dev {link} nodad", check=True)
            undo.callback(host.run, f"ip -6 address del {address}/64 dev {link}")
        undo.callback(configure_server, mesh, options)
        everywhere = options.replace("0.0.0.0", "[::]").replace(
            "--advertise", f"--advertise {six[SERVER]} --advertise", 1
        )
        configure_server(mesh, everywhere)
        mesh.in_sync(proxies=7)
        for name, text in agents.items():
            host, link = mesh.host(name), device(mesh.host(name))
            undo.callback(host.run, "systemctl restart meshagent-agent", check=True)
            undo.callback(host.write, AGENT_CONFIGURATION, text)
            undo.callback(host.run, f"ip -6 route del default; ip address add {host.address}/24 dev {link}", check=True)
            host.run(f"ip -4 address flush dev {link}; ip -6 route replace default dev {link}", check=True)
            host.write(AGENT_CONFIGURATION, without_address(text))
            host.run("systemctl restart meshagent-agent", check=True)
        for name in agents:
            until(f"{name} to be found there", lambda name=name: addresses(mesh, name) == {six[name]})
        mesh.in_sync(proxies=7)
        with mesh.oracle("h1") as oracle:
            mesh.start_traffic(oracle)
            until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
            # Right after everybody's address has become another one, a TCP connection, which nobody retries, may still fail.
            until("calm after the change", lambda: calm(oracle))
            settled = time.monotonic()
            flowing(oracle, 300)
            assert oracle.failed(settled) == []


def calm(oracle: RemoteOracle) -> bool:
    began = time.monotonic()
    flowing(oracle, 200)
    return not oracle.failed(began)


def configure_server(mesh: HostMesh, options: str) -> None:
    mesh.server.write(SERVER_OPTIONS, options)
    mesh.server.run("systemctl restart meshagent-server", check=True)
