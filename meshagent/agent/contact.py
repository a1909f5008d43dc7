"""When this host last heard of a server: kept as a file's time, so that a host which boots with every server away can say how old
its configuration is. Written seldom and without fsync: after a power cut it may be a minute too early, which is what it then says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_SELDOM = 30.0


class Contact:
    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._written = 0.0
        try:
            self.last: float | None = path.stat().st_mtime
        except OSError:
            self.last = None

    def heard(self) -> None:
        """A server spoke, or took what was said to it."""
        now = self.last = self._clock()
        if not 0 <= now - self._written < _SELDOM:
            self._written = now
            self._write(now)

    def _write(self, moment: float) -> None:
        try:
            self._path.touch(mode=0o600)
            os.utime(self._path, (moment, moment))
        except OSError:
            return  # a full or read-only disk is told of by whoever needs it
