"""The snapshot of every proxy that is served, and a signal for whoever serves it. Knows nothing of streams, stores or
compilers.

Only the latest snapshot counts: a watcher that was busy sees the last one, never a queue of old ones. One event loop's
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from meshagent.xds.snapshot import Snapshot


class SnapshotCache:
    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        self._watches: dict[str, set[Watch]] = {}

    def set(self, id: str, snapshot: Snapshot) -> None:  # noqa: A002
        if self._snapshots.get(id) is snapshot:
            return
        self._snapshots[id] = snapshot
        self._wake(id)

    def get(self, id: str) -> Snapshot | None:  # noqa: A002
        return self._snapshots.get(id)

    def remove(self, id: str) -> None:  # noqa: A002
        """The proxy is no longer served: its streams end, those too that were still waiting for its first snapshot."""
        self._snapshots.pop(id, None)
        self._wake(id, ended=True)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._snapshots))

    def watch(self, id: str) -> Watch:  # noqa: A002
        """Whoever watches closes the watch when done. A proxy that has no snapshot yet may be watched."""
        watch = Watch(self, id)
        self._watches.setdefault(id, set()).add(watch)
        return watch

    def _wake(self, id: str, ended: bool = False) -> None:  # noqa: A002
        for watch in self._watches.get(id, ()):
            watch.wake(ended)

    def _forget(self, watch: Watch) -> None:
        watches = self._watches.get(watch.id)
        if watches is not None:
            watches.discard(watch)
            if not watches:
                del self._watches[watch.id]


class Watch:
    """One watcher of one proxy's snapshot."""

    def __init__(self, cache: SnapshotCache, id: str) -> None:  # noqa: A002
        self.id = id
        self.ended = False
        self._cache = cache
        self._changed = asyncio.Event()
        if cache.get(id) is not None:
            self._changed.set()

    def wake(self, ended: bool = False) -> None:
        self.ended = self.ended or ended
        self._changed.set()

    async def next(self) -> Snapshot | None:
        """The latest snapshot that this watcher has not seen, waiting for one if need be; None when the proxy was
        removed, even if one of the same id has come since: it may be somebody else's."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            snapshot = self._cache.get(self.id)
            if self.ended:
                return None
            if snapshot is not None:
                return snapshot

    def close(self) -> None:
        self._cache._forget(self)
