"""The last batches of events, and the watchers that read along. Knows no disk.

Watchers hold no queue: each remembers its place in the one bounded history and is woken when something was added. One
that is so slow that its place has been dropped is told so; it costs nobody else anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from meshagent.store.base import Event, StoreError


class History:
    """Holds all events at revisions greater than `floor`: at least the last batch, at most about `limit` events."""

    def __init__(self, floor: int, limit: int) -> None:
        self.floor = floor
        self._limit = limit
        self._size = 0
        self._revision = floor
        self._batches: dict[int, tuple[Event, ...]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = ""

    def add(self, revision: int, events: tuple[Event, ...]) -> None:
        """Revisions come without gaps."""
        self._batches[revision] = events
        self._revision = revision
        self._size += len(events)
        while self._size > self._limit and self.floor + 1 < revision:
            self.floor += 1
            self._size -= len(self._batches.pop(self.floor))
        self._wake()

    def end(self, reason: str) -> None:
        """Every watcher, also a later one, gets StoreError with this reason."""
        self._ended = reason
        self._wake()

    def watch(self, prefix: str, after: int) -> Watch:
        return Watch(self, prefix, after)

    async def following(self, prefix: str, after: int) -> tuple[int, tuple[Event, ...]]:
        """The next revision after `after` that changed something under `prefix`, and its events there."""
        while True:
            if self._ended:
                raise StoreError(self._ended)
            if not self.floor <= after <= self._revision:
                kept = f"history holds what follows {self.floor} to {self._revision}"
                raise StoreError(f"watch {prefix!r}: asked for what follows revision {after}, {kept}: list again")
            if after == self._revision:
                await self._news()
                continue
            after += 1
            if events := tuple(event for event in self._batches[after] if event.key.startswith(prefix)):
                return after, events

    async def _news(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _wake(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)


class Watch:
    """An iterator rather than a generator: a wait that is cancelled, by a timeout perhaps, ends nothing and loses nothing."""

    def __init__(self, history: History, prefix: str, after: int) -> None:
        self._history = history
        self._prefix = prefix
        self._after = after
        self._closed = False

    def __aiter__(self) -> Watch:
        return self

    async def aclose(self) -> None:
        """For those who close what they iterate over; nothing is held that would need it."""
        self._closed = True

    async def __anext__(self) -> Sequence[Event]:
        if self._closed:
            raise StopAsyncIteration
        self._after, events = await self._history.following(self._prefix, self._after)
        return events
