"""The demo's checks. Each does something to the world under load, and asserts on what real requests and Envoy itself then say."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshagent.demo import envoy
from meshagent.demo.traffic import Load, Oracle, until
from meshagent.demo.world import DOCUMENTS, World

CATALOG, QUOTES, LEDGER = "catalog.shop.internal", "quotes.shop.internal", "ledger.shop.internal"
SETTLE = 30.0
SIGMAS = 5.0


@dataclass
class Demo:
    world: World
    oracle: Oracle
    say: Callable[[str], None]
    catalog: Load
    ledger: Load
    quotes: Load

    @classmethod
    async def begin(cls, world: World, oracle: Oracle, say: Callable[[str], None]) -> Demo:
        """Waits until web reaches what it calls, then puts the load of all that follows on it."""
        await world.answers(world.service_address("web", CATALOG), 8080)
        return cls(
            world, oracle, say,
            catalog=oracle.http("catalog (http)", world.service_address("web", CATALOG), 8080, rate=150),
            ledger=oracle.tcp("ledger (tcp)", world.service_address("web", LEDGER), 9000),
            quotes=oracle.grpc("quotes (grpc stream)", world.service_address("web", QUOTES), 9090),
        )  # fmt: skip

    async def requests(self, load: Load, count: int) -> None:
        """Waits until `count` more requests of a load have succeeded."""
        target = load.ok + count
        await until(f"{count} more requests to {load.name}", _async(lambda: load.ok >= target), 30 + count / 20)

    def none_failed(self, since: float) -> None:
        failures = [f"{load.name}: {words}" for load in self.oracle.loads for words in load.failures_since(since)]
        assert not failures, f"{len(failures)} requests failed, first: {failures[0]}"


def _async(condition: Callable[[], Any]) -> Callable[[], Any]:
    async def wrapped() -> Any:
        return condition()

    return wrapped


async def two_envoys(demo: Demo) -> None:
    since = time.monotonic()
    await demo.requests(demo.catalog, 300)
    await demo.requests(demo.ledger, 20)
    await demo.requests(demo.quotes, 20)
    demo.none_failed(since)
    prefix = "spiffe://mesh.local/mesh/shop/virtualNode/"
    callers = "\n".join(demo.catalog.callers)
    assert f"By={prefix}catalog-v1" in callers, f"catalog-v1 was not told its own SPIFFE ID: {callers}"
    assert f"URI={prefix}web" in callers, f"catalog was not told web's SPIFFE ID: {callers}"
    web, ledger = envoy.Admin.of(demo.world, "web"), envoy.Admin.of(demo.world, "ledger")
    for node, port, protocol, encrypted in (
        ("catalog-v1", 8080, "http", True),
        ("quotes", 9090, "grpc", True),
        ("ledger", 9000, "tcp", False),
    ):
        cluster = f"cluster.cds_egress_shop_{node}_{protocol}_{port}"
        stats = await web.stats(f"^{cluster}\\.(ssl.handshake|upstream_cx_total)$")
        assert stats[f"{cluster}.upstream_cx_total"] > 0, f"web's Envoy opened no connection to {node}"
        assert (stats.get(f"{cluster}.ssl.handshake", 0) > 0) is encrypted, f"web's Envoy to {node}: {stats}"
    received = await ledger.stats("^cluster.cds_ingress_shop_ledger_tcp_9000.upstream_cx_total$")
    assert sum(received.values()) > 0, "ledger's Envoy passed no connection on"
    demo.say(f"web -> Envoy -> mutual TLS -> Envoy -> catalog: {demo.catalog.ok} requests, 0 failed")
    demo.say(f"catalog sees: {next(iter(demo.catalog.callers))}")
    demo.say(
        f"a gRPC stream to quotes over mutual TLS, and {demo.ledger.ok} connections to ledger in plaintext between the Envoys"
    )


async def weights(demo: Demo) -> None:
    since = time.monotonic()
    await _share(demo, 0.9, "90/10")
    for document, share in (("split-50-50.yaml", 0.5), ("split-0-100.yaml", 0.0)):
        await demo.world.meshctl("apply", str(DOCUMENTS / document))
        await demo.world.in_sync(SETTLE)
        await demo.requests(demo.catalog, 60)  # those that were under way when the routes changed
        await _share(demo, share, document.removeprefix("split-").removesuffix(".yaml").replace("-", "/"))
    demo.none_failed(since)


async def _share(demo: Demo, share: float, what: str) -> None:
    before = demo.catalog.answers.copy()
    await demo.requests(demo.catalog, 1200)
    seen = demo.catalog.answers - before
    total, first = seen.total(), seen["catalog-v1"]
    bound = SIGMAS * math.sqrt(total * share * (1 - share))
    assert abs(first - total * share) <= bound, (
        f"{what}: catalog-v1 answered {first} of {total}, expected {total * share:.0f} +- {bound:.0f}"
    )
    demo.say(
        f"{what}: catalog-v1 answered {first} and catalog-v2 {seen['catalog-v2']} of {total} ({total * share:.0f} +- {bound:.0f} allowed)"
    )


async def server_dies(demo: Demo) -> None:
    world, since = demo.world, time.monotonic()
    await world.meshctl("apply", str(DOCUMENTS / "split-0-100.yaml"))
    before = await world.in_sync(SETTLE)
    await world.server.kill()
    demo.say("killed the server (SIGKILL)")
    await demo.requests(demo.catalog, 600)
    demo.none_failed(since)
    demo.say(f"{demo.catalog.ok} requests so far, none failed without a server")

    pid = world.generation("catalog-v1")["pid"]
    envoy.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    async def back() -> bool:
        generation = world.generation("catalog-v1")
        return generation["pid"] != pid and await envoy.Admin.of(world, "catalog-v1").live()

    await until("catalog-v1's Envoy to come back from the agent's cache", back, 10, every=0.05)
    demo.say(
        f"killed catalog-v1's Envoy too: live again from the agent's cache after {time.monotonic() - killed:.1f} s"
    )

    await world.start_server()
    after = await world.in_sync(SETTLE)
    resent = {node: proxy["sent"] for node, proxy in after.items() if proxy["sent"]}
    assert not resent, f"the returned server sent resources again: {resent}"
    assert {n: p["proxy"] for n, p in before.items()} == {n: p["proxy"] for n, p in after.items()}, (
        "proxies changed their ids"
    )
    demo.none_failed(since)
    demo.say(f"the server is back: {len(after)} proxies in sync, 0 resources sent again")


async def rotation(demo: Demo) -> None:
    since = time.monotonic()
    await demo.world.meshctl("apply", str(DOCUMENTS / "split-50-50.yaml"))
    before = await _serials(demo)
    demo.say(f"waiting for the {len(before)} proxies that speak mutual TLS to hold new certificates")

    async def rotated() -> dict[str, str] | None:
        now = await _serials(demo)
        return now if all(now[node] != serial for node, serial in before.items()) else None

    after = await until("new serials in every Envoy", rotated, 90, every=0.5)
    await demo.requests(demo.catalog, 300)
    demo.none_failed(since)
    for node in ("web", "catalog-v1"):
        demo.say(f"{node}'s Envoy: serial {before[node][:16]}... -> {after[node][:16]}...")


async def _serials(demo: Demo) -> dict[str, str]:
    """By service; ledger's Envoy speaks plaintext alone and holds none."""
    nodes = [service.name for host in demo.world.hosts for service in host.services if service.kind != "tcp"]
    return dict(
        zip(nodes, await asyncio.gather(*(envoy.Admin.of(demo.world, node).serial() for node in nodes)), strict=True)
    )


async def bad_document(demo: Demo) -> None:
    since = time.monotonic()
    path = DOCUMENTS / "bad-port.yaml"
    before = await demo.world.call("GET", "/v1/status")
    status, out, err = await demo.world.meshctl("apply", str(path), check=False)
    assert status == 1, f"meshctl apply ended with {status}: {out}{err}"
    refusal = next((line for line in err.splitlines() if "bad-port.yaml" in line), "")
    assert "bad-port.yaml:9:" in refusal, f"file and line are missing: {err}"
    assert "spec.listeners[0].portMapping.port" in refusal, f"the path is missing: {err}"
    demo.say(refusal.replace(str(DOCUMENTS) + "/", ""))
    _, documents, _ = await demo.world.meshctl("get", "VirtualNode", "catalog-v1", "--mesh", "shop", "--output", "json")
    assert "80800" not in documents and "8080" in documents
    assert (await demo.world.call("GET", "/v1/status"))["revision"] >= before["revision"]
    await demo.requests(demo.catalog, 100)
    demo.none_failed(since)


async def envoy_refuses(demo: Demo) -> None:
    since = time.monotonic()
    await demo.world.meshctl("apply", str(DOCUMENTS / "missing-certificate.yaml"))

    async def refused() -> str | None:
        rejected = (await demo.world.proxies())["web"]["rejected"]
        return next((r["words"] for r in rejected if "/etc/shop/web" in r["words"]), None)

    words = await until("web's refused listener in status", refused, SETTLE)
    _, table, _ = await demo.world.meshctl("status")
    assert "/etc/shop/web" in "".join(table.split()), f"meshctl status does not show Envoy's words:\n{table}"
    demo.say(f"Envoy's words in status: {words.strip()}")
    await demo.requests(demo.catalog, 300)
    demo.none_failed(since)
    await demo.world.meshctl("apply", str(DOCUMENTS / "shop.yaml"))

    async def mended() -> bool:
        return not (await demo.world.proxies())["web"]["rejected"]

    await until("the mended listener to be taken", mended, SETTLE)
    await demo.world.in_sync(SETTLE)
    demo.say("the document was mended: nothing is rejected any more")
