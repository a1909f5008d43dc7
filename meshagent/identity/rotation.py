"""When a certificate is renewed, when a failed renewal is tried again, and when somebody must be told. Decisions only.

Times are Unix seconds; `jitter` is a random number from 0 to 1 that the caller draws, once for each certificate or attempt. `issued` is
when a certificate was made, which is later than its not-before: certificates are backdated (identity.x509).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RETRY_FIRST = 1.0
RETRY_LONGEST = 300.0
# A host whose clock is wrong finds every certificate due at once: it must not renew in a loop.
SHORTEST_INTERVAL = 5.0
SKEW_LIMIT = 60.0


@dataclass(frozen=True)
class Due:
    """A moment by two clocks, of which the first to get there counts: the wall clock may be set back, the monotonic one stands still while
    the machine sleeps."""

    wall: float
    monotonic: float

    def left(self, wall: float, monotonic: float) -> float:
        """Seconds until then."""
        return min(self.wall - wall, self.monotonic - monotonic)


class Urgency(StrEnum):
    """How far a certificate's life has run without a renewal: before half, past half (renewals fail), past 80 %, over."""

    NONE = "none"
    LATE = "late"
    ALARM = "alarm"
    EXPIRED = "expired"


_THRESHOLDS = ((1.0, Urgency.EXPIRED), (0.8, Urgency.ALARM), (0.5, Urgency.LATE))


def renewal(issued: float, end: float, jitter: float) -> float:
    """When to renew first: from 40 to 50 % of life, so that hosts that joined together do not come back together."""
    return issued + (end - issued) * (0.5 - 0.1 * jitter)


def delay(issued: float, end: float, now: float, jitter: float) -> float:
    """Seconds until the first attempt to renew, whatever the clock says: a clock that is ahead must not make a loop, and one that is
    behind must not sleep through the certificate's end. Right after it was issued, `issued` is a better `now` than any clock."""
    first = renewal(issued, end, jitter)
    shortest = min(SHORTEST_INTERVAL, (end - issued) / 4) if end > issued else SHORTEST_INTERVAL
    return max(min(first - now, first - issued), shortest)


def retry(failures: int, left: float, jitter: float) -> float:
    """Seconds until the next attempt after `failures` (from 1) of them, with `left` seconds of life: doubling, but at least ten more
    attempts before the end, and spread over the upper half of the interval."""
    longest = min(RETRY_LONGEST, max(left / 10, RETRY_FIRST))
    interval = min(RETRY_FIRST * 2.0 ** min(failures - 1, 16), longest)
    return interval * (0.5 + 0.5 * jitter)


def urgency(issued: float, end: float, now: float) -> Urgency:
    gone = (now - issued) / (end - issued) if end > issued else 1.0
    return next((urgency for threshold, urgency in _THRESHOLDS if gone >= threshold), Urgency.NONE)


def skew(issued: float, now: float) -> float:
    """By how many seconds this machine's clock is ahead of the authority's, from a certificate that was issued a moment ago; 0.0 where
    the difference is too small to say."""
    return now - issued if abs(now - issued) > SKEW_LIMIT else 0.0
