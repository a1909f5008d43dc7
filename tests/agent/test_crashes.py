"""When an Envoy's end is blamed on what it was taking, and what is not tried again."""

from __future__ import annotations

from meshagent.agent.crashes import SUSPECT_SECONDS, Crashes, difference
from meshagent.xds.snapshot import CLUSTER, LISTENER, Resource, Snapshot, Stamp


def snapshot(revision: int, **clusters: str) -> Snapshot:
    return Snapshot.build(
        [Resource(CLUSTER, name, version, b"") for name, version in clusters.items()], Stamp("line", revision)
    )


HELD, BAD = snapshot(1, a="1", b="1"), snapshot(2, a="2", b="1")


def crashed(crashes: Crashes, candidate: Snapshot = BAD, times: int = 2) -> Crashes:
    for _ in range(times):
        crashes = crashes.asking(0.0).ended(HELD, candidate, 1.0)
    return crashes


def test_one_end_is_chance_two_are_not() -> None:
    assert not crashed(Crashes(), times=1).forbids(HELD, BAD)
    words = crashed(Crashes()).forbids(HELD, BAD)
    assert "revision 2" in words
    assert "changes a:" in words
    assert "revision 1" in words


def test_an_end_long_after_or_without_a_question_says_nothing() -> None:
    asked = Crashes().asking(0.0)
    assert asked.ended(HELD, BAD, SUSPECT_SECONDS + 1) == asked
    assert Crashes().ended(HELD, BAD, 1.0) == Crashes()


def test_what_is_taken_in_between_clears_it() -> None:
    assert not crashed(crashed(Crashes(), times=1).taken(), times=1).forbids(HELD, BAD)


def test_the_same_in_other_company_is_not_tried_and_another_version_is() -> None:
    found = crashed(Crashes())
    assert found.forbids(HELD, snapshot(3, a="2", b="2", c="1"))
    assert not found.forbids(HELD, snapshot(3, a="3", b="1"))
    assert not found.forbids(HELD, snapshot(3, a="1", b="2"))
    assert not found.forbids(None, BAD)
    # The next one that is as deadly costs one Envoy and not two.
    assert crashed(found, snapshot(3, a="3", b="1"), times=1).forbids(HELD, snapshot(3, a="3", b="1"))


def test_a_removal_is_a_difference_too() -> None:
    assert difference(HELD, snapshot(2, a="1")) == {(CLUSTER, "b", "")}
    with_listener = Snapshot.build([Resource(LISTENER, "in", "1", b"")], Stamp("line", 2))
    assert (LISTENER, "in", "1") in difference(HELD, with_listener)
