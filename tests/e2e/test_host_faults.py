"""Faults of hosts, Envoys, applications and joins, with real Envoys and the traffic oracle running through all of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from meshagent.demo import envoy
from meshagent.demo.checks import CATALOG
from meshagent.demo.traffic import Oracle, until
from meshagent.demo.world import DOCUMENTS, SHOP, Host, World
from meshagent.identity import tokens
from tests.e2e.conftest import SERVER_OPTIONS
from tests.e2e.test_control_plane_faults import flowing, full_load

pytestmark = [pytest.mark.envoy, pytest.mark.e2e]


# With the default lease: all agents are away for longer than a short one lasts where their starts take seconds.
@pytest.mark.parametrize("world", [()], indirect=True, ids=[""])
async def test_h1_a_killed_agent_leaves_envoy_and_traffic_untouched(world: World) -> None:
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        pids = {name: world.generation(name)["pid"] for name in world.services}
        for _ in range(3):
            for agent in world.agents.values():
                await agent.kill()
            await flowing(*loads, requests=50)
            for agent in world.agents.values():
                await agent.start()
            await world.in_sync(30)
        assert {name: world.generation(name)["pid"] for name in world.services} == pids, (
            "an agent started a second Envoy"
        )
        await flowing(*loads)
        assert oracle.failed == 0, oracle.report()
        assert envoys_of(world) == len(pids)


def envoys_of(world: World) -> int:
    """Envoy processes, by their command lines, whose bootstrap lies in this world's directory."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            argv = path.read_bytes().split(b"\0")
            count += argv[0].endswith(b"/envoy") and any(str(world.directory).encode() in part for part in argv[1:])
    return count


# App Mesh's hidden default does not retry what was under way when a connection broke, since it may have had its effect.
# These callers say that they may.
MAY_RETRY = """
kind: Route
meshName: shop
virtualRouterName: catalog
routeName: split
spec:
  httpRoute:
    match: {prefix: /}
    action: {weightedTargets: [{virtualNode: catalog-v1, weight: 90}, {virtualNode: catalog-v2, weight: 10}]}
    retryPolicy:
      maxRetries: 3
      perRetryTimeout: {value: 2, unit: s}
      httpRetryEvents: [server-error]
      tcpRetryEvents: [connection-error]
"""


async def test_h2_a_killed_envoy_is_back_in_two_seconds_with_its_whole_configuration(world: World) -> None:
    (world.directory / "may-retry.yaml").write_text(MAY_RETRY)
    await world.meshctl("apply", str(world.directory / "may-retry.yaml"))
    await world.in_sync(30)
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        admin = envoy.Admin.of(world, "catalog-v1")
        before = sorted((await admin.get("/listeners")).split())
        pid = world.generation("catalog-v1")["pid"]
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()

        async def back() -> bool:
            if world.generation("catalog-v1")["pid"] == pid:
                return False
            again = envoy.Admin.of(world, "catalog-v1")
            return await again.live() and sorted((await again.get("/listeners")).split()) == before

        await until("catalog-v1's Envoy to be back", back, 5, every=0.02)
        took = time.monotonic() - killed
        assert took <= 2.0, f"back after {took:.2f} s"
        await world.in_sync(30)
        await flowing(*loads)
        # catalog-v1 has a second host: callers retry there, and nothing fails at all.
        assert oracle.failed == 0, oracle.report()

        await world.agents["host-a"].kill()
        pid = world.generation("web")["pid"]
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        await world.agents["host-a"].start()

        async def web_back() -> bool:
            return world.generation("web")["pid"] != pid and await envoy.Admin.of(world, "web").live()

        await until("web's agent and Envoy to be back", web_back, 10, every=0.02)
        took = time.monotonic() - killed
        assert took <= 5.0, f"back after {took:.2f} s"
        settled = killed + 5.0
        await world.answers(world.service_address("web", CATALOG), 8080)
        await asyncio.sleep(max(0.0, settled - time.monotonic()))  # the fault's own limit, after which nothing may fail
        await flowing(*loads)
        assert not [f for load in loads for f in load.failures_since(settled)], oracle.report()
        assert envoys_of(world) == len(world.services)


# Two of the demo's probes, each with its interval and its time, and what it takes to tell the other hosts' Envoys.
PROBES_SECONDS = 2 * (0.5 + 0.5)
TOLD_SECONDS = 3.0

APPLICATION_FAULTS: dict[str, tuple[Callable[[World], None], Callable[[World], None]]] = {
    "dies": (
        lambda world: world.services["catalog-v1b"].signal(signal.SIGKILL),
        lambda world: None,
    ),
    "hangs": (
        lambda world: world.services["catalog-v1b"].signal(signal.SIGSTOP),
        lambda world: world.services["catalog-v1b"].signal(signal.SIGCONT),
    ),
    "returns 500": (
        lambda world: world.services["catalog-v1b"].signal(signal.SIGUSR1),
        lambda world: world.services["catalog-v1b"].signal(signal.SIGUSR2),
    ),
}


@pytest.mark.parametrize("fault", APPLICATION_FAULTS)
async def test_d1_an_application_that_dies_hangs_or_returns_500_leaves_the_rotation(world: World, fault: str) -> None:
    plant, mend = APPLICATION_FAULTS[fault]
    async with Oracle() as oracle:
        loads = await full_load(world, oracle)
        planted = time.monotonic()
        plant(world)

        async def left() -> bool:
            dump = await envoy.Admin.of(world, "web").get("/clusters")
            address = f"{world.address('host-e')}:8080"
            flags = [line for line in dump.splitlines() if address in line and "::health_flags::" in line]
            return bool(flags) and all("failed_eds_health" in line for line in flags)

        await until("web's Envoy to hold catalog-v1b as unhealthy", left, 10, every=0.05)
        took = time.monotonic() - planted
        assert took <= PROBES_SECONDS + TOLD_SECONDS, f"out of rotation after {took:.2f} s"

        # What was waiting at the application when it left is done with after the requests' own limit.
        settled = time.monotonic()
        before = loads[0].answers["catalog-v1b"]
        await flowing(*loads, requests=200)
        assert loads[0].answers["catalog-v1b"] == before
        assert not [f for load in loads for f in load.failures_since(settled)], oracle.report()
        assert world.services["catalog-v1"].running

        mend(world)
        if not world.services["catalog-v1b"].running:
            await world.services["catalog-v1b"].start()
        await world.in_sync(30)

        async def serves_again() -> bool:
            return loads[0].answers["catalog-v1b"] > before

        await until("catalog-v1b to be back in rotation", serves_again, 20)


APPLICATION_RECORD = 23  # TLS: after the client's Finished, what carries the request
JOIN_BYTES = 600  # a join carries a token and a CSR; asking for the bundle is much shorter


class Records:
    """Lengths of the TLS application records in a stream of bytes that comes in pieces."""

    def __init__(self) -> None:
        self._pending = b""
        self.lengths: list[int] = []

    def feed(self, received: bytes) -> None:
        self._pending += received
        while len(self._pending) >= 5:
            length = int.from_bytes(self._pending[3:5], "big")
            if len(self._pending) < 5 + length:
                return
            if self._pending[0] == APPLICATION_RECORD:
                self.lengths.append(length)
            self._pending = self._pending[5 + length :]

    @property
    def request_bytes(self) -> int:
        """What the client sent after its Finished, which is an application record, too (TLS 1.3)."""
        return sum(self.lengths[1:])


@contextlib.asynccontextmanager
async def reply_loser(api: str) -> AsyncIterator[tuple[str, list[int]]]:
    """A way to the API that passes all bytes on, but ends the first connection that joins as soon as the server has answered it.

    Yields its address, and a list that gets the length of each reply that was lost."""
    lost: list[int] = []
    host, port = api.rsplit(":", 1)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        records = Records()

        async def upward() -> None:
            while received := await reader.read(65536):
                records.feed(received)
                up_writer.write(received)
                await up_writer.drain()

        async def downward() -> None:
            while received := await up_reader.read(65536):
                if not lost and records.request_bytes > JOIN_BYTES:
                    lost.append(len(received))
                    return
                writer.write(received)
                await writer.drain()

        tasks = [asyncio.create_task(upward()), asyncio.create_task(downward())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            up_writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", lost


async def test_k6_a_join_whose_reply_was_lost_is_repeated_with_the_same_key(envoy_binary: Path) -> None:
    async with World(envoy_binary.parent.parent, hosts=SHOP[:1], server_options=SERVER_OPTIONS) as world:
        await world.start_server()
        await world.meshctl("apply", str(DOCUMENTS / "shop.yaml"))
        await world.start_services()
        issued = await world.call(
            "POST", "/v1/tokens", {"placements": [SHOP[0].services[0].resource], "lifeSeconds": 600}
        )
        async with reply_loser(world.api) as (address, lost):
            token = tokens.encode(dataclasses.replace(tokens.decode(issued["token"]), addresses=(address,)))
            await world.configure_agent(SHOP[0], token=token)
            await world.agents["host-a"].start()
            await world.in_sync(60)
            assert lost, "no reply was lost: the test proves nothing"
        used = next(t for t in (await world.call("GET", "/v1/tokens"))["tokens"] if t["id"] == issued["id"])
        assert used["usedBy"]["host"] == "host-a"
        key = world.state("host-a") / "host" / "current" / "key.pem"
        assert key.stat().st_mode & 0o777 == 0o600

        # Another key with the same token is refused.
        thief = Host("host-t", SHOP[0].services)
        world.hosts = (*world.hosts, thief)
        await world.configure_agent(thief, token=issued["token"])
        await world.agents["host-t"].start()

        async def refused() -> bool:
            return "used" in world.agents["host-t"].tail(40)

        await until("the second use of the token to be refused in words", refused, 20)
        assert "host-t" not in {h["host"] for h in (await world.call("GET", "/v1/hosts"))["hosts"]}
        world.hosts = world.hosts[:1]


async def test_h10_two_agents_with_one_slot_are_told_apart(envoy_binary: Path) -> None:
    """Two Envoys of one user would bind the same addresses without an error, and share their traffic."""
    async with World(envoy_binary.parent.parent, hosts=SHOP[:2], server_options=SERVER_OPTIONS) as world:
        await world.up()
        second = Host("host-x", (replace(SHOP[1].services[0], name="catalog-v1x", node="catalog-v1"),))
        world.hosts = (*world.hosts, second)
        path = await world.configure_agent(second)
        configuration = yaml.safe_load(path.read_text())
        configuration["host"]["first_slot"] = yaml.safe_load((world.directory / "host-a.yaml").read_text())["host"][
            "first_slot"
        ]
        path.write_text(yaml.safe_dump(configuration))
        await world.agents["host-x"].start()

        async def named() -> bool:
            detail = (await world.proxies())["catalog-v1x"]["healthDetail"]
            return f"pid {world.generation('web')['pid']}" in detail and "first_slot" in detail

        await until("status to name the other Envoy and the remedy", named, 20)
        assert envoys_of(world) == 2
