"""The real Envoy takes what AdsStream sends, in both protocols, and says what the state machine counts on."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from meshagent.xds.messages import Protocol
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER
from tests.xds.real import Backend, ask, cluster, endpoints, listener, route, running, snapshot, until

pytestmark = pytest.mark.envoy
both = pytest.mark.parametrize("protocol", list(Protocol))


def _more(now: Counter[str], before: Counter[str], name: str) -> bool:
    return now[name] > before[name]


def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@both
async def test_starts_with_nothing_and_takes_all_that_comes(
    envoy_binary: Path, run_dir: Path, protocol: Protocol
) -> None:
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        await relay.synced(snapshot(1))
        await envoy.live()
        at = port()
        await relay.synced(snapshot(2, cluster("a"), endpoints("a", one.port), listener("l", at, "r"), route("r", "a")))
        assert await ask(at) == "one"
        await relay.synced(snapshot(3))
        assert (await ask(at)).startswith("failed")
        assert not relay.seen.stream.acked[CLUSTER]
        assert not relay.seen.stream.acked[LISTENER]


@both
async def test_starts_with_everything(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        at = port()
        await relay.synced(snapshot(1, cluster("a"), endpoints("a", one.port), listener("l", at, "r"), route("r", "a")))
        await envoy.live()
        assert await ask(at) == "one"


@both
async def test_changes_under_requests_fail_none(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    """Clusters come and go, change in place and move their endpoints, while requests run: none fails."""
    async with Backend("one") as one, Backend("two") as two, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        at = port()
        front = listener("l", at, "r")
        await relay.synced(snapshot(1, cluster("a"), endpoints("a", one.port), front, route("r", "a")))
        await envoy.live()
        answers: Counter[str] = Counter()
        over = asyncio.Event()

        async def load() -> None:
            while not over.is_set():
                answers[await ask(at)] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for turn in range(1, 6):
                # Another cluster, and the route with it; the old one goes.
                b = cluster("b", connectTimeout=f"{turn}s")
                await relay.synced(snapshot(10 * turn, b, endpoints("b", two.port), front, route("r", "b")))
                before = answers.copy()
                await until(partial(_more, answers, before, "two"), "answers from the new cluster")
                # The cluster changes in place: Envoy warms a new one under the name, and needs its endpoints again.
                b = cluster("b", connectTimeout=f"{turn + 10}s")
                await relay.synced(snapshot(10 * turn + 1, b, endpoints("b", two.port), front, route("r", "b")))
                # Two steps of different types at once, and the next offer before they are through.
                relay.offer(snapshot(10 * turn + 2, b, endpoints("b", one.port), front, route("r", "b")))
                a = cluster("a", connectTimeout=f"{turn}s")
                await relay.synced(snapshot(10 * turn + 3, a, endpoints("a", one.port), front, route("r", "a")))
            over.set()
        assert set(answers) == {"one", "two"}, answers
        assert await envoy.stat("cluster_manager.warming_clusters") == 0


@both
async def test_changed_cluster_is_warm_at_once(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    """Were its endpoints not sent again, it would warm for the 15 s of a fetch's time limit."""
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        await relay.synced(snapshot(1, cluster("a"), endpoints("a", one.port)))
        await envoy.live()
        relay.offer(snapshot(2, cluster("a", connectTimeout="3s"), endpoints("a", one.port)))
        await until(lambda: relay.seen.synced(2), "the changed cluster acknowledged", seconds=5)


@both
async def test_refusal_is_partial(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        taken, at, beside = port(), port(), port()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", taken))
            sock.listen()
            bad = listener("bad", taken, "r", enableReusePort=False)
            rest = (cluster("a"), endpoints("a", one.port), route("r", "a"))
            await relay.synced(snapshot(1, *rest, bad, listener("l", at, "r"), listener("m", beside, "r")))
            await envoy.live()
            (rejection,) = relay.seen.stream.rejected
            assert (rejection.type_url, rejection.name, rejection.version) == (LISTENER, "bad", bad.version)
            assert "Address already in use" in rejection.words
            assert await ask(at) == await ask(beside) == "one"
            # It is not sent again with what else changes.
            await relay.synced(snapshot(2, *rest, bad, listener("l", at, "r")))
            assert await envoy.stat("listener_manager.lds.update_rejected") == 1
            assert [each.name for each in relay.seen.stream.rejected] == ["bad"]
        # The resource changes: Envoy is asked again, and takes it.
        await relay.synced(snapshot(3, *rest, listener("bad", taken, "r"), listener("l", at, "r")))
        assert relay.seen.stream.rejected == ()
        assert await ask(taken) == "one"


@both
async def test_invalid_cluster_is_kept_out_alone(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    """An invalid message is refused before anything of its response is applied; the good ones get in all the same."""
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        bad = cluster("bad", connectTimeout="-1s")
        good = (cluster("a"), endpoints("a", one.port), cluster("c"), endpoints("c", one.port))
        await relay.synced(snapshot(1, bad, *good))
        await envoy.live()
        assert [(each.type_url, each.name) for each in relay.seen.stream.rejected] == [(CLUSTER, "bad")]
        assert set(relay.seen.stream.acked[CLUSTER]) == {"a", "c"}
        _, clusters = await envoy.get("/clusters")
        assert "a::" in clusters
        assert "c::" in clusters


async def test_bad_endpoints_are_kept_out_alone(envoy_binary: Path, run_dir: Path) -> None:
    async with Backend("one") as one, running(envoy_binary, run_dir, Protocol.DELTA) as (relay, envoy):
        names = ("a", "b", "c", "d")
        good = {name: endpoints(name, one.port) for name in names}
        await relay.synced(snapshot(1, *map(cluster, names), *good.values()))
        await envoy.live()
        changed = {name: endpoints(name, one.port, 1) for name in names}
        # An address that is no IP address: only the cluster that the assignment is for notices.
        changed["b"] = type(changed["b"]).of(ENDPOINT, "b", changed["b"].body.replace(b"127.0.0.1", b"127.0.0.x"))
        await relay.synced(snapshot(2, *map(cluster, names), *changed.values()))
        assert [(each.type_url, each.name) for each in relay.seen.stream.rejected] == [(ENDPOINT, "b")]
        acked = relay.seen.stream.acked[ENDPOINT]
        assert acked == {name: (good if name == "b" else changed)[name].version for name in names}
        _, clusters = await envoy.get("/clusters")
        assert {name for name in names if f"{name}::127.0.0.1:1::" in clusters} == {"a", "c", "d"}


@both
async def test_reconnect_sends_nothing(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    async with Backend("one") as one, running(envoy_binary, run_dir, protocol) as (relay, envoy):
        at = port()
        held = snapshot(1, cluster("a"), endpoints("a", one.port), listener("l", at, "r"), route("r", "a"))
        await relay.synced(held)
        await envoy.live()
        names = ("cluster_manager.cds.update_success", "listener_manager.lds.update_success")
        before = [await envoy.stat(name) for name in names]
        await relay.stop()
        assert await ask(at) == "one"
        await relay.start()
        await until(lambda: relay.seen.synced(1), "the same snapshot recognised on a new stream")
        assert [await envoy.stat(name) for name in names] == before
        assert relay.seen.stream._nonces == 0
        assert relay.seen.stream.acked == {
            type_url: {name: resource.version for name, resource in held.of(type_url).items()}
            for type_url in relay.seen.stream.acked
        }
