"""How a drain goes on, from what is observed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshagent.agent.drain import FLIGHT_SECONDS, HEAR_SECONDS, Drain, Draining, Phase, Seen, after, begun
from meshagent.agent.flight import Flight
from meshagent.agent.local import LocalError
from meshagent.agent.proxy import Proxy, Surroundings
from meshagent.host.supervisor import Running
from meshagent.protocol import host_pb2

ENVOY = Running(3, "1.40.0", "/r", "/a", "boot", pid=7, start_time=9, drain_seconds=5)
BUSY, IDLE, KEPT = Flight(2, 2), Flight(0, 0), Flight(0, 2)
WISH, STOP = begun(1, 100.0), begun(1, 100.0, ENVOY)


def seen(heard: bool = False, server: bool = True, flight: Flight | None = BUSY) -> Seen:
    return Seen(heard, server, flight)


def emptying(drain: Drain) -> Drain:
    return after(drain, seen(heard=True), 100.0)


def test_nothing_ends_before_all_callers_know() -> None:
    for drain in (WISH, STOP):
        assert after(drain, seen(), 101.0).phase is Phase.TELLING
        assert after(drain, seen(heard=True), 101.0).phase is Phase.EMPTYING


def test_who_cannot_be_told_is_not_waited_for() -> None:
    for drain in (WISH, STOP):
        assert after(drain, seen(), 100.0 + HEAR_SECONDS).phase is Phase.EMPTYING
    assert "not all of its callers have heard" in after(STOP, seen(), 100.0 + HEAR_SECONDS).words
    # Without a server there is nobody who could tell them. An operator's wish came from one: it will be back.
    assert after(STOP, seen(server=False), 100.2).phase is Phase.EMPTYING
    assert after(WISH, seen(server=False), 100.2).phase is Phase.TELLING


def test_an_operators_drain_is_done_when_nothing_is_in_flight() -> None:
    waiting = after(emptying(WISH), seen(heard=True), 110.0)
    assert (waiting.phase, waiting.words) == (Phase.EMPTYING, "2 requests in flight")
    assert after(waiting, seen(flight=None), 110.0).phase is Phase.EMPTYING
    done = after(waiting, seen(flight=KEPT), 110.0)
    assert (done.phase, done.words) == (Phase.DONE, "drained")
    late = after(waiting, seen(flight=Flight(1, 1)), 100.0 + FLIGHT_SECONDS)
    assert (late.phase, late.words) == (Phase.DONE, "drained, 1 request in flight after 30 s")


def test_a_stop_gives_the_listeners_their_time() -> None:
    draining = emptying(STOP)
    assert draining.words == "its listeners drain"
    # Kept connections are told to close as they are used.
    assert after(draining, seen(flight=KEPT), 105.0).phase is Phase.EMPTYING
    assert after(draining, seen(flight=IDLE), 100.5).phase is Phase.DONE
    done = after(draining, seen(flight=BUSY), 105.4)
    assert (done.phase, done.words) == (Phase.DONE, "drained, 2 requests cut")
    assert after(done, seen(), 999.0) is done


def test_an_envoy_that_is_gone_is_waited_for_no_longer_than_the_time_of_its_listeners() -> None:
    assert after(emptying(STOP), seen(flight=None), 105.4).phase is Phase.DONE


def test_a_drain_is_told_from_any_other() -> None:
    assert STOP.process == (7, 9)
    assert replace(WISH, number=2) != WISH


async def test_a_stop_is_refused_while_nobody_knows_what_serves(tmp_path: Path) -> None:
    nobody: Any = None
    around = Surroundings(
        tmp_path, nobody, (), nobody, nobody, asyncio.Semaphore(1), nobody, admission=nobody, changed=lambda: None
    )
    proxy: Any = Proxy(host_pb2.Placement(id="ab", resource="mesh/shop/virtualNode/web"), around)
    for serving in (None, SimpleNamespace(number=3, running=None)):
        proxy._generations = SimpleNamespace(serving=serving)
        with pytest.raises(LocalError, match="does not know") as refused:
            await proxy.stop(3)
        assert refused.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert await proxy.stop(2) == "generation 2 does not serve"


async def test_an_agent_that_ends_amid_a_drain_does_not_say_drained() -> None:
    draining = Draining("web", lambda: replace(ENVOY, admin_socket="/no/such"), lambda: True, lambda: None)
    loop = asyncio.create_task(draining.run())
    stop = asyncio.create_task(draining.stop(ENVOY))
    await asyncio.sleep(0.05)
    loop.cancel()
    with pytest.raises(LocalError, match="does not drain it any more"):
        await asyncio.wait_for(stop, 5)


async def test_the_drain_of_the_process_before_is_none_of_the_next_ones() -> None:
    follower = replace(ENVOY, pid=8, admin_socket="/no/such")
    draining = Draining("web", lambda: follower, lambda: True, lambda: None)
    draining.now = replace(STOP, phase=Phase.DONE)
    draining._over.set()
    stop = asyncio.create_task(draining.stop(follower))
    await asyncio.sleep(0.05)
    assert draining.now is not None and draining.now.process == (8, 9)
    stop.cancel()
