"""The entries of an embedded store at one revision: decides what a commit would do, and does it. No IO, no clock.

Deciding and doing are two steps, because a durable store writes the batch down in between: what is not on disk is in
nobody's view.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from meshagent.store.base import Change, Conflict, Delete, Entry, Event, LeaseGone, Put


@dataclass(frozen=True)
class Batch:
    """What one write does. `events` are of `revision`; a batch without events (a lease without keys) leaves the
    store's revision alone."""

    revision: int
    events: tuple[Event, ...] = ()
    granted: Mapping[int, float] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()


class Table:
    def __init__(self, entries: Iterable[Entry] = (), revision: int = 0) -> None:
        self.revision = revision
        self._entries = {entry.key: entry for entry in entries}
        self._keys = sorted(self._entries)
        self._on_lease: dict[int, set[str]] = {}
        for entry in self._entries.values():
            if entry.lease:
                self._on_lease.setdefault(entry.lease, set()).add(entry.key)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """Ordered by key: strings compare by code point, which is also the order of their UTF-8."""
        found = []
        for position in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[position]
            if not key.startswith(prefix):
                break
            found.append(self._entries[key])
        return tuple(found)

    def decide(self, changes: Sequence[Change], expect: Mapping[str, int], leases: Collection[int]) -> Batch:
        """The batch of a commit; raises what Store.commit says, and changes nothing."""
        check(changes)
        for key, expected in expect.items():
            present = self._entries.get(key)
            found = present.revision if present else 0
            if found != expected:
                raise Conflict(key, expected, found)
        revision = self.revision + 1
        events = []
        for change in changes:
            present = self._entries.get(change.key)
            match change:
                case Put(key, value, lease):
                    if lease and lease not in leases:
                        raise LeaseGone(f"{key}: lease {lease} has expired, was revoked or never was: grant a new one")
                    entry = Entry(key, value, revision, present.created if present else revision, lease)
                    events.append(Event(key, entry, revision))
                case Delete(key) if present:
                    events.append(Event(key, None, revision))
        return Batch(revision, tuple(events)) if events else Batch(self.revision)

    def end(self, leases: Collection[int]) -> Batch:
        """The batch that ends leases, their keys with them as one revision."""
        keys = sorted(key for lease in leases for key in self._on_lease.get(lease, ()))
        revision = self.revision + 1 if keys else self.revision
        return Batch(revision, tuple(Event(key, None, revision) for key in keys), ended=frozenset(leases))

    def apply(self, batch: Batch) -> None:
        for event in batch.events:
            self._replace(event.key, event.entry)
        for lease in batch.ended:
            self._on_lease.pop(lease, None)
        self.revision = batch.revision

    def _replace(self, key: str, entry: Entry | None) -> None:
        before = self._entries.pop(key, None)
        if before is not None and before.lease:
            self._on_lease.get(before.lease, set()).discard(key)
        if entry is None:
            if before is not None:
                del self._keys[bisect_left(self._keys, key)]
            return
        if before is None:
            insort(self._keys, key)
        self._entries[key] = entry
        if entry.lease:
            self._on_lease.setdefault(entry.lease, set()).add(key)


def check(changes: Sequence[Change]) -> None:
    """ValueError for what no store takes: it is the caller's defect."""
    keys = set()
    for change in changes:
        if not change.key:
            raise ValueError("a key of the store is not empty")
        change.key.encode()  # lone surrogates cannot be stored: UnicodeEncodeError is a ValueError
        if change.key in keys:
            raise ValueError(f"{change.key}: one commit changes a key once")
        keys.add(change.key)
