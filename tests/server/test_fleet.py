"""Versions of Envoy rolled out by a real server to agents that do as they are told, or do not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meshagent.cli.client import ServerRefused
from meshagent.protocol import host_pb2
from meshagent.specs.documents import document, parse_text
from tests.server.meshes import SHOP, WEB
from tests.server.serving import Agent, Conversation, Server, eventually

OLD, NEW = "1.39.3", "1.40.0"
FAR = "1.41.0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "data", "--lease-seconds", "3")
    made.start()
    made.apply([document(spec) for spec in parse_text(SHOP, "shop.yaml").specs])
    yield made
    made.close()


@dataclass
class Host:
    """One host's agent, which runs what it is told, but for versions in `broken`."""

    agent: Agent
    broken: set[str] = field(default_factory=set)
    version: str = OLD
    told: host_pb2.EnvoyVersion = field(default_factory=host_pb2.EnvoyVersion)
    orders: list[str] = field(default_factory=list)

    async def run(self, talk: Conversation) -> None:
        while True:
            desired = await talk.hear_whenever()
            if desired.envoy != self.told:
                self.told = desired.envoy
                self.orders.append(self.told.version)
            wanted = self.told.version or OLD
            failure = f"Envoy {wanted} ended by SIGSEGV" if wanted in self.broken else ""
            self.version = self.version if failure else wanted
            status = host_pb2.PlacementStatus(
                id=desired.placements[0].id,
                health=host_pb2.HEALTHY,
                envoy_state="LIVE",
                envoy_version=self.version,
                wanted_version=wanted,
                upgrade_failure=failure,
                envoy_order=self.told.number,
            )
            await talk.say(host_pb2.Observed(placements=[status]))


class Fleet:
    def __init__(self, server: Server, names: str = "abc") -> None:
        self.server = server
        self.hosts = {
            name: Host(server.agent(name, WEB, address=f"127.0.0.{number}")) for number, name in enumerate(names, 11)
        }
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Fleet:
        self._stack = AsyncExitStack()
        for host in self.hosts.values():
            talk = await self._stack.enter_async_context(host.agent.watch())
            self._tasks.append(asyncio.create_task(host.run(talk)))
        await eventually("all to report", lambda: all(one["running"] for one in self.list()["hosts"]))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._stack.aclose()

    def list(self) -> Any:
        return self.server.call("GET", "/v1/envoy")

    def state(self) -> str:
        return str(self.list()["policies"][0]["state"])

    def running(self) -> dict[str, list[str]]:
        return {one["host"]: one["running"] for one in self.list()["hosts"]}

    async def say(self, verb: str, **body: Any) -> Any:
        return await asyncio.to_thread(self.server.call, "POST", f"/v1/envoy/{verb}", body)


async def test_a_version_reaches_all_hosts_and_comes_back(server: Server) -> None:
    async with Fleet(server) as fleet:
        answer = await fleet.say("use", version=NEW, all=True)
        assert (answer["state"], answer["previous"], answer["hosts"]) == ("rolling", None, 3)
        await eventually("all to be done", lambda: fleet.state() == "done")
        assert await asyncio.to_thread(fleet.running) == {name: [NEW] for name in "abc"}
        assert [host.orders for host in fleet.hosts.values()] == [[NEW]] * 3
        with pytest.raises(ServerRefused, match="no rollout of Envoy is under way"):
            await fleet.say("abort")
        await fleet.say("use", version="own", all=True)
        await eventually("all to be back", lambda: fleet.running() == {name: [OLD] for name in "abc"})


async def test_h4_the_first_failure_stops_the_rollout(server: Server) -> None:
    async with Fleet(server) as fleet:
        fleet.hosts["b"].broken.add(NEW)
        await fleet.say("use", version=NEW, all=True)
        await eventually("it to stop", lambda: fleet.state() == "stopped")
        listed = await asyncio.to_thread(fleet.list)
        assert listed["policies"][0]["stopped"] == f"b: {WEB}: Envoy {NEW} ended by SIGSEGV"
        assert [one["state"] for one in listed["hosts"]] == ["done", "failed", "pending"]
        assert not fleet.hosts["c"].orders
        assert fleet.running() == {"a": [NEW], "b": [OLD], "c": [OLD]}
        # It tries again, and fails again.
        await fleet.say("resume")
        await eventually("it to stop again", lambda: fleet.state() == "stopped")
        assert fleet.hosts["b"].orders == [NEW, NEW]
        fleet.hosts["b"].broken.clear()
        await fleet.say("resume")
        await eventually("all to be done", lambda: fleet.state() == "done")
        assert await asyncio.to_thread(fleet.running) == {name: [NEW] for name in "abc"}


async def test_a_rollout_that_stopped_is_taken_back(server: Server) -> None:
    async with Fleet(server) as fleet:
        await fleet.say("use", version=OLD, all=True)
        await eventually("all to be told", lambda: fleet.state() == "done")
        fleet.hosts["b"].broken.add(NEW)
        await fleet.say("use", version=NEW, all=True)
        await eventually("it to stop", lambda: fleet.state() == "stopped")
        assert (await fleet.say("abort"))["version"] == OLD
        await eventually("all to be back", lambda: fleet.state() == "done")
        assert await asyncio.to_thread(fleet.running) == {name: [OLD] for name in "abc"}
        assert not [NEW for name in "c" if NEW in fleet.hosts[name].orders]


async def test_a_restarted_server_goes_on_where_it_was(server: Server) -> None:
    fleet = Fleet(server)
    async with fleet:
        fleet.hosts["b"].broken.add(NEW)
        await fleet.say("use", version=NEW, all=True)
        await eventually("it to stop", lambda: fleet.state() == "stopped")
    server.kill()
    await asyncio.to_thread(server.start)
    assert fleet.state() == "stopped"
    async with fleet:
        assert fleet.hosts["a"].orders == [NEW]
        assert not fleet.hosts["c"].orders
        fleet.hosts["b"].broken.clear()
        await fleet.say("resume")
        await eventually("all to be done", lambda: fleet.state() == "done")


async def test_a_host_or_its_labels_may_have_a_version_of_their_own(server: Server) -> None:
    fleet = Fleet(server)
    fleet.hosts["a"].agent.labels["zone"] = "z"
    async with fleet:
        release = {"version": FAR, "url": "https://files.example.com/envoy", "sha256": "ab" * 32}
        with pytest.raises(ServerRefused, match="name it first"):
            await fleet.say("use", version=FAR, host="a")
        await fleet.say("releases", **release)
        await fleet.say("use", version=FAR, selector=" zone = z")
        await fleet.say("use", version=NEW, host="b")
        wanted = {"a": [FAR], "b": [NEW], "c": [OLD]}
        await eventually("both to be there", lambda: fleet.running() == wanted)
        told = fleet.hosts["a"].told
        assert (told.url, told.sha256) == (release["url"], release["sha256"])
        picked = await asyncio.to_thread(server.call, "GET", "/v1/hosts?selector=zone%3Dz")
        assert [(one["host"], one["envoyVersions"], one["labels"]) for one in picked["hosts"]] == [
            ("a", [FAR], {"zone": "z"})
        ]
        by = {one["host"]: one["policy"] for one in (await asyncio.to_thread(fleet.list))["hosts"]}
        assert by == {"a": {"selector": "zone=z"}, "b": {"host": "b"}, "c": None}
        with pytest.raises(ServerRefused, match="let it use another version first"):
            await asyncio.to_thread(server.call, "DELETE", f"/v1/envoy/releases/{FAR}")
        await fleet.say("unset", selector="zone=z")
        await eventually("it to be back", lambda: fleet.running()["a"] == [OLD])
        await asyncio.to_thread(server.call, "DELETE", f"/v1/envoy/releases/{FAR}")
    # What is said of a host goes with it.
    await asyncio.to_thread(server.call, "DELETE", "/v1/hosts/b")
    assert fleet.list()["policies"] == []


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("use", {"version": NEW}, "the body must have one of"),
        ("use", {"version": NEW, "all": True, "host": "a"}, "the body must have one of"),
        ("use", {"version": "newest", "all": True}, "as the Envoy itself reports it"),
        ("use", {"version": NEW, "all": True, "atOnce": 0}, "from 1 to 1000"),
        ("use", {"version": NEW, "host": "nobody"}, "there is no host"),
        ("use", {"version": NEW, "selector": "zone"}, "must be conditions"),
        ("use", {"version": "9.9.9", "all": True}, "known are 1.39.3, 1.40.0"),
        ("releases", {"version": FAR, "sha256": "ab"}, "64 hexadecimal digits"),
        ("releases", {"version": FAR, "sha256": "ab" * 32, "url": "ftp://x"}, "url must be such as"),
        ("unset", {"all": True}, "no version of Envoy is set for all hosts"),
        ("resume", {}, "no rollout of Envoy has stopped"),
        ("abort", {}, "no rollout of Envoy is under way"),
    ],
)
def test_what_is_refused(server: Server, verb: str, body: Any, words: str) -> None:
    with pytest.raises(ServerRefused, match=words):
        server.call("POST", f"/v1/envoy/{verb}", body)
