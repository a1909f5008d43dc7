"""What an agent takes in the place of what it holds."""

from __future__ import annotations

import pytest

from meshagent.xds.lineage import admit
from meshagent.xds.snapshot import CLUSTER, LISTENER, Resource, Snapshot, Stamp

FULL = (Resource(CLUSTER, "a", "1", b""), Resource(LISTENER, "l", "1", b""))


def of(stamp: Stamp, *resources: Resource) -> Snapshot:
    return Snapshot.build(resources, stamp)


HELD = of(Stamp("old", 42), *FULL)


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        (of(Stamp("old", 43), *FULL), ""),
        (of(Stamp("old", 42), *FULL), ""),
        (of(Stamp("old", 41), *FULL), "revision 41 is lower than 42"),
        (of(Stamp("new", 99), *FULL), "lineage new is not old"),
        (of(Stamp("", 99), *FULL), "lineage (none) is not old"),
        (of(Stamp("old", 43)), "no listener and no cluster"),
        (of(Stamp("old", 43), FULL[0]), "no listener"),
        (of(Stamp("old", 43), FULL[1]), "no cluster"),
        (of(Stamp("old", 43, "virtual node web deleted")), ""),
        # A reason excuses that it is empty, and nothing else.
        (of(Stamp("old", 41, "deleted")), "revision 41 is lower"),
        (of(Stamp("new", 43, "deleted")), "lineage new"),
    ],
)
def test_admit(offered: Snapshot, words: str) -> None:
    found = admit(HELD, offered)
    assert words in found
    assert bool(words) == bool(found)
    assert admit(HELD, offered, accepted=True) == ""


def test_a_declared_successor_is_taken_whatever_its_revision() -> None:
    assert admit(HELD, of(Stamp("new", 1)), replaces={"old"}) == ""
    assert admit(HELD, of(Stamp("new", 1), *FULL), replaces={"older", "old"}) == ""
    assert admit(HELD, of(Stamp("new", 1), *FULL), replaces={"other"}) != ""
    # Not so within a lineage.
    assert admit(HELD, of(Stamp("old", 1), *FULL), replaces={"old"}) != ""


def test_what_holds_nothing_takes_anything() -> None:
    assert admit(None, of(Stamp("new", 1))) == ""
    assert admit(Snapshot(), of(Stamp("new", 1))) == ""


def test_what_was_empty_may_stay_empty() -> None:
    assert admit(of(Stamp("old", 1), FULL[0]), of(Stamp("old", 2), FULL[0])) == ""
