"""When certificates are renewed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.identity import rotation
from meshagent.identity.rotation import Urgency

DAY = 86400.0
TIMES = st.floats(0, 4e9)
LIVES = st.floats(1, 100 * DAY)
JITTERS = st.floats(0, 1)


@given(TIMES, LIVES, JITTERS)
def test_renewal_is_from_40_to_50_percent_of_life(issued: float, life: float, jitter: float) -> None:
    when = rotation.renewal(issued, issued + life, jitter)
    assert issued + 0.4 * life - 1e-3 <= when <= issued + 0.5 * life + 1e-3


@given(TIMES, LIVES, TIMES, JITTERS)
def test_no_clock_makes_a_loop_or_sleeps_through_the_end(issued: float, life: float, now: float, jitter: float) -> None:
    """Whatever this machine's clock says of a certificate that was just issued (K4)."""
    delay = rotation.delay(issued, issued + life, now, jitter)
    assert min(rotation.SHORTEST_INTERVAL, life / 4) - 1e-3 <= delay <= life * 0.5 + 1e-3


@given(TIMES, LIVES, JITTERS)
def test_by_its_own_issue_time_a_certificate_is_due_when_it_should_be(
    issued: float, life: float, jitter: float
) -> None:
    delay = rotation.delay(issued, issued + life, issued, jitter)
    assert delay == pytest.approx(rotation.renewal(issued, issued + life, jitter) - issued)


def test_the_first_of_two_clocks_counts() -> None:
    due = rotation.Due(wall=1000.0, monotonic=50.0)
    assert due.left(990.0, 20.0) == 10.0
    assert due.left(990.0 - 9 * 3600, 49.0) == 1.0
    assert due.left(1001.0, 20.0) == -1.0


def test_a_certificate_of_the_past_is_renewed_now() -> None:
    assert rotation.delay(0, DAY, 0.45 * DAY, 0.5) == rotation.SHORTEST_INTERVAL
    assert rotation.delay(0, DAY, 0.3 * DAY, 0.0) == pytest.approx(0.2 * DAY)
    assert rotation.delay(5, 5, 100, 0.5) == rotation.SHORTEST_INTERVAL


def test_retries_grow_and_stay_many() -> None:
    steps = [rotation.retry(failures, DAY, 1.0) for failures in range(1, 40)]
    assert steps[:4] == [1, 2, 4, 8]
    assert steps == sorted(steps) and steps[-1] == rotation.RETRY_LONGEST
    assert rotation.retry(30, 100.0, 1.0) == 10.0
    assert rotation.retry(30, -5.0, 1.0) == rotation.RETRY_FIRST
    assert rotation.retry(5, DAY, 0.0) == steps[4] / 2


@pytest.mark.parametrize(
    ("share", "urgency"),
    [
        (-1, "none"),
        (0, "none"),
        (0.49, "none"),
        (0.5, "late"),
        (0.79, "late"),
        (0.8, "alarm"),
        (1, "expired"),
        (9, "expired"),
    ],
)
def test_urgency(share: float, urgency: str) -> None:
    assert rotation.urgency(0.0, 1000.0, share * 1000) is Urgency(urgency)


def test_a_certificate_without_life_has_expired() -> None:
    assert rotation.urgency(10.0, 10.0, 5.0) is Urgency.EXPIRED


def test_skew_below_a_minute_is_nothing() -> None:
    assert rotation.skew(100.0, 159.0) == 0.0
    assert rotation.skew(100.0, 400.0) == 300.0
    assert rotation.skew(DAY, 0.0) == -DAY
