"""What a real server says of drains: the endpoint at once, and that everybody knows when everybody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshagent.cli.client import ServerRefused
from meshagent.protocol import host_pb2
from meshagent.specs.documents import document, parse_text
from tests.server.meshes import CATALOG, SHOP, WEB
from tests.server.serving import Conversation, Server, eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "data", "--lease-seconds", "3")
    made.start()
    made.apply([document(spec) for spec in parse_text(SHOP, "shop.yaml").specs])
    yield made
    made.close()


def health_of(server: Server) -> dict[str, str]:
    return {one["host"]: one["health"] for one in server.call("GET", "/v1/endpoints")["endpoints"]}


def status_of(placement: str, health: int = host_pb2.HEALTHY, **more: Any) -> host_pb2.Observed:
    status = host_pb2.PlacementStatus(id=placement, health=health, envoy_state="LIVE", **more)
    return host_pb2.Observed(placements=[status])


async def placement(talk: Conversation, test: Callable[[host_pb2.Placement], object]) -> host_pb2.Placement:
    """The first placement of the next desired state in which it is so."""
    while not test(found := (await talk.hear()).placements[0]):
        pass
    return found


async def test_h12_a_stop_is_heard_when_every_caller_has_taken_it(server: Server) -> None:
    caller, called = server.agent("a", WEB), server.agent("b", CATALOG, address="127.0.0.8")
    async with caller.watch() as web, called.watch() as catalog:
        web_id, catalog_id = (await web.hear()).placements[0].id, (await catalog.hear()).placements[0].id
        await catalog.say(status_of(catalog_id))
        await eventually("catalog to be an endpoint", lambda: health_of(server) == {"b": "healthy"})
        async with caller.ads(web_id, hold=True) as taken:
            await asyncio.wait_for(taken.get(), 15)
            taken.settle()
            await catalog.say(status_of(catalog_id, host_pb2.DRAINING, drain=7))
            await asyncio.wait_for(taken.get(), 15)
            assert health_of(server) == {"b": "draining"}
            hearing = asyncio.create_task(placement(catalog, lambda one: one.drain_seen))
            assert not (await asyncio.wait({hearing}, timeout=1.0))[0]
            taken.settle()
            assert (await hearing).drain_seen == 7
        # With nobody connected who calls it, there is nobody to wait for. Another drain is another number.
        await catalog.say(status_of(catalog_id, host_pb2.DRAINING, drain=8))
        assert (await placement(catalog, lambda one: one.drain_seen)).drain_seen == 8
        await catalog.say(status_of(catalog_id))
        await placement(catalog, lambda one: not one.drain_seen)
        await eventually("catalog to be back", lambda: health_of(server) == {"b": "healthy"})


async def test_h12_an_operators_drain_needs_no_agent_and_ends_at_once(server: Server) -> None:
    agent = server.agent("b", CATALOG)
    async with agent.watch() as talk:
        id_ = (await talk.hear()).placements[0].id
        await talk.say(status_of(id_))
        await eventually("catalog to be an endpoint", lambda: health_of(server) == {"b": "healthy"})
        answer = await asyncio.to_thread(server.call, "POST", "/v1/drain", {"host": "b"})
        assert answer == {"host": "b", "drained": True, "proxies": [id_]}
        # Before its agent has said a word.
        assert health_of(server) == {"b": "draining"}
        assert (await placement(talk, lambda one: one.drain)).drain_seen == 0
        await talk.say(status_of(id_, drain=5))
        assert (await placement(talk, lambda one: one.drain_seen)).drain_seen == 5
        await talk.say(status_of(id_, drain=5, drained=True))
        await eventually("status to say so", lambda: server.status()["proxies"][0]["drain"] == "drained")
        with pytest.raises(ServerRefused, match="undrain the host"):
            await asyncio.to_thread(server.call, "POST", "/v1/undrain", {"proxy": id_})
        await asyncio.to_thread(server.call, "POST", "/v1/undrain", {"host": "b"})
        assert health_of(server) == {"b": "healthy"}
        await placement(talk, lambda one: not one.drain)
    await asyncio.to_thread(server.call, "POST", "/v1/drain", {"proxy": id_})
    server.kill()
    await asyncio.to_thread(server.start)
    async with agent.watch() as talk:
        assert (await talk.hear()).placements[0].drain


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "the body must be"),
        ({"host": "a", "proxy": "b"}, "the body must be"),
        ({"host": "nobody"}, "there is no host 'nobody'"),
        ({"proxy": "none"}, "there is no proxy 'none'"),
    ],
)
def test_what_is_refused(server: Server, body: Any, words: str) -> None:
    for path in ("/v1/drain", "/v1/undrain"):
        with pytest.raises(ServerRefused, match=words):
            server.call("POST", path, body)
