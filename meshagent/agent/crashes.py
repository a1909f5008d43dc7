"""Whether an Envoy's end is a candidate's doing, and whether another candidate would do the same. Pure.

Envoy answers a bad resource with a NACK; but some configuration ends the process. What was being taken when that happened twice is set
aside with all that it would change, and is not tried again as long as a candidate changes all of that in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshagent.xds.snapshot import Snapshot

# An Envoy that ends this long after it was offered something ends for another reason.
SUSPECT_SECONDS = 30.0
# The first end may be chance, somebody's kill say.
PATIENCE = 2

# (type URL, name, version): version "" for what would be removed.
Difference = frozenset[tuple[str, str, str]]


def difference(held: Snapshot, candidate: Snapshot) -> Difference:
    """What taking the candidate would change."""
    found: set[tuple[str, str, str]] = set()
    for type_url in held.resources.keys() | candidate.resources.keys():
        before, after = held.of(type_url), candidate.of(type_url)
        found.update((type_url, name, "") for name in before.keys() - after.keys())
        found.update(
            (type_url, name, resource.version)
            for name, resource in after.items()
            if name not in before or before[name].version != resource.version
        )
    return frozenset(found)


@dataclass(frozen=True)
class Crashes:
    """`ends` are those in a row with no candidate taken in between; `deadly` is what is not tried again; `asked` when Envoy was last
    asked to take the present candidate, None while there is none."""

    ends: int = 0
    deadly: Difference = frozenset()
    revision: int = 0
    asked: float | None = None

    def asking(self, now: float) -> Crashes:
        return Crashes(self.ends, self.deadly, self.revision, now)

    def taken(self) -> Crashes:
        """A candidate was taken: this Envoy is well, and what was deadly may be tried in another company."""
        return Crashes()

    def ended(self, held: Snapshot, candidate: Snapshot, now: float) -> Crashes:
        """An Envoy ended that had been asked for `candidate`. When that is to blame, its difference is `deadly` afterwards."""
        if self.asked is None or now - self.asked > SUSPECT_SECONDS:
            return self
        ends = self.ends + 1
        if ends < PATIENCE:
            return Crashes(ends, self.deadly, self.revision, None)
        return Crashes(ends, difference(held, candidate), candidate.stamp.revision, None)

    def forbids(self, held: Snapshot | None, candidate: Snapshot) -> str:
        """Why this candidate is not offered, "" when it is."""
        if held is None or not self.deadly or not self.deadly <= difference(held, candidate):
            return ""
        names = sorted({name for _, name, _ in self.deadly})
        named = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return (
            f"Envoy ended each time while it was taking revision {self.revision}, which changes {named}: going on with revision "
            f"{held.stamp.revision} until that is changed, or an operator accepts it"
        )
