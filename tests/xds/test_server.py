"""AdsService and follow over real connections: who is let in, what an agent gets, how streams end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from meshagent.errors import MeshagentError
from meshagent.protos import core, discovery
from meshagent.xds import server as serving
from meshagent.xds import wire
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.intake import Intake, IntakeError
from meshagent.xds.messages import Pacing, Rejection
from meshagent.xds.server import AGENT_USER_AGENT, MAX_STREAMS, AdsService, NotServed
from meshagent.xds.snapshot import CLUSTER, Snapshot
from meshagent.xds.upstream import Settle, UpstreamLost, follow
from tests.xds.real import Recorder, until
from tests.xds.trace import LINEAGE, snapshot

AGENT = core.Node(id="p1", user_agent_name=AGENT_USER_AGENT)


class Served:
    def __init__(self, address: str) -> None:
        self.address = address
        self.cache = SnapshotCache()
        self.seen = Recorder()
        self.service = AdsService(self.cache, self.authorize, self.seen)

    async def authorize(self, context: Any, node: Any) -> str:
        if node.id == "stranger":
            raise MeshagentError("stranger: this host may run p1 only")
        if node.id == "unknown":
            raise NotServed("unknown: no such proxy")
        return str(node.id)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=wire.CHANNEL_OPTIONS)


@pytest.fixture
async def served(run_dir: Path) -> AsyncIterator[Served]:
    found = Served(f"unix:{run_dir / 'ads.sock'}")
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((found.service.handlers(),))
    server.add_insecure_port(found.address)
    await server.start()
    try:
        yield found
    finally:
        await server.stop(None)


class Agent:
    """An agent whose Envoy takes all but what `refuses` names."""

    def __init__(self, served: Served, node: Any = AGENT, held: Snapshot | None = None) -> None:
        self.served, self.node = served, node
        self.intake = Intake(held)
        self.refuses: dict[str, str] = {}
        self.candidates: list[Snapshot] = []
        self.waiting: list[Settle] = []
        self.prompt = True

    def take(self, candidate: Snapshot, settle: Settle) -> None:
        self.candidates.append(candidate)
        if self.prompt:
            settle(self.refusals(candidate))
        else:
            self.waiting.append(settle)

    def refusals(self, candidate: Snapshot) -> list[Rejection]:
        clusters = candidate.of(CLUSTER)
        return [Rejection(CLUSTER, n, clusters[n].version, why) for n, why in self.refuses.items() if n in clusters]

    async def run(self) -> None:
        async with self.served.channel() as channel:
            await follow(channel, self.node, self.intake, self.take)


async def ended(task: asyncio.Task[None]) -> str:
    with pytest.raises(UpstreamLost) as caught:
        await asyncio.wait_for(task, 10)
    return str(caught.value)


async def test_an_agent_follows_acknowledges_refuses_and_comes_back(served: Served) -> None:
    agent = Agent(served)
    served.cache.set("p1", snapshot("cluster a@1; listener l@1", 1))
    running = asyncio.create_task(agent.run())
    await until(lambda: served.seen.synced(1), "the first push acknowledged")
    assert served.seen.stream.pacing is Pacing.PIPELINED
    agent.refuses["a"] = "Error adding/updating cluster(s) a: no such file"
    served.cache.set("p1", snapshot("cluster a@2; listener l@1", 2))
    await until(lambda: served.seen.synced(2), "the second push answered")
    (rejection,) = served.seen.stream.rejected
    assert (rejection.name, rejection.words) == ("a", agent.refuses["a"])
    assert agent.intake.held.of(CLUSTER)["a"].version == "1"
    running.cancel()
    await until(lambda: not served.seen.streams, "its end noticed")
    running = asyncio.create_task(agent.run())
    await until(lambda: served.seen.synced(2), "recognised")
    assert len(agent.candidates) == 2
    assert [each.name for each in served.seen.stream.rejected] == ["a"]
    running.cancel()


async def test_an_agent_is_given_the_stamp_of_the_lineage_although_it_has_all_there_is(served: Served) -> None:
    node = core.Node()
    node.CopyFrom(AGENT)
    node.metadata.update({"lineage": "old", "revision": "7"})
    agent = Agent(served, node, snapshot("cluster a@1; listener l@1", 7, "old"))
    served.cache.set("p1", snapshot("cluster a@1; listener l@1", 1))
    running = asyncio.create_task(agent.run())
    await until(lambda: served.seen.synced(1), "the stamp acknowledged")
    assert (agent.intake.held.stamp.lineage, agent.intake.held.stamp.revision) == (LINEAGE, 1)
    assert served.seen.stream.resources_sent == 0
    running.cancel()


async def test_a_candidate_may_wait_and_the_latest_counts(served: Served) -> None:
    agent = Agent(served)
    agent.prompt = False
    served.cache.set("p1", snapshot("cluster a@1", 1))
    running = asyncio.create_task(agent.run())
    await until(lambda: len(agent.waiting) == 1, "the first candidate")
    served.cache.set("p1", snapshot("cluster a@2", 2))
    await until(lambda: len(agent.waiting) == 2, "the second candidate, though the first is not settled")
    assert not served.seen.stream.synced
    agent.waiting[1]([])
    await until(lambda: served.seen.synced(2), "both acknowledged")
    running.cancel()
    # After the end of the stream it moves what is held, and no more.
    await until(lambda: not served.seen.streams, "its end noticed")
    agent.waiting[1]([])
    assert agent.intake.held.stamp.revision == 2


async def test_a_snapshot_may_come_after_the_agent(served: Served) -> None:
    agent = Agent(served)
    running = asyncio.create_task(agent.run())
    await until(lambda: served.seen.changes == 4, "all four subscriptions")
    served.cache.set("p1", snapshot("", 1))
    await until(lambda: served.seen.synced(1), "an empty snapshot acknowledged")
    assert agent.candidates[0].stamp.revision == 1
    running.cancel()


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("stranger", "PERMISSION_DENIED: stranger: this host may run p1 only"),
        ("unknown", "NOT_FOUND: unknown: no such proxy"),
    ],
)
async def test_refused_with_words(served: Served, id: str, words: str) -> None:  # noqa: A002
    agent = Agent(served, core.Node(id=id, user_agent_name=AGENT_USER_AGENT))
    assert words in await ended(asyncio.create_task(agent.run()))
    assert not served.seen.streams


async def test_a_removed_proxy_ends_its_streams(served: Served) -> None:
    served.cache.set("p1", snapshot("cluster a@1", 1))
    running = asyncio.create_task(Agent(served).run())
    await until(lambda: served.seen.synced(1), "the first push acknowledged")
    served.cache.remove("p1")
    assert "NOT_FOUND: p1 is not served here any more" in await ended(running)
    await until(lambda: not served.seen.streams, "its end noticed")


async def test_streams_of_one_proxy_are_bounded(served: Served) -> None:
    served.cache.set("p1", snapshot("", 1))
    tasks = [asyncio.create_task(Agent(served).run()) for _ in range(MAX_STREAMS)]
    await until(lambda: len(served.seen.streams) == MAX_STREAMS, "all streams open")
    assert "RESOURCE_EXHAUSTED" in await ended(asyncio.create_task(Agent(served).run()))
    for task in tasks:
        task.cancel()


async def test_a_silent_peer_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "FIRST_REQUEST_SECONDS", 0.1)
    async with served.channel() as channel:
        call = channel.stream_stream(
            f"/{wire.SERVICE}/{wire.DELTA_METHOD}",
            request_serializer=discovery.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery.DeltaDiscoveryResponse.FromString,
        )()
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_no_server(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshagent.xds.upstream.CONNECT_SECONDS", 0.1)
    agent = Agent(Served(f"unix:{run_dir / 'nobody.sock'}"))
    assert "could be reached" in await ended(asyncio.create_task(agent.run()))


async def test_a_server_that_goes_away_ends_the_stream(run_dir: Path) -> None:
    served = Served(f"unix:{run_dir / 'ads.sock'}")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((served.service.handlers(),))
    server.add_insecure_port(served.address)
    await server.start()
    served.cache.set("p1", snapshot("cluster a@1", 1))
    running = asyncio.create_task(Agent(served).run())
    await until(lambda: served.seen.synced(1), "the first push acknowledged")
    await server.stop(None)
    assert await ended(running)


async def test_a_server_that_breaks_the_protocol(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(served)

    def receive(response: object) -> None:
        raise IntakeError("nonsense")

    monkeypatch.setattr(agent.intake, "receive", receive)
    served.cache.set("p1", snapshot("cluster a@1", 1))
    with pytest.raises(IntakeError):
        await asyncio.wait_for(agent.run(), 10)


async def test_the_cache_tells_the_latest_only() -> None:
    cache = SnapshotCache()
    watch = cache.watch("p1")
    waiting = asyncio.create_task(watch.next())
    first, second, third = (snapshot("", revision) for revision in (1, 2, 3))
    cache.set("p1", first)
    assert await asyncio.wait_for(waiting, 5) is first
    cache.set("p1", second)
    cache.set("p1", third)
    assert await asyncio.wait_for(watch.next(), 5) is third
    again = asyncio.create_task(watch.next())
    cache.set("p1", third)
    cache.set("p2", first)
    cache.remove("p2")
    await asyncio.sleep(0)
    assert not again.done()
    cache.remove("p1")
    assert await asyncio.wait_for(again, 5) is None
    watch.close()
    assert list(cache) == []


async def test_a_watcher_of_what_was_removed_sees_nothing_of_what_comes_in_its_place() -> None:
    cache = SnapshotCache()
    early, late = cache.watch("p1"), cache.watch("p1")
    cache.remove("p1")  # it had no snapshot yet
    assert await asyncio.wait_for(early.next(), 1) is None
    cache.set("p1", Snapshot())
    assert await asyncio.wait_for(late.next(), 1) is None
    fresh = cache.watch("p1")
    assert await asyncio.wait_for(fresh.next(), 1) is not None
