"""What the brake keeps, in the store: an ended lease takes its endpoint's record along, and a server that starts again must not forget what
the one before it kept.
"""

from __future__ import annotations

import asyncio
import logging

from meshagent.server.loop import Loop
from meshagent.server.records import SUSPECTS, encode_endpoint, suspect_key
from meshagent.store.base import Change, Delete, Put, Store, StoreError

_AGAIN = 2.0

_log = logging.getLogger(__name__)


class Suspects:
    def __init__(self, store: Store, loop: Loop) -> None:
        self._store, self._loop = store, loop

    async def run(self) -> None:
        """For ever. What is kept is on the disk one pass after the brake began to keep it, and off it when it is let go."""
        passes, written = 0, None
        while True:
            try:
                written = await self._write(await self._read() if written is None else written)
            except StoreError as error:
                _log.warning("what the brake keeps could not be written down: %s", error)
                written = None
                await asyncio.sleep(_AGAIN)
                continue
            passes = await self._loop.passed(passes)

    async def _read(self) -> dict[str, bytes]:
        entries, _ = await self._store.list(SUSPECTS)
        return {entry.key: entry.value for entry in entries}

    async def _write(self, written: dict[str, bytes]) -> dict[str, bytes]:
        kept = self._loop.reconciler.book.brake.suspects.values()
        wanted = {suspect_key(one.host, one.placement): encode_endpoint(one) for one in kept}
        changes: list[Change] = [Put(key, value) for key, value in wanted.items() if written.get(key) != value]
        changes += [Delete(key) for key in sorted(written.keys() - wanted.keys())]
        if changes:
            await self._store.commit(changes)
        return wanted
