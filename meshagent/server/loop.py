"""The shell around the Reconciler: watches the store, batches what is pending, offers new snapshots to the cache.

Loses no change: when a watch ends (a slow reader, a store that was away) everything is listed again and the difference
taken as if it had been watched. Whoever must see its own write waits with `reached`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast

from meshagent.discovery.leases import Lookup
from meshagent.server.configrecords import CONFIG
from meshagent.server.events import Changes, decode
from meshagent.server.reconcile import Applied, Reconciler
from meshagent.store.base import Event, Store, StoreError
from meshagent.xds.cache import SnapshotCache

RETRY_SECONDS = (0.1, 5.0)
# Events are taken together up to this many, so that nobody waits long for the first of them.
BATCH = 4096
QUEUED = 1024
REACH_SECONDS = 3.0

_log = logging.getLogger(__name__)

Listener = Callable[[Applied], None]


class Behind(StoreError):
    """A revision that was just written did not come back from the watch in time."""


class Loop:
    """`listeners` are told of every pass that changed something, after its snapshots are in the cache; they return at once."""

    def __init__(self, store: Store, reconciler: Reconciler, cache: SnapshotCache, clock: Callable[[], float]) -> None:
        self.reconciler = reconciler
        self.listeners: list[Listener] = []
        self._store, self._cache, self._clock = store, cache, clock
        self._events: asyncio.Queue[Sequence[Event]] = asyncio.Queue(QUEUED)
        self._resolved: dict[Lookup, tuple[str, ...]] = {}
        self._woken = asyncio.Event()
        self._known: dict[str, int] = {}
        self._listed = 0
        self._revision = 0
        self._passes = 0
        self._applied = asyncio.Condition()

    async def load(self) -> None:
        """The first pass: everything there is. Afterwards `run` goes on from there.

        StoreError where configuration cannot be read: without it proxies would be told that it is gone."""
        events = await self._difference()
        if unreadable := [words for words in decode(events).unreadable if words.startswith(CONFIG)]:
            raise StoreError("; ".join(unreadable))
        await self._pass(events)
        self._revision = max(self._revision, self._listed)

    async def run(self) -> None:
        """For ever. Snapshots go on being served from memory while the store is away."""
        pause = RETRY_SECONDS[0]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apply_all(), name="reconcile: apply")
            while True:
                try:
                    await self._follow()
                except StoreError as error:
                    _log.warning("the store's watch ended, everything is listed again: %s", error)
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(2 * pause, RETRY_SECONDS[1])
                try:
                    events = await self._difference()
                except StoreError as error:
                    _log.error("the store cannot be listed, snapshots stay as they are: %s", error)
                    continue
                pause = RETRY_SECONDS[0]
                await self._put(events)

    def resolved(self, lookup: Lookup, addresses: tuple[str, ...]) -> None:
        """DNS answered something else than before."""
        self._resolved[lookup] = addresses
        self._woken.set()

    async def reached(self, revision: int, timeout: float = REACH_SECONDS) -> None:
        """Returns when everything up to this revision is in the Mesh; Behind after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._applied:
                await self._applied.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            raise Behind(f"revision {revision} was written but is not seen after {timeout:g} s") from None

    async def passed(self, since: int) -> int:
        """Waits for a pass after that one, whatever it changed; its number, from 1."""
        async with self._applied:
            await self._applied.wait_for(lambda: self._passes > since)
            return self._passes

    # --- the store's side ---

    async def _follow(self) -> None:
        watch = cast("Any", self._store.watch("", self._listed))
        async with aclosing(cast("AsyncIterator[Sequence[Event]]", watch)) as batches:  # type: ignore[type-var]
            async for events in batches:
                for event in events:
                    self._remember(event)
                self._listed = max(event.revision for event in events)
                await self._put(events)

    async def _difference(self) -> Sequence[Event]:
        """What changed since it was last listed or watched, as events at the revision of the listing."""
        entries, revision = await self._store.list("")
        present = {entry.key: entry for entry in entries}
        events = [Event(key, None, revision) for key in self._known.keys() - present.keys()]
        events += [
            Event(entry.key, entry, revision) for entry in entries if self._known.get(entry.key) != entry.revision
        ]
        for event in events:
            self._remember(event)
        self._listed = revision
        return events

    def _remember(self, event: Event) -> None:
        if event.entry is None:
            self._known.pop(event.key, None)
        else:
            self._known[event.key] = event.entry.revision

    async def _put(self, events: Sequence[Event]) -> None:
        await self._events.put(events)
        self._woken.set()

    # --- the proxies' side ---

    async def _apply_all(self) -> None:
        while True:
            await self._wait()
            events: list[Event] = []
            with suppress(asyncio.QueueEmpty):
                while len(events) < BATCH:
                    events += self._events.get_nowait()
            if not self._events.empty():
                self._woken.set()
            await self._pass(events)

    async def _wait(self) -> None:
        deadline = self.reconciler.next_deadline(self._clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(None if deadline is None else max(deadline - self._clock(), 0.0) + 0.01):
                await self._woken.wait()
        self._woken.clear()

    async def _pass(self, events: Sequence[Event]) -> None:
        changes = decode(events)
        changes.resolved, self._resolved = self._resolved, {}
        self._apply(changes)
        async with self._applied:
            self._revision = max(self._revision, changes.revision)
            self._passes += 1
            self._applied.notify_all()

    def _apply(self, changes: Changes) -> None:
        for words in changes.unreadable:
            _log.error("a record in the store is passed over, what was known of it goes on: %s", words)
        applied = self.reconciler.apply(changes, self._clock())
        for placement in applied.recompiled:
            snapshot = self.reconciler.snapshot(placement)
            if snapshot is not None:
                self._cache.set(placement, snapshot)
        for placement in applied.removed:
            self._cache.remove(placement)
        if not applied:
            return
        if applied.recompiled or applied.removed:
            _log.info(
                "revision %d: %d proxies have new snapshots, %d are gone",
                self.reconciler.mesh.revision,
                len(applied.recompiled),
                len(applied.removed),
            )
        for listener in self.listeners:
            listener(applied)
