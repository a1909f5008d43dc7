"""status, hosts, endpoints, accept and token against a server with the shape of ours."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from meshagent.protocol import host_pb2
from meshagent.protocol.facts import facts_json
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer


def proxy(**changed: Any) -> dict[str, Any]:
    return {
        "proxy": "3f09c2aa71de",
        "resource": "mesh/shop/virtualNode/web",
        "host": "web-1",
        "slot": 0,
        "mode": "bind",
        "address": "10.0.0.5",
        "connected": True,
        "synced": True,
        "revision": 42,
        "heldReason": "",
        "failure": "",
        "health": "healthy",
        "healthDetail": "",
        "envoy": {"state": "LIVE", "version": "1.40.0", "pid": 4711, "restarts": 0},
        "certificate": {"serial": "1f00", "expires": int(time.time() + 23.2 * 3600)},
        "rejected": [],
        **changed,
    }


def host(**changed: Any) -> dict[str, Any]:
    return {
        "host": "web-1",
        "connected": True,
        "lastSeen": int(time.time() - 300),
        "address": "10.0.0.5",
        "agentVersion": "0.1.0",
        "allowed": ["mesh/shop/virtualNode/web"],
        "placements": ["3f09c2aa71de"],
        "heldReason": "",
        "problems": [],
        **changed,
    }


def status(proxies: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    return {
        "lineage": "0123456789abcdef",
        "revision": 42,
        "replaces": [],
        "rolledBack": False,
        "proxies": proxies,
        "hosts": [host()],
        "problems": [],
        **changed,
    }


def test_a_mesh_that_is_well(online: Run, server: FakeServer) -> None:
    server.answer("GET /v1/status", status([proxy(), proxy(proxy="77aa77aa77aa", host="web-2")]))
    result = online("status")
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "lineage 01234567, revision 42: 2 proxies, 2 connected, 2 in sync"
    assert lines[1].split() == ["PROXY", "RESOURCE", "HOST", "SYNC", "HEALTH", "ENVOY", "CERT"]
    assert lines[2].split() == [
        "3f09c2aa71de",
        "shop/web",
        "web-1",
        "synced",
        "42",
        "healthy",
        "1.40.0",
        "LIVE",
        "23",
        "h",
    ]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in result.stdout


def test_envoy_s_words_stand_whole_below_the_table(online: Run, server: FakeServer) -> None:
    words = (
        "Error adding/updating listener(s) lds_ingress_10.0.0.5_8080: Failed to load certificate chain from /etc/shop/web.pem "
        * 2
    )
    refused = {"type": "listener", "name": "lds_ingress_10.0.0.5_8080", "version": "x", "words": words.strip()}
    server.answer("GET /v1/status", status([proxy(synced=False, rejected=[refused])]))
    result = online("status")
    assert "1 connected, 0 in sync, 1 with refused resources" in result.stdout
    assert f"  3f09c2aa71de (shop/web on web-1): listener lds_ingress_10.0.0.5_8080: {words.strip()}" in result.stdout


def test_everything_that_needs_an_eye_is_said(online: Run, server: FakeServer) -> None:
    proxies = [
        proxy(heldReason="another lineage", revision=41),
        proxy(connected=False, health="", envoy={"state": "", "version": "", "pid": 0, "restarts": 0}),
        proxy(synced=False, health="unhealthy", healthDetail="connection refused"),
        proxy(
            failure="no such spec", synced=False, envoy={"state": "LIVE", "version": "1.40.0", "pid": 1, "restarts": 2}
        ),
        proxy(
            health="",
            healthDetail="Envoy ended 7 times in a row",
            envoy={"state": "STOPPED", "version": "", "pid": 0, "restarts": 7},
        ),
        proxy(certificate={"serial": "", "expires": 1}),
        proxy(certificate={"serial": "", "expires": 0}, resource="mesh/shop/virtualGateway/in"),
    ]
    problem = {"resource": "mesh/shop/route/r", "path": "action", "message": "is not defined"}
    hosts = [host(connected=False), host(host="web-2", problems=[{"resource": "mesh/x", "message": "not allowed"}])]
    server.answer(
        "GET /v1/status",
        status(proxies, rolledBack="the store is behind", braking=True, hosts=hosts, problems=[problem]),
    )
    text = online("status").stdout
    for words in (
        "Rolled back: the store is behind\nToo many leases ended together",
        "7 proxies, 6 connected, 4 in sync",
        "held 41",
        "Held back:\n  another lineage\n    3f09c2aa71de (shop/web on web-1) keeps revision 41",
        "away",
        "unknown",
        "(shop/web on web-1): connection refused",
        "(shop/web on web-1): no such spec",
        "Envoy restarted:\n  3f09c2aa71de (shop/web on web-1): 2 times",
        "3f09c2aa71de (shop/web on web-1): 7 times: Envoy ended 7 times in a row",
        "expired",
        "gateway",
        "web-1 is away, last seen 5 min ago",
        "web-2: mesh/x: not allowed",
        "mesh/shop/route/r: action: is not defined",
    ):
        assert "".join(words.split()) in "".join(text.split()), words
    assert max(len(line.rstrip()) for line in text.splitlines() if "3f09" in line and "(" not in line) <= 80


def test_what_a_whole_fleet_holds_back_is_said_once(online: Run, server: FakeServer) -> None:
    held = [proxy(proxy=f"{n}", host=f"web-{n}", heldReason="lower revision") for n in range(2)]
    hosts = [host(host=f"web-{n}", heldReason="lower revision", accept=n == 2) for n in range(3)]
    server.answer("GET /v1/status", status(held, hosts=hosts))
    text = online("status").stdout
    assert text.split("\n\n", 1)[1] == (
        "Held back:\n"
        "  lower revision\n"
        "    0 (shop/web on web-0) keeps revision 42\n"
        "    1 (shop/web on web-1) keeps revision 42\n"
        "    the agent of web-2 keeps what it is to run\n"
        "\n"
        "Hosts:\n"
        "  web-2: accepted, and has not taken what it is offered yet\n"
    )
    assert "2 connected, 0 in sync" in text


def test_why_an_envoy_never_came_up_is_said(online: Run, server: FakeServer) -> None:
    stopped = {"state": "STOPPED", "version": "", "pid": 0, "restarts": 0}
    words = ["127.64.0.0:80 is served by another Envoy", ""]
    proxies = [proxy(health="", healthDetail=each, envoy=stopped) for each in words]
    server.answer("GET /v1/status", status([*proxies, proxy()]))
    assert online("status").stdout.split("\n\n", 1)[1] == (
        "Envoy does not run:\n"
        "  3f09c2aa71de (shop/web on web-1): 127.64.0.0:80 is served by another Envoy\n"
        "  3f09c2aa71de (shop/web on web-1): its agent has not said why\n"
    )


def test_a_copy_of_a_host_that_is_kept_out_is_said_with_where_it_is(online: Run, server: FakeServer) -> None:
    clone = {"bootId": "3f0c", "address": "10.0.0.9", "lastSeen": int(time.time() - 300)}
    server.answer("GET /v1/status", status([proxy()], hosts=[host(clones=[clone])]))
    assert online("status").stdout.split("\n\n", 1)[1] == (
        "Hosts:\n"
        "  web-1: another machine, at 10.0.0.9, last seen 5 min ago, has a copy of its identity and is kept out: "
        "give that one a name and a token of its own\n"
    )


def test_of_an_image_that_many_machines_were_made_from_a_few_are_named(online: Run, server: FakeServer) -> None:
    clones = [{"bootId": f"{n}", "address": f"10.0.1.{n}", "lastSeen": int(time.time())} for n in range(100)]
    server.answer("GET /v1/status", status([proxy()], hosts=[host(clones=clones)]))
    lines = online("status").stdout.split("Hosts:\n", 1)[1].splitlines()
    assert [line.split(",")[0].split(": ", 1)[1] for line in lines[:3]] == ["another machine"] * 3
    assert lines[3:] == ["  web-1: and 97 more machines with a copy of it"]


def test_what_envoy_refused_is_in_sight(online: Run, server: FakeServer) -> None:
    refused = {"type": "listener", "name": "in", "version": "", "words": "first line\nsecond line\n\n"}
    server.answer("GET /v1/status", status([proxy(synced=False, rejected=[refused])]))
    text = online("status").stdout
    assert "refused 42" in text
    assert text.endswith("\n  3f09c2aa71de (shop/web on web-1): listener in: first line\n  second line\n")


def test_rows_in_a_pipe_are_not_folded(online: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    long = proxy(host="ip-10-0-0-5.eu-central-1.compute.internal", resource="mesh/payments/virtualNode/checkout-api-v2")
    server.answer("GET /v1/status", status([long]))
    row = online("status").stdout.splitlines()[2]
    assert "payments/checkout-api-v2  ip-10-0-0-5.eu-central-1.compute.internal  synced 42" in row
    monkeypatch.setenv("COLUMNS", "80")
    assert max(len(line) for line in online("status").stdout.splitlines()[1:]) <= 80


def test_control_characters_do_not_reach_the_terminal(online: Run, server: FakeServer) -> None:
    refused = {"type": "cluster", "name": "\x1b[2Jx", "version": "", "words": "a\x1b]0;owned\x07b\u202e"}
    server.answer("GET /v1/status", status([proxy(rejected=[refused], host="\x1b[31mh", health="\x9bx")]))
    text = online("status").stdout
    assert not set("\x1b\x07\x9b\u202e") & set(text)
    assert "\\x1b[2Jx" in text


def test_an_empty_mesh(online: Run, server: FakeServer) -> None:
    server.answer("GET /v1/status", status([], hosts=[]))
    assert online("status").stdout == "lineage 01234567, revision 42: no proxies yet\n"
    server.answer("GET /v1/hosts", {"hosts": []})
    assert online("hosts").stdout.split() == [
        "HOST",
        "ADDRESS",
        "LABELS",
        "AGENT",
        "VERSION",
        "ENVOY",
        "PROXIES",
        "MAY",
        "RUN",
    ]


def test_an_envoy_that_could_not_take_over_is_named(online: Run, server: FakeServer) -> None:
    failed = {**proxy()["envoy"], "version": "1.39.3", "wanted": "1.40.0", "upgradeFailure": "it hung"}
    server.answer("GET /v1/status", status([proxy(envoy=failed)]))
    text = online("status").stdout
    assert "Another Envoy failed:" in text
    assert "Envoy 1.40.0: it hung; 1.39.3 serves on" in text


def test_hosts_and_endpoints(online: Run, server: FakeServer) -> None:
    server.answer("GET /v1/hosts", {"hosts": [host(), host(host="web-2", connected=False)]})
    text = online("hosts").stdout
    assert "web-1" in text and "away, last seen" in " ".join(text.split())
    assert text.splitlines()[1].split() == ["web-1", "10.0.0.5", "connected", "0.1.0", "3f09c2aa71de", "shop/web"]
    more = host(labels={"zone": "a"}, drained=True, envoyVersions=["1.40.0"])
    server.answer("GET /v1/hosts", {"hosts": [more]})
    row = online("hosts", "-l", "zone=a").stdout.splitlines()[1].split()
    assert row == [
        "web-1",
        "10.0.0.5",
        "zone=a",
        "connected,",
        "drained",
        "0.1.0",
        "1.40.0",
        "3f09c2aa71de",
        "shop/web",
    ]
    assert server.calls[-1].query == "selector=zone%3Da"
    one = {
        "node": "mesh/shop/virtualNode/web",
        "address": "10.0.0.5",
        "ports": [8080, 9],
        "host": "web-1",
        "proxy": "p",
    }
    leased = {**one, "health": "healthy", "leased": True, "suspect": False}
    braked, found = {**leased, "suspect": True}, {**leased, "leased": False}
    server.answer("GET /v1/endpoints", {"endpoints": [leased, braked, found]})
    rows = online("endpoints").stdout.splitlines()[1:]
    assert rows[0].split() == ["shop/web", "10.0.0.5", "8080,9", "healthy", "web-1", "lease"]
    assert [row.split("web-1")[1].strip() for row in rows] == ["lease", "ended lease", "discovery"]
    assert json.loads(online("endpoints", "-o", "json").stdout)["endpoints"][0]["proxy"] == "p"


def test_the_facts_of_hosts(online: Run, server: FakeServer) -> None:
    said = host_pb2.Facts(
        os="debian", os_version="12", arch="x86_64", kernel="6.1.0", cpus=2, load=0.25, booted=int(time.time()) - 7200,
        memory_total=4 << 30, memory_available=1 << 30, disks=[host_pb2.Disk(path="/", total=9, used_percent=97, read_only=True)],
        addresses=["eth0 10.0.0.5"], instance_type="t3.micro", zone="eu-west-1a",
    )  # fmt: skip
    server.answer("GET /v1/hosts", {"hosts": [host(facts=facts_json(said)), host(host="web-2", facts=None)]})
    text = " ".join(online("hosts", "--facts").stdout.split())
    assert "web-1 debian 12 x86_64 6.1.0 2 0.25 1.0 of 4.0 GiB / 97 %, read-only eth0 10.0.0.5 t3.micro 2 h" in text
    assert "eu-west-1a" in text
    assert text.endswith("web-2 unknown")


def test_accept(online: Run, server: FakeServer) -> None:
    server.answer("POST /v1/accept", {"lineage": "ffff0000ffff", "revision": 3, "replaces": []})
    assert online("accept", "web-1").stdout == "web-1 takes lineage ffff0000, revision 3\n"
    assert online("accept", "--all").exit_code == 0
    assert [call.body for call in server.calls] == [{"host": "web-1"}, {"all": True}]
    assert online("accept").exit_code == 2
    assert online("accept", "web-1", "--all").exit_code == 2


@pytest.mark.parametrize(("life", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("2d", 172800), ("45", 45)])
def test_token_create_prints_the_token_alone(online: Run, server: FakeServer, life: str, seconds: int) -> None:
    server.answer("POST /v1/tokens", {"id": "00ff", "token": "mj1.abc", "expires": time.time() + seconds + 1})
    result = online("token", "create", "--placement", "mesh/shop/*", "-p", "mesh/x", "--life", life, "--host", "web-1")
    assert result.stdout == "mj1.abc\n"
    assert "token 00ff ends in" in result.stderr
    assert server.calls[0].body == {"placements": ["mesh/shop/*", "mesh/x"], "lifeSeconds": seconds, "host": "web-1"}


@pytest.mark.parametrize("life", ["0", "-1", "1y", "", "h", "1.5h"])
def test_lives_that_are_none(online: Run, server: FakeServer, life: str) -> None:
    assert online("token", "create", "-p", "mesh/shop/*", f"--life={life}").exit_code == 2
    assert server.calls == []


def test_token_list_and_delete(online: Run, server: FakeServer) -> None:
    used = {"host": "web-1", "publicKeySha256": "00", "when": 5}
    tokens = [
        {"id": "aa", "placements": ["mesh/shop/*"], "expires": time.time() + 1000, "usedBy": None},
        {"id": "bb", "placements": ["a", "b"], "host": "web-1", "expires": time.time() - 1000, "usedBy": used},
    ]
    server.answer("GET /v1/tokens", {"tokens": tokens})
    text = " ".join(online("token", "list").stdout.split())
    assert "in 17 min unused" in text and "used by web-1" in text and "expired 17 min ago" in text
    server.answer("DELETE /v1/tokens/aa", {})
    assert online("token", "delete", "aa").stdout == "token aa deleted\n"
