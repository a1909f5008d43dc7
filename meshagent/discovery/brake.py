"""The brake on mass expiries: when the leases of many hosts end together, the fault is more likely ours than theirs.

A lease that ends is held for a short while before its endpoint goes, so that expiries of one cause are judged together.
More than a share of all endpoints, from several hosts, within the window: all of them stay, marked suspect, until their
leases return or their placements are removed. Deliberate changes never come here. Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshagent.mesh.placement import Endpoint


@dataclass(frozen=True)
class Limits:
    """Braked when more than max(`floor`, `share` of all leased endpoints) end within `window` seconds on at least
    `hosts` hosts; `grace` is how long a single expiry is held before it takes effect."""

    floor: int = 5
    share: float = 0.3
    hosts: int = 3
    window: float = 60.0
    grace: float = 2.0


class Brake:
    """Holds the endpoints whose leases ended, keyed by placement id, and says which of them still count."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._ended: dict[str, tuple[float, Endpoint]] = {}
        self._kept: frozenset[str] = frozenset()
        self._calm: float | None = None

    @property
    def braking(self) -> bool:
        return bool(self._kept)

    @property
    def suspects(self) -> dict[str, Endpoint]:
        """What is kept against its lease's end."""
        return {placement: self._ended[placement][1] for placement in sorted(self._kept)}

    def ended(self, endpoint: Endpoint, now: float) -> None:
        """The lease that vouched for this endpoint ended by itself."""
        self._ended[endpoint.placement] = (now, endpoint)

    def kept(self, endpoint: Endpoint, now: float) -> None:
        """A brake before this one kept it: it goes on."""
        self._ended[endpoint.placement] = (now, endpoint)
        self._kept |= {endpoint.placement}

    def settled(self, placement: str) -> None:
        """Its lease speaks again, or the placement was removed: nothing is to be held of it."""
        self._ended.pop(placement, None)
        self._kept -= {placement}

    def judge(self, alive: int, now: float) -> frozenset[str]:
        """The placements whose endpoints count although their leases ended; `alive` is the number of endpoints whose
        lease stands. Call after every change and at `next_deadline`."""
        limits = self.limits
        recent = {
            placement: endpoint
            for placement, (when, endpoint) in self._ended.items()
            if now - when < limits.window or placement in self._kept
        }
        too_many = len(recent) > max(limits.floor, limits.share * (alive + len(recent)))
        if too_many and (self._kept or len({endpoint.host for endpoint in recent.values()}) >= limits.hosts):
            self._kept = frozenset(recent)
            self._calm = None
        elif self._kept:
            # Enough have returned: those that stay away are now few, and go when no more of them came back for a while.
            self._calm = now if self._calm is None else self._calm
            if now - self._calm >= limits.window:
                self._kept, self._calm = frozenset(), None
        fresh = {placement for placement, (when, _) in self._ended.items() if now - when < limits.grace}
        self._forget(now)
        return self._kept | fresh

    def next_deadline(self, now: float) -> float | None:
        """When `judge` would say something else although nothing happened; None while nothing is held."""
        moments = []
        for placement, (when, _) in self._ended.items():
            if placement not in self._kept:
                moments += [when + self.limits.grace, when + self.limits.window]
        if self._calm is not None:
            moments.append(self._calm + self.limits.window)
        return min((moment for moment in moments if moment > now), default=None)

    def _forget(self, now: float) -> None:
        """Drops what is neither kept nor within the window any more: a later expiry is judged without it."""
        gone: Iterable[str] = [
            placement
            for placement, (when, _) in self._ended.items()
            if placement not in self._kept and now - when >= self.limits.window
        ]
        for placement in gone:
            del self._ended[placement]
