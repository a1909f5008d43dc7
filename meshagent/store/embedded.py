"""What the memory and the SQLite store share: one process, one event loop, everything readable in memory, writes one
after the other.

A write is decided on the table, written to the journal, and only then applied and told to watchers. A caller that is
cancelled in between leaves no gap: the write goes on to its end. Knows nothing of SQLite; the journal is all that
differs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from meshagent.store.base import Change, Entry, Event, StoreError
from meshagent.store.history import History
from meshagent.store.leases import Leases
from meshagent.store.table import Batch, Table

HISTORY = 16_384
SWEEP_SECONDS = 0.2
# How far apart sweeps go while the journal takes no writes.
SLOWEST_SWEEP_SECONDS = 5.0
# A sweep that comes this much later than planned says that the whole process was held up.
STALL_SECONDS = 1.0

Clock = Callable[[], float]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Journal(Protocol):
    """Where batches become durable."""

    async def write(self, batch: Batch) -> None:
        """Returns when the batch would survive a power cut; a StoreError means that nothing of it was written."""

    async def close(self) -> None: ...


class NoJournal:
    async def write(self, batch: Batch) -> None:
        """Memory forgets."""

    async def close(self) -> None:
        """Nothing is held."""


class EmbeddedStore:
    """The Store protocol over a table and a journal. `sweep` ends overdue leases; it runs by itself from the first
    lease on."""

    def __init__(
        self,
        journal: Journal,
        table: Table,
        *,
        ttls: Mapping[int, float],
        last_lease: int,
        clock: Clock,
        history: int,
    ) -> None:
        self._journal = journal
        self._table = table
        self._clock = clock
        self._leases = Leases(ttls, last_lease, clock())
        self._history = History(table.revision, history)
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        return self._table.get(key)

    async def list(self, prefix: str) -> tuple[tuple[Entry, ...], int]:
        self._check_open()
        return self._table.list(prefix), self._table.revision

    async def revision(self) -> int:
        self._check_open()
        return self._table.revision

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        changes, expect = tuple(changes), dict(expect or {})
        return await self._whole(self._commit(changes, expect))

    async def _commit(self, changes: Sequence[Change], expect: Mapping[str, int]) -> int:
        async with self._writing:
            self._check_open()
            batch = self._table.decide(changes, expect, self._leases)
            if batch.events:
                await self._write(batch)
            return batch.revision

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        return self._history.watch(prefix, after)

    async def grant(self, ttl: float) -> int:
        if not (ttl > 0 and math.isfinite(ttl)):
            raise ValueError(f"a lease's life is a positive number of seconds, found {ttl}")
        self._check_open()
        lease = await self._whole(self._grant(ttl))
        self._start_sweeping()
        return lease

    async def _grant(self, ttl: float) -> int:
        async with self._writing:
            self._check_open()
            lease = self._leases.take_id()
            await self._write(Batch(self._table.revision, granted={lease: ttl}))
            return lease

    async def keepalive(self, lease: int) -> float:
        self._check_open()
        return self._leases.keepalive(lease, self._clock())

    async def revoke(self, lease: int) -> None:
        await self._whole(self._end(lambda: frozenset({lease} & set(self._leases))))

    async def sweep(self) -> None:
        """Ends the leases that are overdue by the clock, all as one revision."""
        await self._whole(self._end(lambda: self._leases.overdue(self._clock())))

    async def _end(self, choose: Callable[[], frozenset[int]]) -> None:
        async with self._writing:
            self._check_open()
            if leases := choose():
                await self._write(self._table.end(leases))

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        async with self._writing:
            if self._closed:
                return
            self._closed = True
            self._history.end("the store is closed")
            await self._journal.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    async def _write(self, batch: Batch) -> None:
        await self._journal.write(batch)
        now = self._clock()
        for lease, ttl in batch.granted.items():
            self._leases.begin(lease, ttl, now)
        self._leases.end(batch.ended)
        self._table.apply(batch)
        if batch.events:
            self._history.add(batch.revision, batch.events)

    async def _whole(self, work: Awaitable[T]) -> T:
        """Runs work to its end even where the caller is cancelled: a batch on disk must also be in memory."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[object] | asyncio.Future[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: where the caller is gone, nobody else will

    def _start_sweeping(self) -> None:
        if self._sweeper is None and not self._closed:
            self._sweeper = asyncio.create_task(self._sweep_on(), name="store: leases")

    async def _sweep_on(self) -> None:
        """Sweeps until closed. How late a sweep comes is measured by real time, whatever clock the leases live by."""
        pause = SWEEP_SECONDS
        while True:
            planned = time.monotonic() + pause
            await asyncio.sleep(pause)
            swept = await self._sweep_late(time.monotonic() - planned)
            pause = SWEEP_SECONDS if swept else min(2 * pause, SLOWEST_SWEEP_SECONDS)

    async def _sweep_late(self, late: float) -> bool:
        if late > STALL_SECONDS and self._leases:
            _log.warning("the store was held up for %.1f s: its leases live that much longer", late)
            self._leases.forgive(late)
        try:
            await self.sweep()
        except StoreError as error:
            _log.error("overdue leases could not be ended, tried again soon: %s", error)
            return False
        return True
