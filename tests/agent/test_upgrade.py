"""Which generation serves, whether another is due, and what is made of one on trial."""

from __future__ import annotations

import pytest

from meshagent.agent.upgrade import (
    SILENT_SECONDS,
    SILENT_TIMES,
    TRIAL_SECONDS,
    due,
    hangs,
    number_after,
    recover,
    trial,
)
from meshagent.host.supervisor import Next, Running


def generation(number: int, made_of: str = "", version: str = "1.40.0", pid: int = 0) -> Running:
    return Running(number, version, "", "", "boot", pid or 100 + number, 7, made_of=made_of)


ONE, TWO, THREE = generation(1), generation(2), generation(3)


@pytest.mark.parametrize(
    ("state", "follower", "running", "retired", "serving", "on_trial", "over"),
    [
        (None, None, [], set(), None, None, ()),
        (ONE, None, [ONE], set(), ONE, None, ()),
        (ONE, None, [], set(), ONE, None, ()),  # a host that booted
        (None, None, [ONE], set(), ONE, None, ()),  # the file was lost
        (ONE, Next(TWO, "o"), [ONE, TWO], set(), ONE, TWO, ()),  # the agent ended during a trial
        (ONE, Next(TWO, "o"), [ONE], set(), ONE, None, ()),  # or before it began
        (ONE, Next(TWO, "o", "it crashed"), [ONE, TWO], set(), ONE, None, (TWO,)),  # or before the loser ended
        (TWO, Next(TWO, "o"), [ONE, TWO], set(), TWO, None, (ONE,)),  # or after the state file was written
        (TWO, None, [ONE, TWO], {1}, TWO, None, (ONE,)),  # or while the old one drained
        (ONE, Next(TWO, "o"), [TWO], {1}, TWO, None, ()),  # the state file could not be written, and the old one went
        (None, None, [ONE, TWO], {1}, TWO, None, (ONE,)),
        (None, Next(THREE, "o"), [TWO, THREE], set(), TWO, THREE, ()),
        (ONE, None, [ONE, THREE], set(), ONE, None, (THREE,)),  # nobody knows why it runs
        (ONE, None, [ONE], {1}, None, None, (ONE,)),  # all were being ended, and something is to run again
        (ONE, None, [], {1}, None, None, ()),
    ],
)
def test_h1_an_agent_goes_on_from_whatever_it_finds(
    state: Running | None,
    follower: Next | None,
    running: list[Running],
    retired: set[int],
    serving: Running | None,
    on_trial: Running | None,
    over: tuple[Running, ...],
) -> None:
    found = recover(state, follower, running, retired)
    assert (found.serving, found.trial, found.over) == (serving, on_trial, over)


def test_no_number_is_used_twice() -> None:
    assert number_after(None, None, []) == 1
    assert number_after(ONE, Next(THREE, "o", "it crashed"), [TWO]) == 4


def test_another_generation_is_due_for_another_make_and_not_for_what_failed() -> None:
    serving = generation(1, "a")
    assert not due(serving, "a", "1.40.0", "o", None)
    assert due(serving, "b", "1.40.0", "o", None)
    assert not due(serving, "b", "1.40.0", "o", Next(TWO, "o", "it crashed"))
    assert due(serving, "b", "1.40.0", "another order", Next(TWO, "o", "it crashed"))
    assert due(serving, "b", "1.40.0", "o", Next(TWO, "o"))
    # Of one whose state was lost, the version is all there is to go by, or not even that.
    assert not due(generation(1), "b", "1.40.0", "o", None)
    assert due(generation(1), "b", "1.41.0", "o", None)
    assert not due(generation(1, version=""), "b", "1.41.0", "o", None)


@pytest.mark.parametrize(
    ("state", "in_sync", "refused", "ended", "seconds", "verdict"),
    [
        ("LIVE", True, [], "", 0.5, ""),
        ("LIVE", False, [], "", 0.5, None),
        ("PRE_INITIALIZING", True, [], "", 0.5, None),
        ("LIVE", True, [("in", "no such file\n")], "", 0.5, "it refused in: no such file"),
        ("LIVE", True, [], "ended by SIGSEGV", 0.5, "it ended by SIGSEGV before it served"),
        ("", False, [], "", TRIAL_SECONDS, "it hung: nothing was heard of it within 60 s"),
        ("INITIALIZING", False, [], "", TRIAL_SECONDS, "it was INITIALIZING and no more after 60 s"),
    ],
)
def test_h4_what_is_made_of_one_on_trial(
    state: str, in_sync: bool, refused: list[tuple[str, str]], ended: str, seconds: float, verdict: str | None
) -> None:
    assert trial(state, in_sync, refused, ended, seconds) == verdict


def test_h5_silence_counts_once_it_is_long_and_often_enough() -> None:
    assert hangs(True, SILENT_TIMES, SILENT_SECONDS)
    assert not hangs(True, SILENT_TIMES - 1, SILENT_SECONDS)
    assert not hangs(True, SILENT_TIMES, SILENT_SECONDS - 1)
    assert not hangs(False, SILENT_TIMES, SILENT_SECONDS)  # it starts
    assert hangs(False, SILENT_TIMES, TRIAL_SECONDS)
