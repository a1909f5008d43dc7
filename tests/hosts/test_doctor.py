"""`meshagent doctor` on real hosts: nothing to say of one that is well, and each planted fault found and explained, with or without an
agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from meshagent.demo.hosts import HostMesh, until
from meshagent.lab import Host

pytestmark = pytest.mark.lab

STATE = "/var/lib/meshagent"


def findings(host: Host) -> list[dict[str, Any]]:
    """What the doctor says of a host. Its exit status is 1 exactly when something is wrong."""
    done = host.run(["meshagent", "doctor", "--output", "json"])
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["well"] else 1), done.stderr
    assert said["well"] == all(one["state"] != "wrong" for one in said["findings"])
    return list(said["findings"])


def finds(host: Host, check: str, words: str, remedy: str = "", state: str = "wrong") -> None:
    """Waits until the doctor says so: what was planted may take a moment to show."""

    def there() -> bool:
        said = findings(host)
        found = [one for one in said if one["check"] == check and one["state"] == state and words in one["words"]]
        assert found, [one for one in said if one["state"] != "ok"]
        assert remedy in found[0]["remedy"], found[0]
        assert found[0]["remedy"], "what to do is said"
        return True

    until(f"the doctor of {host.name} to find {words!r}", there)


@contextmanager
def without_agent(host: Host) -> Iterator[None]:
    """What an agent would mend within seconds stays as it is."""
    host.run(["systemctl", "stop", "meshagent-agent"], check=True)
    try:
        yield
    finally:
        host.run(["systemctl", "start", "meshagent-agent"], check=True)


@contextmanager
def planted(host: Host, plant: str, undo: str) -> Iterator[None]:
    host.run(plant, check=True)
    try:
        yield
    finally:
        host.run(undo, check=True)


def envoy(host: Host) -> dict[str, Any]:
    """The host's first proxy, as its agent has it."""
    said = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
    return dict(said["proxies"][0])


def test_a_host_that_is_well_has_no_problem_and_nothing_is_changed(mesh: HostMesh) -> None:
    everything = f"find {STATE} /etc -xdev -type f ! -name contact -exec cksum {{}} + | sort; nft list ruleset"
    for host in mesh.hosts:
        until(f"{host.name} to be well", partial(is_well, host))
        with without_agent(host):
            before = host.run(everything, check=True).stdout
            findings(host)
            assert host.run(everything, check=True).stdout == before
    assert "ok       peers" in mesh.host("h1").run(["meshagent", "doctor"]).stdout


def is_well(host: Host) -> bool:
    wrong = [one for one in findings(host) if one["state"] == "wrong"]
    assert not wrong, wrong
    return True


def test_a_stopped_agent(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    with without_agent(host):
        finds(host, "agent", f"no agent is at work on {STATE}", "systemctl start meshagent-agent")
        finds(host, "units", "meshagent-agent.service is inactive", "systemctl start")


def test_a_unit_that_does_not_come_back_after_a_reboot(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    with planted(host, "systemctl disable meshagent-agent", "systemctl enable meshagent-agent"):
        finds(host, "units", "not enabled", "systemctl enable meshagent-agent.service")


def test_h8_rules_that_were_flushed(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    with without_agent(host):
        host.run("nft delete table inet meshagent", check=True)
        finds(host, "nftables", "inet meshagent is gone", "restart meshagent-agent")


def test_names_that_resolve_to_something_else(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    with without_agent(host):
        host.run(
            "cp -p /etc/hosts /etc/hosts.kept && echo '192.0.2.9 catalog.shop.internal' | cat - /etc/hosts.kept > /etc/hosts"
        )
        try:
            finds(host, "names", "catalog.shop.internal resolves to", "no other line of that name")
        finally:
            host.run("cat /etc/hosts.kept > /etc/hosts && rm /etc/hosts.kept", check=True)


def test_a_server_that_is_out_of_reach(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    mesh.lab.partition(["h4"])
    finds(host, "servers", "no connection", "does a firewall let this host in?")


def test_c6_a_server_that_hangs(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    with planted(
        mesh.server,
        "systemctl kill -s STOP meshagent-server",
        "systemctl kill -s CONT meshagent-server; systemctl restart meshagent-server",
    ):
        finds(host, "servers", "within 3 s")


def test_k8_a_key_that_others_may_read(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    key = f"{STATE}/host/current/key.pem"
    with planted(host, f"chmod 644 {key}", f"chmod 600 {key}"):
        finds(host, "certificates", "has mode 0644", f"chmod 600 {key}")


def test_h10_a_port_that_a_stranger_has(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    slot = 15000 + 2 * envoy(host)["slot"]
    stranger = f"import socket,time; s=socket.create_server(('0.0.0.0', {slot})); time.sleep(600)"
    with without_agent(host):
        units = host.run("systemctl list-units --plain --no-legend 'meshagent-envoy@*'", check=True).stdout.split("\n")
        envoys = [line.split()[0] for line in units if line.strip()]
        host.run(["systemctl", "stop", *envoys], check=True)
        host.run(["systemd-run", "--unit=stranger", "python3", "-c", stranger], check=True)
        try:
            finds(host, "ports", f"listens on 0.0.0.0:{slot}", "end it")
            finds(host, "ports", "python3 (pid ")
            finds(host, "proxies", "its Envoy does not run")
        finally:
            host.run("systemctl stop stranger", check=True)
            host.run(["systemctl", "start", *envoys], check=True)


def test_h5_an_envoy_that_hangs(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    pid = envoy(host)["envoyPid"]
    with without_agent(host), planted(host, f"kill -STOP {pid}", f"kill -CONT {pid}"):  # its agent would end it
        finds(host, "proxies", f"(pid {pid}) does not answer on its admin socket", "systemd start it again")


def test_an_envoy_s_binary_that_is_another(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    binary = f"{STATE}/envoys/1.39.3/envoy"
    with planted(host, f"mv {binary} {binary}.kept && cp /bin/true {binary}", f"mv {binary}.kept {binary}"):
        finds(host, "envoys", "is not Envoy 1.39.3", "meshagent envoy install 1.39.3")


def test_d1_an_application_that_is_gone(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    with planted(host, "systemctl stop shop-catalog", "systemctl start shop-catalog"):
        finds(host, "proxies", "gets no requests: port 8080", "mend the application")


def test_d4_a_peer_that_is_out_of_reach(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    mesh.lab.partition(["h1"], ["h2"])
    address = mesh.host("h2").address
    finds(host, "peers", f"{address}:8080", "firewall")


def test_a_second_agent_in_the_same_slots(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    host.write("/root/second.yaml", "state_directory: /root/second\nplacements: []\n")
    pretender = ["python3", "-c", "import time; time.sleep(600)", "-m", "meshagent.agent", "/root/second.yaml"]
    host.run(["systemd-run", "--unit=second", *pretender], check=True)
    try:
        finds(host, "agent", "both number their placements from slot 0", "host.first_slot")
    finally:
        host.run("systemctl stop second", check=True)


def test_k5_a_state_directory_that_is_read_only(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    mount = f"mount --bind {STATE} {STATE} && mount -o remount,ro,bind {STATE}"
    with planted(host, mount, f"umount --lazy {STATE}"):
        finds(host, "disk", f"{STATE} is mounted read-only", "remount,rw")


def test_a_configuration_with_a_fault_in_it(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    path = "/etc/meshagent/agent.yaml"
    with planted(host, f"cp -p {path} {path}.kept && echo 'placement: []' >> {path}", f"mv {path}.kept {path}"):
        finds(host, "settings", "did you mean placements?", "mend the file")
