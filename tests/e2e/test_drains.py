"""Drains and stops under load, with real Envoys and the traffic oracle running through all of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from meshagent.cli.local import ask
from meshagent.demo.checks import CATALOG
from meshagent.demo.traffic import Load, Oracle, until
from meshagent.demo.world import World
from tests.e2e.test_control_plane_faults import flowing

pytestmark = [pytest.mark.envoy, pytest.mark.e2e]

ALL_TO_V1 = """
kind: Route
meshName: shop
virtualRouterName: catalog
routeName: split
spec: {httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNode: catalog-v1, weight: 1}]}}}
"""


async def loaded(world: World, oracle: Oracle) -> Load:
    """Requests from web to catalog-v1, which runs on host-b and host-e."""
    (world.directory / "all-to-v1.yaml").write_text(ALL_TO_V1)
    await world.meshctl("apply", str(world.directory / "all-to-v1.yaml"))
    await world.in_sync(30)
    address = world.service_address("web", CATALOG)
    await world.answers(address, 8080, CATALOG)
    return oracle.http("web to catalog", address, 8080, host=CATALOG)


async def test_h12_a_drained_host_gets_no_requests_and_is_back_at_once(pair: World) -> None:
    async with Oracle() as oracle:
        load = await loaded(pair, oracle)
        await flowing(load)
        said = (await pair.meshctl("drain", "host-b", "--wait"))[1]
        assert said == "host-b is drained: 1 proxy\n"
        load.answers.clear()
        await flowing(load, requests=200)
        assert set(load.answers) == {"catalog-v1b"}
        proxies = await pair.proxies()
        assert (proxies["catalog-v1"]["health"], proxies["catalog-v1"]["drain"]) == ("draining", "drained")
        assert proxies["catalog-v1"]["envoy"]["state"] == "LIVE"
        # The drain outlives the agent, and a restart of the server.
        await pair.agents["host-b"].kill()
        await pair.server.kill()
        await pair.start_server()
        await pair.agents["host-b"].start()

        async def drained_again() -> bool:
            return bool((await pair.proxies())["catalog-v1"]["drain"] == "drained")

        await until("host-b to be drained still", drained_again, 20)
        load.answers.clear()
        await flowing(load, requests=100)
        assert set(load.answers) == {"catalog-v1b"}
        await pair.meshctl("undrain", "host-b")
        await until("host-b to answer again", lambda: _true(load.answers["catalog-v1"] > 10), 10)
        assert oracle.failed == 0, oracle.report()


async def test_h12_one_proxy_is_drained_by_its_id(pair: World) -> None:
    async with Oracle() as oracle:
        load = await loaded(pair, oracle)
        proxy = (await pair.proxies())["catalog-v1"]["proxy"]
        await pair.meshctl("drain", proxy, "--wait")
        load.answers.clear()
        await flowing(load, requests=100)
        assert set(load.answers) == {"catalog-v1b"}
        await pair.meshctl("undrain", proxy)
        await until("it to answer again", lambda: _true(load.answers["catalog-v1"] > 10), 10)
        assert oracle.failed == 0, oracle.report()
        status, _, words = await pair.meshctl("drain", "nobody", check=False)
        assert status == 1
        assert "there is no host and no proxy 'nobody'" in words


async def test_h12_envoys_that_are_stopped_in_order_lose_nothing(pair: World) -> None:
    async with Oracle() as oracle:
        load = await loaded(pair, oracle)
        await flowing(load)
        for service, host in (("catalog-v1", "host-b"), ("catalog-v1b", "host-e")):
            generation = pair.generation(service)
            instance = f"{pair.placement(service).name}-{generation['generation']}"
            agent = pair.directory / f"{host}-run" / "agent.sock"
            answer = await asyncio.to_thread(ask, agent, f"/proxies/{instance}/stop", "POST", None, 40.0)
            assert answer["words"].startswith("drained"), answer
            assert "cut" not in answer["words"]
            os.kill(generation["pid"], signal.SIGTERM)

            async def back(service: str = service, old: int = generation["pid"]) -> bool:
                return pair.generation(service)["pid"] not in (0, old)

            await until(f"{service} to have another Envoy", back, 20)
            await pair.in_sync(30)
            await flowing(load)
        assert oracle.failed == 0, oracle.report()


async def test_h12_without_an_agent_the_listeners_drain(pair: World) -> None:
    generation = pair.generation("catalog-v1")
    instance = f"{pair.placement('catalog-v1').name}-{generation['generation']}"
    await pair.agents["host-b"].kill()
    command = Path(pair.agents["host-b"].argv[0])
    process = await asyncio.create_subprocess_exec(
        command, "proxy", "stop", instance, "--config", pair.directory / "host-b.yaml",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, err
    assert out.decode() == f"{instance}: its listeners are drained\n"
    assert "no agent answers" in err.decode()
    await pair.agents["host-b"].start()


async def _true(value: bool) -> bool:
    return value
