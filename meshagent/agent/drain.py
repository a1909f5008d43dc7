"""How a placement is taken out of rotation, by an operator's wish or because its Envoy is to end.

In this order: the endpoint is DRAINING to the whole mesh; the proxies that call it are known to have heard; then, for an operator's wish,
what is in flight ends, and Envoy stays; for a stop, Envoy's listeners drain gracefully. Everything has its limit: who cannot be told, or
does not end, is not waited for for ever. The centre is pure: `after` gives the next state from what is observed. Around it, a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from pathlib import Path

from meshagent.agent import admin
from meshagent.agent.flight import PAGE, Flight, flight_of
from meshagent.agent.launch import DRAIN_MARGIN
from meshagent.agent.local import LocalError
from meshagent.host.supervisor import Running, read_state

log = logging.getLogger(__name__)

# So long the mesh has to hear of it, where a server is in reach.
HEAR_SECONDS = 10.0
# So long requests that are in flight when an operator drains are waited for before it is said that they are still there.
FLIGHT_SECONDS = 30.0
LOOK_SECONDS = 0.2
IDLE_SECONDS = 1.0


class Phase(Enum):
    TELLING = "telling"  # the endpoint is DRAINING, who calls it is to hear
    EMPTYING = "emptying"  # what is in flight is to end; for a stop: Envoy's listeners drain
    DONE = "done"


@dataclass(frozen=True)
class Seen:
    """What there is to know at a moment. `heard`: every connected subscriber has; `flight` None where Envoy does not say."""

    heard: bool
    server: bool
    flight: Flight | None


@dataclass(frozen=True)
class Drain:
    """`number` tells this drain from any other, to the server too; `since` is the monotonic time at which its phase began; `seconds` are
    for Envoy's listeners. `process` is the Envoy that is to end, (pid, start time), for a stop."""

    number: int
    since: float
    phase: Phase = Phase.TELLING
    stopping: bool = False
    seconds: float = 0.0
    process: tuple[int, int] = (0, 0)
    words: str = "its callers are told"


def begun(number: int, now: float, running: Running | None = None) -> Drain:
    """With `running` for a stop."""
    if running is None:
        return Drain(number, now)
    process = (running.pid, running.start_time)
    return Drain(number, now, stopping=True, seconds=running.drain_seconds + DRAIN_MARGIN, process=process)


def after(drain: Drain, seen: Seen, now: float) -> Drain:
    waited = now - drain.since
    active = seen.flight.active if seen.flight else 0
    match drain.phase:
        case Phase.TELLING:
            # A stop without a server has nobody to tell it to; an operator's wish came from a server, which will be back.
            if seen.heard or waited >= HEAR_SECONDS or (drain.stopping and not seen.server):
                return _emptying(drain, seen, now)
        case Phase.EMPTYING if drain.stopping:
            gone = seen.flight is not None and not seen.flight.connections and not active
            if waited >= drain.seconds or gone:
                left = f", {_count(active)} cut" if active else ""
                return replace(drain, phase=Phase.DONE, since=now, words=f"drained{left}")
        case Phase.EMPTYING:
            if (seen.flight is not None and not active) or waited >= FLIGHT_SECONDS:
                left = f", {_count(active)} in flight after {FLIGHT_SECONDS:.0f} s" if active else ""
                return replace(drain, phase=Phase.DONE, since=now, words=f"drained{left}")
            return replace(drain, words=f"{_count(active)} in flight")
    return drain


def _emptying(drain: Drain, seen: Seen, now: float) -> Drain:
    unheard = "" if seen.heard else ", not all of its callers have heard"
    words = f"its listeners drain{unheard}" if drain.stopping else "what is in flight ends"
    return replace(drain, phase=Phase.EMPTYING, since=now, words=words)


def _count(active: int) -> str:
    return f"{active} request{'s' if active != 1 else ''}"


class Draining:
    """The drain of one placement, if there is one. `running` gives its Envoy, `server` whether one is in reach; `changed` is called when
    there is something new to report."""

    def __init__(
        self, name: str, running: Callable[[], Running | None], server: Callable[[], bool], changed: Callable[[], None]
    ) -> None:
        self.now: Drain | None = None
        self._name, self._running, self._server, self._changed = name, running, server, changed
        self._heard, self._wanted = 0, False
        self._begun = asyncio.Event()
        self._over = asyncio.Event()  # nothing is on its way any more

    def wanted(self, wanted: bool, heard: int) -> None:
        """The server's word: whether an operator wants it drained, and the number of the drain of which all subscribers know."""
        self._heard, self._wanted = heard, wanted
        if wanted and self.now is None:
            self._begin(None)
        elif not wanted and self.now is not None and not self.now.stopping:
            log.info("%s: is no longer drained", self._name)
            self.now = None
            self._changed()

    def served(self) -> None:
        """Another Envoy may run now: the stop of the one before is over."""
        running, now = self._running(), self.now
        if now is None or not now.stopping or running is None or (running.pid, running.start_time) == now.process:
            return
        self.now = None
        self._changed()
        self.wanted(self._wanted, self._heard)

    async def stop(self, running: Running) -> str:
        """Drains for the end of this Envoy; returns what it came to, when it may end. Raises LocalError when the agent ends before that."""
        self.served()
        if self.now is None or not self.now.stopping:
            self._begin(running)
        await self._over.wait()
        if self.now is not None and self.now.phase is not Phase.DONE:
            raise LocalError(HTTPStatus.SERVICE_UNAVAILABLE, "the agent does not drain it any more")
        return self.now.words if self.now else "it serves again"

    def _begin(self, running: Running | None) -> None:
        # Greater than that of any earlier drain, an agent's before this one too.
        self.now = begun(time.time_ns() // 1_000_000, time.monotonic(), running)
        log.info("%s: drains%s", self._name, " to be stopped" if running else ", as an operator wants")
        self._over.clear()
        self._begun.set()
        self._changed()

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                await self._step()
        finally:
            self._over.set()

    async def _step(self) -> None:
        self.served()
        if self.now is None or self.now.phase is Phase.DONE:
            self._over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._begun.wait()
            self._begun.clear()
            return
        before = self.now
        seen = await self._look(before)
        if self.now is not before:
            return  # called off, or begun anew
        self.now = after(before, seen, time.monotonic())
        if self.now != before:
            await self._moved(before, self.now)
        await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, drain: Drain) -> Seen:
        running = self._running()
        stats = await admin.text(running.admin_socket, PAGE) if running is not None else None
        flight = flight_of(stats) if stats is not None else None
        return Seen(self._heard == drain.number, self._server(), flight)

    async def _moved(self, before: Drain, now: Drain) -> None:
        if now.phase is not before.phase:
            log.info("%s: %s", self._name, now.words)
        running = self._running()
        listeners = now.stopping and now.phase is Phase.EMPTYING and before.phase is Phase.TELLING
        if listeners and running is not None and not await admin.drain(running.admin_socket):
            log.warning("%s: Envoy did not take the order to drain its listeners", self._name)
        self._changed()


def is_retired(directory: Path, generation: int) -> bool:
    """Whether the agent itself is ending this generation of the proxy in `directory`, drained."""
    return (directory / f"retired-{generation}").exists()


async def alone(directory: Path, generation: int, limit: float) -> str:
    """Drains Envoy's listeners with no agent at work: nobody is told, and what is in flight has the listeners' time at most."""
    running = read_state(directory)
    if running is None or running.generation != generation or not await admin.drain(running.admin_socket):
        return "no Envoy answers"
    deadline = time.monotonic() + min(limit, running.drain_seconds + DRAIN_MARGIN)
    while time.monotonic() < deadline:
        stats = await admin.text(running.admin_socket, PAGE)
        if stats is None or flight_of(stats) == Flight(0, 0):
            break
        await asyncio.sleep(LOOK_SECONDS)
    return "its listeners are drained"
