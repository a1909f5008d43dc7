"""What one Envoy uses, sampled seldom: it is for people and dashboards, and looking costs something with many connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshagent.host import facts

EVERY = 10.0


@dataclass(frozen=True)
class Reading:
    """`cpu` in cores since the reading before, `memory` in bytes resident."""

    cpu: float = 0.0
    memory: int = 0
    open_files: int = 0


class Meter:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pid = 0
        self._at = 0.0
        self._usage: facts.Usage | None = None
        self.reading = Reading()

    async def look(self, pid: int) -> Reading:
        """Of this process, which may be another than before; 0 for none."""
        now = self._clock()
        if pid == self._pid and now - self._at < EVERY:
            return self.reading
        found = await asyncio.to_thread(facts.usage, pid) if pid else None
        if found is None:
            self.reading = Reading()
        else:
            same = self._usage if pid == self._pid else None
            cpu = facts.cores(same, found, now - self._at) if same else 0.0
            self.reading = Reading(cpu, facts.rounded_memory(found.memory), found.open_files)
        self._pid, self._at, self._usage = pid, now, found
        return self.reading
