"""The server as a process: joins over HTTPS, hosts over mutual TLS, restarts, rolled back stores, foreign lineages, previews."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from meshagent.cli.client import ServerRefused
from meshagent.identity import x509
from meshagent.protocol import host_pb2
from meshagent.specs.documents import document, parse_text
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import ENDPOINT, LISTENER, ROUTE, Stamp
from tests.server.meshes import CATALOG, SHOP, WEB
from tests.server.serving import Agent, Server, eventually, mode_of

OPTIONS = ("--lease-seconds", "2", "--certificate-life", "1h")


def documents(text: str = SHOP) -> list[Any]:
    return [document(spec) for spec in parse_text(text, "shop.yaml").specs]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "data", *OPTIONS)
    made.start()
    made.apply(documents())
    yield made
    made.close()


def status_of(placement: str, health: int = host_pb2.HEALTHY, **more: Any) -> host_pb2.PlacementStatus:
    return host_pb2.PlacementStatus(id=placement, health=health, envoy_state="LIVE", **more)


def endpoints(server: Server) -> dict[str, str]:
    return {one["address"]: one["health"] for one in server.call("GET", "/v1/endpoints")["endpoints"]}


def proxy(server: Server, id_: str) -> Any:
    return next(one for one in server.status()["proxies"] if one["proxy"] == id_)


def test_the_operators_files_and_a_graceful_stop(server: Server) -> None:
    admin = server.directory / "admin"
    assert mode_of(server.directory) == 0o700
    assert mode_of(admin / "access-key.json") == 0o600
    assert mode_of(server.directory / "store.db") == 0o600
    key = (admin / "access-key.json").read_bytes()
    lineage = server.status()["lineage"]
    assert server.kill(signal.SIGTERM) == 0
    server.start()
    assert (admin / "access-key.json").read_bytes() == key
    assert server.status()["lineage"] == lineage


def test_nobodys_handshakes_fill_no_log(server: Server) -> None:
    host, _, port = server.xds.rpartition(":")
    before = server.log.read_text()
    for _ in range(20):
        with socket.create_connection((host, int(port)), 5) as sock:
            sock.sendall(b"nobody's hello")
            with contextlib.suppress(ConnectionError):
                while sock.recv(1024):  # until it is refused
                    pass
    assert server.log.read_text() == before


def test_a_host_joins_once_and_again_with_the_same_key_only(server: Server) -> None:
    agent = server.agent("a", WEB)
    leaf = x509.read_leaf(agent.chain)
    assert str(leaf.spiffe_id) == "spiffe://mesh.local/host/a"
    again = server.join("a", agent.key, agent.token)
    assert x509.read_leaf(again["chain"].encode()).public_key_sha256 == leaf.public_key_sha256
    assert again["servers"] == [server.xds]
    with pytest.raises(PermissionError, match="already used"):
        server.join("a", x509.new_key(), agent.token)
    tokens = server.call("GET", "/v1/tokens")["tokens"]
    assert [one["usedBy"]["host"] for one in tokens] == ["a"]


async def test_a_host_gets_its_placements_its_certificates_and_its_proxys_snapshot(server: Server) -> None:
    agent = server.agent("a", WEB, "mesh/bank/virtualNode/vault", allow=[WEB])
    async with agent.watch() as talk:
        desired = await talk.hear()
        (placement,) = desired.placements
        assert (placement.resource, placement.slot, placement.address) == (WEB, 0, "127.0.0.9")
        assert [name.service for name in placement.names] == ["catalog.shop.internal"]
        assert desired.lease_seconds == 2
        assert "join token allows" in desired.problems[0].words
        signed = await agent.sign(placement.id)
        assert str(x509.read_leaf(signed.chain).spiffe_id) == f"spiffe://mesh.local/{WEB}"
        assert str(x509.read_leaf((await agent.sign("")).chain).spiffe_id) == "spiffe://mesh.local/host/a"
        async with agent.ads(placement.id) as taken:
            snapshot = await asyncio.wait_for(taken.get(), 15)
            assert snapshot.stamp.reason == "specified"
            assert snapshot.of(LISTENER)
            await eventually("web to be in sync", lambda: proxy(server, placement.id)["synced"])
            await asyncio.to_thread(server.apply, documents(SHOP.replace("prefix: /", "prefix: /v2")))
            changed = await asyncio.wait_for(taken.get(), 15)
            assert changed.stamp.revision > snapshot.stamp.revision
            assert changed.of(LISTENER) == snapshot.of(LISTENER)


async def test_a_host_gets_nothing_of_another_hosts(server: Server) -> None:
    one, two = server.agent("a", WEB), server.agent("b", CATALOG)
    async with one.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        with pytest.raises(grpc.aio.AioRpcError, match="runs no placement"):
            await two.sign(placement)
        async with two.watch() as other:
            await other.hear()
            async with two.ads(placement) as taken:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(taken.get(), 1.0)


async def test_names_change_with_the_mesh(server: Server) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        await talk.hear()
        more = SHOP.replace(
            "backends: [", "backends: [{virtualService: {virtualServiceName: ledger.shop.internal}}, "
        ) + (
            "\n---\nkind: VirtualService\nmeshName: shop\nvirtualServiceName: ledger.shop.internal\n"
            "spec: {provider: {virtualNode: {virtualNodeName: catalog}}}\n"
        )
        await asyncio.to_thread(server.apply, documents(more))
        names = {name.service: name.address for name in (await talk.hear()).placements[0].names}
        assert names == {"catalog.shop.internal": "127.64.0.1", "ledger.shop.internal": "127.64.0.2"}


async def test_health_makes_endpoints_and_silence_ends_them(server: Server) -> None:
    web, catalog = server.agent("a", WEB), server.agent("b", CATALOG, address="127.0.0.8")
    async with web.watch() as caller, catalog.watch() as talk:
        web_id, catalog_id = (await caller.hear()).placements[0].id, (await talk.hear()).placements[0].id
        async with web.ads(web_id) as taken:
            await asyncio.wait_for(taken.get(), 15)
            await talk.say(host_pb2.Observed(placements=[status_of(catalog_id, host_pb2.HEALTH_UNSPECIFIED)]))
            await talk.say(host_pb2.Observed(placements=[status_of(catalog_id)]))
            snapshot = await asyncio.wait_for(taken.get(), 15)
            assert b"127.0.0.8" in snapshot.of(ENDPOINT)["cds_egress_shop_catalog_http_8080"].body
            assert await asyncio.to_thread(endpoints, server) == {"127.0.0.8": "healthy"}
            await talk.say(host_pb2.Observed(placements=[status_of(catalog_id, host_pb2.UNHEALTHY)]))
            await asyncio.wait_for(taken.get(), 15)
            assert await asyncio.to_thread(endpoints, server) == {"127.0.0.8": "unhealthy"}
            # Nothing more is heard of it: the caller goes on saying that it is there.
            talk.silent = True
            await eventually("the silent host's endpoint to leave", lambda: not endpoints(server), 10)


async def test_a_reconnecting_host_keeps_its_lease_and_its_slots(server: Server) -> None:
    agent = server.agent("b", CATALOG)
    async with agent.watch() as talk:
        first = (await talk.hear()).placements[0]
        await talk.say(host_pb2.Observed(placements=[status_of(first.id)]))
        # A word is heard when all that the ones before it brought is written.
        for health in (host_pb2.UNHEALTHY, host_pb2.HEALTHY):
            await talk.say(host_pb2.Observed(placements=[status_of(first.id, health)]))
            words = host_pb2.Health.Name(health).lower()
            await eventually(f"a {words} endpoint", lambda words=words: words in endpoints(server).values())
    revision = (await asyncio.to_thread(server.status))["revision"]
    async with agent.watch() as talk:
        again = (await talk.hear()).placements[0]
        assert again == first
        await talk.say(host_pb2.Observed(placements=[status_of(first.id)]))
        await talk.say(host_pb2.Observed(placements=[status_of(first.id)]))
        assert (await asyncio.to_thread(server.status))["revision"] == revision


async def test_a_host_s_facts_are_seen_and_what_stays_of_them_is_kept(server: Server) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        await talk.hear()
        told = host_pb2.Facts(os="debian", zone="eu-west-1a", load=0.5, cpus=2)
        await talk.say(host_pb2.Observed(facts=told))
        await talk.say(host_pb2.Observed())  # as before
        await eventually("the facts", lambda: only_host(server)["facts"])
        found = await asyncio.to_thread(only_host, server)
        assert (found["facts"]["os"], found["facts"]["cpus"], found["facts"]["load"]) == ("debian", 2, 0.5)
        # A word is heard when all that the ones before it brought is written.
        told.load = 1.0
        await talk.say(host_pb2.Observed(facts=told))
        await eventually("the next load", lambda: only_host(server)["facts"]["load"] == 1.0)
        revision = (await asyncio.to_thread(server.status))["revision"]
        told.load = 4.0
        await talk.say(host_pb2.Observed(facts=told))
        await eventually("the load", lambda: only_host(server)["facts"]["load"] == 4.0)
        assert (await asyncio.to_thread(server.status))["revision"] == revision, "a load is no change of what is kept"


def only_host(server: Server) -> Any:
    return server.status()["hosts"][0]


async def test_what_envoy_refuses_shows_in_its_words(server: Server) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        words = "listener lds_ingress_127.0.0.9_8080: no such file"
        name = "lds_ingress_127.0.0.9_8080"
        async with agent.ads(placement, [Rejection(LISTENER, name, "v1", words)]) as taken:
            candidate = await asyncio.wait_for(taken.get(), 15)
            version = candidate.of(LISTENER)[name].version
            told = host_pb2.Rejection(type_url=LISTENER, name=name, version=version, words=words)
            await talk.say(host_pb2.Observed(placements=[status_of(placement, rejections=[told])]))
            shown = await eventually("Envoy's words", lambda: proxy(server, placement)["rejected"])
            assert (shown[0]["type"], shown[0]["words"]) == ("listener", words)
            assert not (await asyncio.to_thread(proxy, server, placement))["synced"]


async def test_c1_killed_and_back_nothing_is_resent(server: Server) -> None:
    agent = server.agent("a", WEB)
    lineage = server.status()["lineage"]
    async with agent.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        async with agent.ads(placement) as taken:
            await asyncio.wait_for(taken.get(), 15)
    server.kill(signal.SIGKILL)
    await asyncio.to_thread(server.start)
    assert server.status()["lineage"] == lineage
    agent.offered.clear()
    async with agent.watch() as talk, agent.ads(placement) as taken:
        await talk.hear()
        await eventually("the proxy to be in sync", lambda: proxy(server, placement)["synced"])
        assert taken.empty()
        assert not agent.offered


async def test_c8_a_rolled_back_store_is_said_and_refuses_writes_until_accepted(server: Server, tmp_path: Path) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        await talk.hear()
    server.kill(signal.SIGTERM)
    shutil.copytree(server.directory, tmp_path / "backup")
    await asyncio.to_thread(server.start)
    for number in range(3):
        await asyncio.to_thread(server.apply, documents(SHOP.replace("prefix: /", f"prefix: /{number}")))
    status = await asyncio.to_thread(server.status)
    agent.held = host_pb2.Stamp(lineage=status["lineage"], revision=status["revision"])
    server.kill(signal.SIGTERM)
    shutil.rmtree(server.directory)
    shutil.copytree(tmp_path / "backup", server.directory)
    await asyncio.to_thread(server.start)
    async with agent.watch() as talk:
        desired = await talk.hear()
        assert desired.stamp.lineage == status["lineage"]
        assert desired.stamp.revision < agent.held.revision
        assert "rolled back" in (await asyncio.to_thread(server.status))["rolledBack"]
        with pytest.raises(ServerRefused, match="rolled back"):
            await asyncio.to_thread(server.apply, documents(SHOP.replace("prefix: /", "prefix: /9")))
        accepted = await asyncio.to_thread(server.call, "POST", "/v1/accept", {"all": True})
        assert accepted["replaces"] == [status["lineage"]]
        desired = await talk.hear()
        assert desired.stamp.lineage == accepted["lineage"]
        assert list(desired.replaces) == [status["lineage"]]
    await asyncio.to_thread(server.apply, documents(SHOP.replace("prefix: /", "prefix: /9")))
    assert not (await asyncio.to_thread(server.status))["rolledBack"]


async def test_a_rolled_back_store_is_remembered_over_a_restart(server: Server) -> None:
    agent = server.agent("a", WEB)
    status = server.status()
    agent.held = host_pb2.Stamp(lineage=status["lineage"], revision=status["revision"] + 1000)
    async with agent.watch() as talk:
        await talk.hear()
    server.kill(signal.SIGKILL)
    await asyncio.to_thread(server.start)
    assert "rolled back" in server.status()["rolledBack"]


async def test_one_host_is_released_until_it_has_taken_what_is_ours(server: Server) -> None:
    """Although its proxy has all there is already, of another lineage."""
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        async with agent.ads(placement) as taken:
            ours = await asyncio.wait_for(taken.get(), 15)
    foreign = agent.held = host_pb2.Stamp(lineage="foreign", revision=7)
    agent.snapshots[placement] = replace(ours, stamp=Stamp("foreign", 7))
    async with agent.watch() as talk, agent.ads(placement, hold=True) as taken:
        assert not (await talk.hear()).accept
        again = await asyncio.wait_for(taken.get(), 15)
        assert (again.resources, again.stamp.lineage) == (ours.resources, ours.stamp.lineage)
        await asyncio.to_thread(server.call, "POST", "/v1/accept", {"host": "a"})
        desired = await talk.hear()
        assert desired.accept
        await talk.say(host_pb2.Observed(held=foreign, placements=[status_of(placement, held=foreign)]))
        await talk.say(host_pb2.Observed(held=desired.stamp, placements=[status_of(placement, held=foreign)]))
        taken.settle()
        await talk.say(host_pb2.Observed(held=desired.stamp, placements=[status_of(placement, held=desired.stamp)]))
        while (desired := await talk.hear()).accept:
            pass
    with pytest.raises(ServerRefused, match="no host"):
        await asyncio.to_thread(server.call, "POST", "/v1/accept", {"host": "nobody"})


async def test_accepting_all_succeeds_what_hosts_hold_of_other_lineages(server: Server) -> None:
    agent = server.agent("a", WEB)
    agent.held = host_pb2.Stamp(lineage="foreign", revision=7)
    async with agent.watch() as talk:
        await talk.hear()
        before = (await asyncio.to_thread(server.status))["lineage"]
        accepted = await asyncio.to_thread(server.call, "POST", "/v1/accept", {"all": True})
        assert accepted["replaces"] == [before, "foreign"]
        assert list((await talk.hear()).replaces) == [before, "foreign"]


async def test_a_removed_host_is_told_and_gets_nothing_more(server: Server) -> None:
    agent = server.agent("b", CATALOG)
    async with agent.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        await talk.say(host_pb2.Observed(placements=[status_of(placement)]))
        await eventually("the endpoint", lambda: endpoints(server))
        await asyncio.to_thread(server.call, "DELETE", "/v1/hosts/b")
        with pytest.raises(ConnectionError, match="removed by an operator"):
            while True:
                await talk.hear()
    assert await asyncio.to_thread(endpoints, server) == {}
    async with agent.watch() as talk:
        with pytest.raises(ConnectionError, match=r"PERMISSION_DENIED.*not known here"):
            await talk.hear()
    with pytest.raises(grpc.aio.AioRpcError, match="not known here"):
        await agent.sign("")


async def test_a_second_connection_of_a_host_takes_over(server: Server) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as first:
        await first.hear()
        async with agent.watch() as second:
            await second.hear()
            with pytest.raises(ConnectionError, match="took over"):
                await first.hear()
            assert (await asyncio.to_thread(server.status))["hosts"][0]["connected"]


async def test_a_preview_shows_what_changes_in_which_proxies(server: Server) -> None:
    agents: list[Agent] = [server.agent("a", WEB), server.agent("b", CATALOG)]
    for agent in agents:
        async with agent.watch() as talk:
            await talk.hear()
    answer = await asyncio.to_thread(server.apply, documents(SHOP.replace("prefix: /", "prefix: /v2")), True)
    (change,) = answer["proxies"]
    assert (change["resource"], change["type"], change["change"]) == (WEB, "route", "changed")
    assert change["name"].startswith("rds_egress_shop_catalog")
    prefix = [side["virtual_hosts"][0]["routes"][0]["match"]["prefix"] for side in (change["before"], change["after"])]
    assert prefix == ["/", "/v2"]
    assert ROUTE not in str(change)
    # Nothing was written.
    assert (await asyncio.to_thread(server.apply, documents(), True))["proxies"] == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"placements": []}, "placements must be"),
        ({"placements": ["shop"]}, "such as mesh/shop/virtualNode/web"),
        ({"placements": [WEB], "lifeSeconds": 0}, "lifeSeconds"),
        ({"placements": [WEB], "host": "a b"}, "host"),
        ({"placements": [WEB], "hots": "a"}, "unknown field 'hots'"),
    ],
)
def test_tokens_that_are_not_made(server: Server, body: Any, words: str) -> None:
    with pytest.raises(ServerRefused, match=words):
        server.call("POST", "/v1/tokens", body)


async def test_a_removed_host_loses_its_streams_its_certificates_and_its_token(server: Server) -> None:
    agent = server.agent("a", WEB)
    async with agent.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        await talk.say(host_pb2.Observed(placements=[status_of(placement)]))
        await eventually("web to be an endpoint", lambda: endpoints(server))
        async with agent.ads(placement) as taken:
            await asyncio.wait_for(taken.get(), 15)
            await eventually("its stream to be seen", lambda: proxy(server, placement)["connected"])
            await asyncio.to_thread(server.call, "DELETE", "/v1/hosts/a")
            with pytest.raises(ConnectionError, match="removed by an operator"):
                while True:
                    await talk.hear()
            with pytest.raises(grpc.aio.AioRpcError, match="not known here"):
                await agent.sign("")
    assert not await asyncio.to_thread(endpoints, server)
    async with agent.watch() as talk:
        with pytest.raises(ConnectionError, match="PERMISSION_DENIED"):
            await talk.hear()
    with pytest.raises(PermissionError, match="join token refused"):
        server.join("a", agent.key, agent.token)
    # Its name is used again: what was issued to it is told from what is issued now, to the second.
    await asyncio.sleep(1.0)
    fresh = server.agent("a", WEB)
    async with fresh.watch() as talk:
        assert (await talk.hear()).placements[0].id == placement
        with pytest.raises(grpc.aio.AioRpcError, match="joined anew"):
            await agent.sign("")
        async with agent.watch() as old:
            with pytest.raises(ConnectionError, match=r"PERMISSION_DENIED.*joined anew"):
                await old.hear()
        async with agent.ads(placement) as taken:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(taken.get(), 1.0)
        async with fresh.ads(placement) as taken:
            await asyncio.wait_for(taken.get(), 15)


async def test_a_token_under_another_hosts_name_opens_nothing_of_that_host(server: Server) -> None:
    owner = server.agent("a", WEB)
    async with owner.watch() as talk:
        placement = (await talk.hear()).placements[0].id
        thief = server.agent("a", CATALOG)
        with pytest.raises(grpc.aio.AioRpcError, match="runs no placement"):
            await thief.sign(placement)
        async with thief.ads(placement) as taken:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(taken.get(), 1.0)
