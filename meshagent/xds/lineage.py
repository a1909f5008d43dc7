"""Whether an agent takes an offered snapshot, or keeps what it has and says why. Pure.

A control plane that lost its store, was rolled back to an old backup or came up with nothing must not take a running
mesh down: what an agent holds is only ever replaced by a later state of the same lineage, unless an operator says
otherwise.
"""

from __future__ import annotations

from collections.abc import Collection

from meshagent.xds.snapshot import CLUSTER, LISTENER, SHORT_NAMES, Snapshot, Stamp


def admit(held: Snapshot | None, offered: Snapshot, *, replaces: Collection[str] = (), accepted: bool = False) -> str:
    """ "" when `offered` may replace `held`, else the reason in words, for an operator to read.

    `replaces` are the lineages that the offering control plane was declared to succeed; `accepted` that an operator
    released this host."""
    if held is None or accepted:
        return ""
    reason = stale(held.stamp, offered.stamp, replaces=replaces)
    if reason or offered.stamp.reason or succeeds(held.stamp, offered.stamp, replaces):
        return reason
    emptied = [
        SHORT_NAMES[type_url] for type_url in (LISTENER, CLUSTER) if held.of(type_url) and not offered.of(type_url)
    ]
    if emptied:
        return (
            f"revision {offered.stamp.revision} has no {' and no '.join(emptied)} where there were some, "
            "and names no operator's act as the reason: keeping what is held until an operator accepts it"
        )
    return ""


def stale(held: Stamp, offered: Stamp, *, replaces: Collection[str] = ()) -> str:
    """The part of the decision that needs stamps alone: "" or why `offered` is not later than `held`."""
    if not held.lineage or succeeds(held, offered, replaces):
        return ""
    if offered.lineage != held.lineage:
        return (
            f"lineage {offered.lineage or '(none)'} is not {held.lineage}, which is held, and was not declared to "
            "replace it: keeping what is held until an operator accepts it"
        )
    if offered.revision < held.revision:
        return (
            f"revision {offered.revision} is lower than {held.revision}, which is held, of the same lineage: "
            "keeping what is held until an operator accepts it"
        )
    return ""


def succeeds(held: Stamp, offered: Stamp, replaces: Collection[str]) -> bool:
    """Whether `offered` is of another lineage that was declared to succeed the one that is held."""
    return offered.lineage != held.lineage and held.lineage in replaces
