"""A port that somebody else holds: Envoy says so, and no caller is sent there."""

from __future__ import annotations

import os
import signal
import socket
import time
from itertools import pairwise

import pytest

from meshagent.agent import obstacles
from meshagent.host.listening import Listener, Owner
from meshagent.protocol import host_pb2
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import LISTENER, ROUTE
from tests.agent.setting import Setting
from tests.xds.real import ask, listener, until

pytestmark = pytest.mark.envoy


def taken(port: int, address: str = "127.0.0.1") -> socket.socket:
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stranger.bind((address, port))
    stranger.listen()
    return stranger


async def test_no_endpoint_where_envoy_cannot_listen(setting: Setting) -> None:
    name = f"lds_ingress_127.0.0.1_{setting.port}"
    rest = [each for each in setting.resources() if each.type_url != LISTENER]
    setting.offer(2, *rest, listener(name, setting.port, "in"))

    def unhealthy(status: host_pb2.PlacementStatus) -> bool:
        refused = [each.name for each in status.rejections]
        words = status.health_detail
        # Who it is, it says as soon as that is known.
        return refused == [name] and status.health == host_pb2.UNHEALTHY and "let it listen on 127.0.0.1" in words

    placement = setting.upstream.desired.placements[0]
    placement.address, placement.ports[:] = "127.0.0.1", [setting.port]
    placement.application = "127.0.0.9"
    del placement.probes[:]
    placement.probes.add(port=setting.port, protocol="tcp")
    with taken(setting.port, "127.0.0.9"), taken(setting.port):
        setting.start()
        await setting.reported(unhealthy, "the first Envoy cannot listen")
        await setting.stop()
        setting.upstream.observed = host_pb2.Observed()
        setting.start()
        await setting.reported(lambda s: s.health == host_pb2.UNHEALTHY, "an agent that starts anew knows it too")


@pytest.mark.parametrize("news", [False, True])
async def test_h10_envoy_listens_by_itself_once_an_address_that_somebody_held_is_free(
    setting: Setting, news: bool
) -> None:
    name = f"lds_ingress_127.0.0.1_{setting.port}"
    rest = [each for each in setting.resources() if each.type_url != LISTENER]
    setting.offer(2, *rest, listener(name, setting.port, "in"))
    placement = setting.upstream.desired.placements[0]
    placement.address, placement.ports[:], placement.application = "127.0.0.1", [setting.port], "127.0.0.9"
    placement.probes[0].port = setting.port

    def named(status: host_pb2.PlacementStatus) -> bool:
        words = status.health_detail
        everywhere = f"(pid {os.getpid()}), which listens on all addresses (0.0.0.0:{setting.port})"
        return status.health == host_pb2.UNHEALTHY and everywhere in words and "mode: redirect" in words

    def well(status: host_pb2.PlacementStatus) -> bool:
        return status.health == host_pb2.HEALTHY and not status.rejections

    stranger = taken(setting.port, "0.0.0.0")
    setting.start()
    await setting.reported(named, "the process that is in the way is named")
    await until(lambda: bool(setting.upstream.seen.stream.rejected), "the server heard of it")
    stranger.close()
    with taken(setting.port, "127.0.0.9"):
        await setting.reported(well, "listened on")
        seen = setting.upstream.seen
        await until(lambda: bool(seen.streams) and not seen.stream.rejected, "the server heard of that, too")
        assert await ask(setting.port) == "web"
        # An Envoy that is started anew refuses what the one before took.
        (pid,) = setting.pids()
        os.kill(pid, signal.SIGKILL)
        stranger = await taken_from(pid, setting)
        await setting.reported(lambda s: "which listens on that very address" in s.health_detail, "named again")
        if news:
            # What comes meanwhile is taken but for the listener, of which that which is held is no other.
            setting.offer(3, *setting.resources("2s")[:2], rest[-1], listener(name, setting.port, "in"))
            await setting.reported(lambda s: s.held.revision == 3, "the next revision")
        stranger.close()
        await setting.reported(well, "listened on again")
        assert await ask(setting.port) == "web"
        await until(lambda: bool(seen.streams) and not seen.stream.rejected, "the server heard of that, too")


async def taken_from(pid: int, setting: Setting) -> socket.socket:
    """The port of an Envoy that was killed, before the next one has it."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return taken(setting.port)
        except OSError:
            assert time.monotonic() < deadline, f"{pid} has it still"


def test_an_application_that_was_started_second_is_thought_of() -> None:
    refused = "port 8080: Connection refused"
    assert "let it listen on 127.0.0.1" in obstacles.started_second("bind", "10.0.0.5", refused)
    assert obstacles.started_second("redirect", "10.0.0.5", refused) == refused
    assert obstacles.started_second("bind", "10.0.0.5", "port 8080: no HTTP answer") == "port 8080: no HTTP answer"


WORDS = "cannot bind '10.0.0.5:8080': Address already in use"
REFUSED = obstacles.unbound([Rejection(LISTENER, "in", "v1", f"Error adding/updating listener(s) in: {WORDS}\n")])


def test_only_addresses_that_may_come_free_are_thought_of() -> None:
    assert (obstacles.Unbound("in", "v1", "10.0.0.5", 8080),) == REFUSED
    assert obstacles.unbound([Rejection(LISTENER, "x", "v1", "cannot bind '0.0.0.0:80': Permission denied")]) == ()
    assert obstacles.unbound([Rejection(ROUTE, "x", "v1", WORDS)]) == ()
    assert obstacles.unbound([Rejection(LISTENER, "x", "v1", WORDS.replace("8080", "8" * 5000))]) == ()
    six = obstacles.unbound([Rejection(LISTENER, "x", "v1", WORDS.replace("10.0.0.5", "[fd00::5]"))])
    assert six[0].address == "fd00::5"


def test_whoever_holds_an_address_is_named_but_for_envoys() -> None:
    java, envoy = Owner(7, "java"), Owner(8, "envoy")
    everywhere, exactly = Listener("::", 8080, 1), Listener("10.0.0.5", 8080, 2)
    assert (
        "java (pid 7), which listens on all addresses (:::8080)"
        in obstacles.holders(REFUSED, [everywhere], lambda _: java)["in"]
    )
    assert "that very address" in obstacles.holders(REFUSED, [exactly], lambda _: java)["in"]
    assert obstacles.holders(REFUSED, [exactly], lambda _: envoy) == {}
    assert obstacles.holders(REFUSED, [Listener("127.0.0.1", 8080, 3)], lambda _: java) == {}


def test_tries_begin_when_nobody_is_seen_there_and_come_less_often_each_time() -> None:
    held, tries = {"in": "java"}, obstacles.Tries()
    trying, tries = tries.due(REFUSED, held, 0.0)
    assert trying == ()
    at = []
    for tenth in range(3000):
        trying, tries = tries.due(REFUSED, {}, tenth / 10)
        at += [tenth / 10] if trying else []
    assert at[:5] == [0.0, 2.0, 6.0, 14.0, 30.0]
    assert max(later - earlier for earlier, later in pairwise(at)) == 60.0
    trying, tries = tries.due(REFUSED, held, 300.0)
    assert tries.due(REFUSED, {}, 300.1)[0] == REFUSED, "it had been taken again, and is free again"
