"""meshctl envoy: what it asks for, and how it shows what it hears."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer


def policy(**more: Any) -> dict[str, Any]:
    return {
        "scope": {"all": True}, "version": "1.40.0", "previous": "1.39.3", "atOnce": 1, "state": "rolling", "stopped": "",
        "hosts": 3, "done": 1, "by": "MAK", "at": 0, **more,
    }  # fmt: skip


def host(name: str, **more: Any) -> dict[str, Any]:
    return {
        "host": name, "connected": True, "policy": {"all": True}, "wanted": "1.40.0", "told": "1.40.0", "running": ["1.40.0"],
        "state": "done", "words": "", **more,
    }  # fmt: skip


def test_use_says_whom_and_how_many_at_once(online: Run, server: FakeServer) -> None:
    server.answer("POST /v1/envoy/use", policy())
    shown = online("envoy", "use", "1.40.0", "--all", "--at-once", "2").stdout
    assert shown == "Envoy 1.40.0 for all hosts: 1 of 3 hosts done, 1 at once\n"
    online("envoy", "use", "own", "-l", "zone=a")
    online("envoy", "use", "1.40.0", "--host", "web-1")
    assert [call.body for call in server.calls] == [
        {"version": "1.40.0", "atOnce": 2, "all": True},
        {"version": "own", "atOnce": 1, "selector": "zone=a"},
        {"version": "1.40.0", "atOnce": 1, "host": "web-1"},
    ]


@pytest.mark.parametrize("options", [[], ["--all", "--host", "a"], ["--host", "a", "--selector", "b=c"]])
def test_whom_must_be_said_once(online: Run, options: list[str]) -> None:
    assert "give one of --host, --selector and --all" in online("envoy", "use", "1.40.0", *options).stderr


def test_the_list_shows_what_stopped_and_where_everybody_is(online: Run, server: FakeServer) -> None:
    stopped = policy(state="stopped", stopped="web-2: mesh/shop/virtualNode/web: Envoy 1.40.0 ended by SIGSEGV")
    hosts = [
        host("web-1"),
        host("web-2", running=["1.39.3"], state="failed", words="Envoy 1.40.0 ended by SIGSEGV"),
        host("web-3", running=[], state="pending", connected=False, policy=None, wanted="own"),
    ]
    releases = [{"version": "1.39.3"}, {"version": "1.40.0"}]
    server.answer("GET /v1/envoy", {"releases": releases, "policies": [stopped], "hosts": hosts})
    lines = online("envoy", "list").stdout.splitlines()
    assert lines[0] == "versions: 1.39.3, 1.40.0"
    assert lines[1].startswith("Envoy 1.40.0 for all hosts has stopped, 1 of 3 hosts done: web-2: mesh/shop")
    assert [" ".join(line.split()) for line in lines[3:]] == [
        "web-1 1.40.0 1.40.0 done all hosts",
        "web-2 1.40.0 1.39.3 failed all hosts Envoy 1.40.0 ended by SIGSEGV",
        "web-3 own none away, pending its own configuration",
    ]


def test_releases_and_going_on(online: Run, server: FakeServer) -> None:
    server.answer("POST /v1/envoy/releases", {})
    server.answer("DELETE /v1/envoy/releases/1.41.0", {})
    server.answer("POST /v1/envoy/resume", policy())
    server.answer("POST /v1/envoy/abort", policy(state="done", scope={"selector": "zone=a"}, done=3))
    server.answer("POST /v1/envoy/unset", {})
    assert online("envoy", "install", "1.41.0", "--sha256", "ab" * 32).stdout == "Envoy 1.41.0 can be used\n"
    assert online("envoy", "forget", "1.41.0").exit_code == 0
    assert online("envoy", "resume").exit_code == 0
    assert online("envoy", "abort", "-l", "zone=a").stdout == "Envoy 1.40.0 for selector zone=a: 3 of 3 hosts done\n"
    assert online("envoy", "unset", "--host", "a").stdout == "no version is set for host a any more\n"
    assert [call.body for call in server.calls if call.method == "POST"] == [
        {"version": "1.41.0", "url": "", "sha256": "ab" * 32},
        {},
        {"selector": "zone=a"},
        {"host": "a"},
    ]
