"""Drains, stops, rollouts of Envoy's versions, on real hosts, with the traffic oracle running through all of it.

Runs the commands of docs/meshctl.md and docs/operations.md for a rollout that failed."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.demo.oracle import RemoteOracle
from meshagent.demo.upgrade import DRAIN, END, Handover, drained_for
from meshagent.lab import Host
from tests.hosts.watching import CALLER, Placed, answering, flowing, load

pytestmark = pytest.mark.lab

BROKEN = "1.41.0"


def test_h12_a_drained_host_gets_no_requests_and_is_back_at_once(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        mesh.meshctl("drain", "h2", "--wait")
        assert answering(oracle) == {"catalog-h3"}
        hosts = {one["host"]: one for one in json.loads(mesh.meshctl("hosts", "-o", "json"))["hosts"]}
        assert [hosts[name]["drained"] for name in ("h1", "h2", "h3")] == [False, True, False]
        mesh.meshctl("undrain", "h2")
        until("h2 to answer", lambda: "catalog-h2" in answering(oracle, 20))
        assert oracle.failed() == []


def envoys(host: Host) -> list[str]:
    """The units of the proxies that run on a host."""
    listed = host.run("systemctl list-units --plain --no-legend --state=active 'meshagent-envoy@*'", check=True).stdout
    return [line.split()[0] for line in listed.splitlines()]


def test_h12_stopped_envoys_lose_no_request_and_stay_stopped(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        for name in ("h2", "h3"):
            host = mesh.host(name)
            units = envoys(host)
            assert len(units) == 3
            host.run(["systemctl", "stop", *units], limit=90, check=True)
            assert answering(oracle) == {"catalog-h3" if name == "h2" else "catalog-h2"}
            assert envoys(host) == []
            host.run(["systemctl", "restart", "meshagent-agent"], check=True)
            flowing(oracle, 400)
            assert envoys(host) == []
            host.run(["systemctl", "start", *units], check=True)
            mesh.in_sync(proxies=7)
        assert host.failed_units() == []
        assert oracle.failed() == []


def test_h12_what_is_held_lives_as_long_as_a_stop_drains_and_is_counted(mesh: HostMesh) -> None:
    """A long TCP connection and a long gRPC stream, through Envoys whose units are stopped. Both find the other host afterwards."""
    host = mesh.host("h2")
    with load(mesh) as short, mesh.oracle(CALLER) as long:
        mesh.meshctl("drain", "h3", "--wait")
        long.held("ledger", mesh.address("ledger"), PORTS["ledger"])
        long.grpc("quotes", mesh.address("quotes"), PORTS["quotes"])
        served_by(long, "h2")
        mesh.meshctl("undrain", "h3")
        until("h3 to answer", lambda: "catalog-h3" in answering(short, 20))
        units = envoys(host)
        began = time.monotonic()
        try:
            host.run(["systemctl", "stop", *units], limit=90, check=True)
            ended = time.monotonic()
            served_by(long, "h3")
            for service, load_ in long.loads().items():
                drain = drain_of(Placed(host, service), began, ended)
                lived, odd = drained_for(load_, [drain])
                assert odd == []
                assert len(lived) == 1 and DRAIN <= lived[0] <= DRAIN + END
                assert drain.cut == "drained, 1 request cut"
        finally:
            host.run(["systemctl", "start", *units], check=True)
        mesh.in_sync(proxies=7)
        assert short.failed() == []


def served_by(oracle: RemoteOracle, host: str) -> None:
    """What is held goes on, with that host."""
    before = {name: load.answers[f"{name}-{host}"] for name, load in oracle.loads().items()}

    def there() -> bool:
        return all(load.answers[f"{name}-{host}"] > before[name] + 5 for name, load in oracle.loads().items())

    until(f"what is held to be answered by {host}", there)


def drain_of(placed: Placed, since: float, ended: float) -> Handover:
    """Of an Envoy that was stopped between these moments, from what its agent wrote."""
    read = ["journalctl", "-u", "meshagent-agent", "-b", "-o", "json", "--output-fields=MESSAGE"]
    lines = [json.loads(line) for line in placed.host.run(read, check=True).stdout.splitlines()]
    at = {
        str(line["MESSAGE"]).partition(f"/{placed.service}): ")[2]: int(line["__MONOTONIC_TIMESTAMP"]) / 1e6
        for line in lines
    }
    said = {words: moment for words, moment in at.items() if words and moment >= since}
    (cut,) = (words for words in said if words.startswith("drained"))
    return Handover(placed.host.name, placed.service, "", said["its listeners drain"], ended, cut)


def test_h12_hosts_that_reboot_one_after_the_other_lose_no_request(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        for name in ("h2", "h3", "h4"):
            mesh.host(name).reboot()
            mesh.in_sync(seconds=90, proxies=7)
            flowing(oracle)
        assert oracle.failed() == []


def test_h12_a_stop_without_an_agent_drains_the_listeners(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    units = envoys(host)
    host.run(["systemctl", "stop", "meshagent-agent"], check=True)
    host.run(["systemctl", "stop", *units], limit=90, check=True)
    journal = ["journalctl", "-b", "-o", "cat", *(word for unit in units for word in ("-u", unit))]
    drained = "its listeners are drained"
    until("all to have said so", lambda: host.run(journal).stdout.count(drained) >= len(units))
    host.run(["systemctl", "start", *units, "meshagent-agent"], check=True)
    mesh.in_sync(proxies=7)


def versions(mesh: HostMesh) -> dict[str, list[str]]:
    return {one["host"]: one["running"] for one in listed(mesh)["hosts"]}


def listed(mesh: HostMesh) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(mesh.meshctl("envoy", "list", "-o", "json"))
    return answer


def state(mesh: HostMesh) -> str:
    return str(listed(mesh)["policies"][0]["state"])


def test_h3_a_version_rolls_out_over_all_hosts_and_back_without_a_failed_request(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        for version in ("1.39.3", "1.40.0"):
            mesh.meshctl("envoy", "use", version, "--all")
            until(f"all hosts to run {version}", lambda: state(mesh) == "done", seconds=180, every=0.5)
            assert versions(mesh) == {name: [version] for name in ("h1", "h2", "h3")}
            flowing(oracle)
        mesh.in_sync(proxies=7)
        assert oracle.failed() == []


def tries(mesh: HostMesh) -> int:
    """The number of the generation that was tried last on h1."""
    return int(
        json.loads(mesh.host("h1").run("cat /var/lib/meshagent/proxies/*/next.json", check=True).stdout)["running"][
            "generation"
        ]
    )


def test_h4_a_rollout_stops_at_the_first_host_on_which_the_version_fails(mesh: HostMesh) -> None:
    before = versions(mesh)
    broken = "#!/bin/sh\nexit 3\n"
    mesh.server.run(["mkdir", "-p", "/tmp/files"], check=True)
    mesh.server.run(f"printf '%s' '{broken}' > /tmp/files/envoy", check=True)
    mesh.server.run(
        ["systemd-run", "--unit=files", "-p", "WorkingDirectory=/tmp/files", "python3", "-m", "http.server", "8088"],
        check=True,
    )
    try:
        with load(mesh) as oracle:
            sha256 = hashlib.sha256(broken.encode()).hexdigest()
            url = f"http://{mesh.server.address}:8088/envoy"
            mesh.meshctl("envoy", "install", BROKEN, "--url", url, "--sha256", sha256)
            mesh.meshctl("envoy", "use", BROKEN, "--all")
            until("the rollout to stop", lambda: state(mesh) == "stopped", seconds=120, every=0.5)
            states = [one["state"] for one in listed(mesh)["hosts"]]
            assert states == ["failed", "pending", "pending"]
            assert "h1: mesh/shop/virtualNode/web" in listed(mesh)["policies"][0]["stopped"]
            assert versions(mesh) == before
            tried = tries(mesh)
            mesh.meshctl("envoy", "resume")
            until(
                "it to be tried again, in vain", lambda: tries(mesh) > tried and state(mesh) == "stopped", seconds=120
            )
            mesh.meshctl("envoy", "abort")
            until(
                "the rollout to be taken back",
                lambda: not listed(mesh)["policies"] or state(mesh) == "done",
            )
            mesh.in_sync(proxies=7)
            flowing(oracle)
            assert oracle.failed() == []
    finally:
        mesh.server.run(["systemctl", "stop", "files"])
        mesh.meshctl("envoy", "use", "own", "--all")
        mesh.meshctl("envoy", "forget", BROKEN)
        mesh.host("h1").run(["rm", "-rf", f"/var/lib/meshagent/envoys/{BROKEN}"])
