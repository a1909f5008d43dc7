"""One host's open stream: what is to be sent to it, what has ended it, and who else says that it is this host."""

from __future__ import annotations

import asyncio

from meshagent.mesh.graph import Touch
from meshagent.server.clones import named
from meshagent.server.desired import Refusal
from meshagent.server.records import HostRecord

# What was on its way when somebody else said hello is there after this many seconds; what comes later was said later.
_UNDER_WAY = 1.0
_CHALLENGERS = 32


class Session:
    def __init__(self, record: HostRecord, boot: str, refusals: tuple[Refusal, ...], now: float) -> None:
        """`now` is by the service's clock, as `heard`: when the host was heard of last."""
        self.record, self.boot, self.refusals = record, boot, refusals
        # Whether this boot is known to be the host's.
        self.named = named(record, boot)
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
        self._challengers: dict[str, float] = {}

    def end(self, words: str) -> None:
        self.ended = words
        self.superseded.set()

    def tell_again(self) -> None:
        self.again = True
        self.changed.set()

    def outlives(self, boot: str, now: float) -> bool:
        """Whether this machine and one of another boot are both alive: this one was heard of since that one's first hello, and here is that
        one's next."""
        first = self._challengers.get(boot)
        if first is None:
            while len(self._challengers) >= _CHALLENGERS:
                del self._challengers[next(iter(self._challengers))]
            self._challengers[boot] = now
            self.tell_again()
            return False
        return min(self.heard, now) > first + _UNDER_WAY
