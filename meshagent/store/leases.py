"""The leases of an embedded store: ids, lives and deadlines. The clock's reading comes in as an argument.

A lease ends when a sweep finds it overdue, not before: a keepalive that reaches a server which was itself asleep still
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshagent.store.base import LeaseGone


class Leases:
    def __init__(self, ttls: Mapping[int, float], last: int, now: float) -> None:
        """`ttls` are those of before a restart, each with one full life from now; `last` is the highest id ever
        given."""
        self._ttls = dict(ttls)
        self._deadlines = {lease: now + ttl for lease, ttl in ttls.items()}
        self._last = max(last, *ttls) if ttls else last

    def __contains__(self, lease: object) -> bool:
        return lease in self._ttls

    def __iter__(self) -> Iterator[int]:
        return iter(self._ttls)

    def __len__(self) -> int:
        return len(self._ttls)

    def take_id(self) -> int:
        """An id that no lease ever had."""
        self._last += 1
        return self._last

    def begin(self, lease: int, ttl: float, now: float) -> None:
        self._ttls[lease] = ttl
        self._deadlines[lease] = now + ttl

    def keepalive(self, lease: int, now: float) -> float:
        """Its life."""
        if lease not in self._ttls:
            raise LeaseGone(f"lease {lease} has expired, was revoked or never was: grant a new one")
        ttl = self._ttls[lease]
        self._deadlines[lease] = now + ttl
        return ttl

    def forgive(self, seconds: float) -> None:
        """Time in which the store itself did not run is nobody's silence."""
        for lease in self._deadlines:
            self._deadlines[lease] += seconds

    def overdue(self, now: float) -> frozenset[int]:
        return frozenset(lease for lease, deadline in self._deadlines.items() if deadline <= now)

    def end(self, leases: frozenset[int]) -> None:
        for lease in leases:
            self._ttls.pop(lease, None)
            self._deadlines.pop(lease, None)
