"""The store that forgets: for tests, offline work and the demo's pieces. All of its meaning is the embedded store's."""

from __future__ import annotations

import time

from meshagent.store.embedded import HISTORY, Clock, EmbeddedStore, NoJournal
from meshagent.store.table import Table


class MemoryStore(EmbeddedStore):
    """`clock` is read for leases; `history` is about how many events are kept for watchers."""

    def __init__(self, clock: Clock = time.monotonic, history: int = HISTORY) -> None:
        super().__init__(NoJournal(), Table(), ttls={}, last_lease=0, clock=clock, history=history)
