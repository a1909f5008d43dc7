"""One host's open stream: what is to be sent to it, what has ended it, and who else says that it is this host."""

from __future__ import annotations

import asyncio
import enum

from meshagent.identity.leaf import Leaf
from meshagent.mesh.graph import Touch
from meshagent.server.clones import named
from meshagent.server.desired import Refusal
from meshagent.server.records import HostRecord

_CHALLENGERS = 4096
_AGAIN_SECONDS = _SLOW_SECONDS = 1.0


class Standing(enum.Enum):
    """Of a session's machine, when one of another boot says that it is this host."""

    OPEN = enum.auto()
    ALIVE = enum.auto()
    DOWN = enum.auto()


class Session:
    def __init__(self, leaf: Leaf, record: HostRecord, boot: str, refusals: tuple[Refusal, ...], now: float) -> None:
        """`now` is by the service's clock, as `heard`: when the host was heard of last."""
        self.leaf, self.record, self.boot, self.refusals = leaf, record, boot, refusals
        # Whether this boot is known to be the host's, and whose was known when it connected.
        self.named, self.boot_before = named(record, boot), record.boot
        self.heard = now
        self.changed = asyncio.Event()
        self.superseded = asyncio.Event()
        self.ended = ""
        self.touched: frozenset[Touch] = frozenset()
        # The drains, by placement, of which all subscribers know; and whether some are still to hear.
        self.drain_seen: dict[str, int] = {}
        self.telling = False
        # To be told again what it knows: a machine that went down without a word answers that with a reset, once it is up.
        self.again = False
        self._told_again = 0.0
        self._challengers: dict[str, float] = {}
        # Since when a word of its is being worked on: what it says meanwhile is not read.
        self._busy_since: float | None = None

    def end(self, words: str) -> None:
        self.ended = words
        self.superseded.set()

    def hears(self, now: float) -> None:
        """A word of the host was read."""
        self.heard = self._busy_since = now

    def reads_on(self, now: float) -> None:
        """The word is worked on. What was said long before may be read now: who said hello by then says it as if for the first time."""
        if self._busy_since is not None and now - self._busy_since > _SLOW_SECONDS:
            self._challengers.clear()
        self._busy_since = None

    def standing(self, boot: str, now: float, patience: float) -> Standing:
        """Of this machine against one of another boot that says hello now. ALIVE once it was heard of more than `patience` seconds after
        that one's first hello: what was on its way then proves nothing. DOWN once it was not heard of for so long."""
        first = self._challengers.get(boot)
        if first is None:
            while len(self._challengers) >= _CHALLENGERS:
                del self._challengers[next(iter(self._challengers))]
            first = self._challengers[boot] = now
            if now - self._told_again > _AGAIN_SECONDS:
                self._told_again, self.again = now, True
                self.changed.set()
        if self._busy_since is not None:
            return Standing.OPEN
        if min(self.heard, now) > first + patience:
            return Standing.ALIVE
        return Standing.DOWN if now - max(self.heard, first) > patience else Standing.OPEN
