"""Faults of the control plane, with real Envoys and the traffic oracle running through all of it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from meshagent.cli.client import ServerRefused
from meshagent.demo import envoy
from meshagent.demo.checks import CATALOG, LEDGER, QUOTES
from meshagent.demo.traffic import Load, Oracle, until
from meshagent.demo.world import DOCUMENTS, World
from tests.e2e.conftest import LEASE

pytestmark = [pytest.mark.envoy, pytest.mark.e2e]

# The agent's longest timer is its reconnect back-off of 5 s.
THREE_TIMES_EVERY_TIMER = 3 * max(LEASE, 5)


async def full_load(world: World, oracle: Oracle) -> tuple[Load, Load, Load]:
    """200 requests a second to catalog, connections to ledger, a stream to quotes; settled before it returns."""
    address = world.service_address("web", CATALOG)
    await world.answers(address, 8080)
    loads = (
        oracle.http("catalog", address, 8080, rate=200),
        oracle.tcp("ledger", world.service_address("web", LEDGER), 9000, rate=50),
        oracle.grpc("quotes", world.service_address("web", QUOTES), 9090, rate=50),
    )
    await flowing(*loads)
    return loads


async def flowing(*loads: Load, requests: int = 100) -> None:
    """Every load has that many more successes."""
    goals = [load.ok + requests for load in loads]

    async def reached() -> bool:
        return all(load.ok >= goal for load, goal in zip(loads, goals, strict=True))

    await until(f"{requests} more successes of each load", reached, 60)


async def for_at_least(seconds: float, *loads: Load) -> None:
    """Traffic goes on for a time that the fault's definition asks for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await flowing(*loads, requests=20)


async def test_c1_the_only_server_is_killed_for_longer_than_every_timer(world: World) -> None:
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        await world.server.kill()
        await for_at_least(THREE_TIMES_EVERY_TIMER, *loads)
        assert oracle.failed == 0, oracle.report()

        # Endpoint health is still acted on by Envoy: of catalog-v1's two applications one goes, and web's Envoy finds out by itself.
        cluster = "cluster.cds_egress_shop_catalog-v1_http_8080"
        await world.services["catalog-v1b"].kill()

        async def found_out() -> bool:
            stats = await envoy.Admin.of(world, "web").stats(f"^{cluster}.membership_healthy$")
            return stats[f"{cluster}.membership_healthy"] == 1

        await until("web's Envoy to take catalog-v1b out by its own checks", found_out, 30)
        settled = time.monotonic()
        await flowing(*loads, requests=200)
        assert not [f for load in loads for f in load.failures_since(settled)], oracle.report()
        await world.services["catalog-v1b"].start()

        returned = time.monotonic()
        await world.start_server()
        proxies = await world.in_sync(30)
        assert time.monotonic() - returned < 30
        resent = {name: proxy["sent"] for name, proxy in proxies.items()}
        # web alone hears something: that catalog-v1b, which was away when the server came back, is healthy again.
        assert all(sent == 0 for name, sent in resent.items() if name != "web"), resent
        assert resent["web"] <= 2, resent
        await flowing(*loads)
        assert not [f for load in loads for f in load.failures_since(settled)], oracle.report()


def lose_configuration(store: Path) -> None:
    """What a botched restore does: the configuration is gone, the authority and the lineage are there."""
    with closing(sqlite3.connect(store)) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            if "key" in columns:
                database.execute(f"DELETE FROM {table} WHERE key LIKE 'config/%' OR key LIKE 'services/%'")  # noqa: S608


async def held_reasons(world: World) -> dict[str, str]:
    return {name: proxy["heldReason"] for name, proxy in (await world.proxies()).items()}


async def test_c9_the_server_starts_with_its_configuration_gone(world: World) -> None:
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        await world.server.kill()
        lose_configuration(world.server_data / "store.db")
        await world.start_server()

        async def all_hold() -> bool:
            reasons = await held_reasons(world)
            return len(reasons) == 6 and all(reasons.values())

        await until("every agent to refuse the empty configuration, and say so", all_hold, 30)
        await for_at_least(2 * LEASE, *loads)
        assert oracle.failed == 0, oracle.report()

        # The operator brings the configuration back: it is taken without a word more.
        await world.meshctl("apply", str(DOCUMENTS / "shop.yaml"))
        await world.in_sync(30)

        async def released() -> bool:
            return not any((await held_reasons(world)).values())

        await until("every agent to take the restored configuration", released, 30)
        await flowing(*loads)
        assert oracle.failed == 0, oracle.report()


async def test_c9_the_server_starts_with_everything_gone(world: World) -> None:
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        await world.server.kill()
        world.replace_server(data="server-from-nothing")
        await world.start_server()
        await for_at_least(THREE_TIMES_EVERY_TIMER, *loads)
        assert oracle.failed == 0, oracle.report()
        assert await world.proxies() == {}, "agents of another authority connected"

        # They come back by a join with a new token, and still keep what they have until an operator confirms.
        await world.meshctl("apply", str(DOCUMENTS / "shop.yaml"))
        for host in world.hosts:
            await world.agents[host.name].stop()
            await world.configure_agent(host)
            await world.agents[host.name].start()

        async def all_hold() -> bool:
            reasons = await held_reasons(world)
            return len(reasons) == 6 and all("lineage" in reason for reason in reasons.values())

        await until("every agent to name the other lineage", all_hold, 60)
        await flowing(*loads)
        assert oracle.failed == 0, oracle.report()

        await world.meshctl("accept", "--all")

        async def released() -> bool:
            return not any((await held_reasons(world)).values())

        await until("every agent to take the accepted lineage", released, 30)
        await world.in_sync(30)
        await flowing(*loads)
        assert oracle.failed == 0, oracle.report()


SPLIT = {"kind": "Route", "meshName": "shop", "virtualRouterName": "catalog", "routeName": "split"}
SERVICE = {"kind": "VirtualService", "meshName": "shop", "virtualServiceName": CATALOG}
NODE = {"kind": "VirtualNode", "meshName": "shop", "virtualNodeName": "ledger"}
TARGETS = {"weightedTargets": [{"virtualNode": "catalog-v1", "weight": 1}]}
PROVIDERS = {"virtualNode": {"virtualNodeName": "web"}, "virtualRouter": {"virtualRouterName": "catalog"}}
DNS = {"dns": {"hostname": "ledger.shop.internal"}}

# Document, and the path that the refusal must name.
BAD: dict[str, tuple[dict[str, object], str]] = {
    "an invalid regex": (
        {**SPLIT, "spec": {"httpRoute": {"match": {"path": {"regex": "/a(b"}}, "action": TARGETS}}},
        "spec.httpRoute.match.path.regex",
    ),
    "two members of a union": ({**SERVICE, "spec": {"provider": PROVIDERS}}, "spec.provider"),
    "a port out of range": (
        {**NODE, "spec": {"listeners": [{"portMapping": {"port": 70000, "protocol": "tcp"}}], "serviceDiscovery": DNS}},
        "spec.listeners[0].portMapping.port",
    ),
    "oversize": ({**NODE, "spec": {"serviceDiscovery": {"dns": {"hostname": "x" * (1 << 21)}}}}, ""),
}


async def test_c12_a_bad_configuration_is_refused_or_shows_as_envoys_nack(world: World) -> None:
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        for what, (document, path) in BAD.items():
            file = world.directory / "bad.json"
            file.write_text(json.dumps(document))
            status, _, err = await world.meshctl("apply", str(file), check=False)
            assert status == 1, f"{what}: {err}"
            assert path in err, f"{what}: {err}"
            # The API itself refuses, too, whatever the client checked before.
            with pytest.raises(ServerRefused) as refused:
                await world.call("POST", "/v1/apply", {"documents": [document], "dryRun": False})
            assert refused.value.status in (400, 413), f"{what}: {refused.value}"
            assert path in str(refused.value), f"{what}: {refused.value}"
        await flowing(*loads)
        assert not any(proxy["rejected"] for proxy in (await world.proxies()).values())

        await world.meshctl("apply", str(DOCUMENTS / "missing-certificate.yaml"))

        async def refused_by_envoy() -> str:
            words = [r["words"] for r in (await world.proxies())["web"]["rejected"]]
            return next((w for w in words if "/etc/shop/web" in w), "")

        await until("Envoy's words on the missing file", refused_by_envoy, 30)
        await flowing(*loads, requests=200)
        assert oracle.failed == 0, oracle.report()

        # The last good survives a restart of Envoy, too: the refused listener is not what the cache holds.
        pid = world.generation("web")["pid"]
        accepted = await envoy.Admin.of(world, "web").get("/listeners")
        oracle_until_now = oracle.failed
        assert oracle_until_now == 0
        envoy.kill(pid, 9)

        async def same_listeners() -> bool:
            generation = world.generation("web")
            if generation["pid"] == pid or not await envoy.Admin.of(world, "web").live():
                return False
            return sorted((await envoy.Admin.of(world, "web").get("/listeners")).split()) == sorted(accepted.split())

        await until("web's Envoy to be back with the listeners it had", same_listeners, 10)
        await asyncio.wait_for(flowing(*loads), 30)
