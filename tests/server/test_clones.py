"""Which of two machines with one identity has the host's name."""

from __future__ import annotations

from functools import reduce

import pytest

from meshagent.server.clones import (
    CLONES,
    EARLIER_BOOTS,
    CloneRefused,
    answered,
    both_live,
    forgotten,
    named,
    refuse_clone,
)
from meshagent.server.records import HostRecord


def after(*boots: str) -> HostRecord:
    return reduce(answered, boots, HostRecord("a", address="10.0.0.1"))


def kept_out(record: HostRecord, *boots: str) -> list[str]:
    return [boot for boot in boots if not _admitted(record, boot)]


def _admitted(record: HostRecord, boot: str) -> bool:
    try:
        refuse_clone(record, boot)
    except CloneRefused:
        return False
    return True


def test_a_machine_that_is_started_anew_is_the_same_machine() -> None:
    record = after("a1", "a2", "a2", "a3")
    assert named(record, "a3")
    assert record.clones == ()


def test_of_two_machines_the_one_that_came_first_keeps_the_name() -> None:
    record = after("a1", "b1", "a1")
    assert named(record, "a1")
    assert kept_out(record, "a1", "b1") == ["b1"]
    with pytest.raises(CloneRefused, match=r"at 10\.0\.0\.1, is host 'a': .*kept out.*host\.name.*token"):
        refuse_clone(record, "b1")


def test_of_two_that_are_alive_together_the_one_that_came_first_keeps_the_name() -> None:
    assert kept_out(both_live(after("a1"), "b1"), "a1", "b1") == ["b1"]
    assert kept_out(both_live(after("a1", "b1"), "a1"), "a1", "b1") == ["b1"]
    record = both_live(after("a1"), "b1")
    assert both_live(record, "b1") is record
    assert both_live(record, "a1") is record
    assert both_live(record, "") is record


def test_what_a_clone_says_that_is_kept_out_changes_nothing() -> None:
    record = after("a1", "b1", "a1")
    assert answered(record, "b1") is record


def test_a_clone_stays_out_while_the_host_is_started_anew() -> None:
    record = after("a1", "b1", "a1", "a2")
    assert named(record, "a2")
    assert kept_out(record, "a1", "a2", "b1") == ["b1"]


def test_a_clone_that_is_started_anew_is_found_again() -> None:
    assert kept_out(after("a1", "b1", "a1", "b2", "a1"), "a1", "b1", "b2") == ["b1", "b2"]


def test_many_machines_of_one_image_are_all_kept_out_but_the_first() -> None:
    assert kept_out(after("a1", "b1", "c1", "a1", "d1", "c1", "a1"), "a1", "b1", "c1", "d1") == ["b1", "c1", "d1"]
    assert kept_out(after("a1", "b1", "c1", "b1", "a1"), "a1", "b1", "c1") == ["b1", "c1"]


def test_a_name_that_is_joined_anew_is_the_machines_that_joined() -> None:
    record = forgotten(after("a1", "b1", "a1"))
    assert kept_out(record, "a1", "b1") == []
    assert named(answered(record, "b1"), "b1")


def test_a_machine_whose_boots_cannot_be_told_is_let_in() -> None:
    record = answered(after("a1", "b1", "a1"), "")
    assert named(record, "")
    assert named(record, "a1")
    assert kept_out(record, "") == []


def test_what_is_remembered_is_bounded() -> None:
    record = after(*(f"a{number}" for number in range(100)))
    assert len(record.earlier_boots) == EARLIER_BOOTS
    record = after("a1", *(boot for number in range(CLONES) for boot in (f"b{number}", "a1")))
    assert kept_out(record, "b0", f"b{CLONES - 1}") == ["b0", f"b{CLONES - 1}"]
    assert len(answered(answered(record, "c"), "a1").clones) == CLONES
    with pytest.raises(CloneRefused, match=f"more than {CLONES} machines"):
        both_live(record, "d")
