"""What a check says: one finding for each thing that is well or not, in a line, with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works now, and will not for long or not in every case
    WRONG = "wrong"
    UNKNOWN = "unknown"  # could not be looked at


@dataclass(frozen=True)
class Finding:
    """`words` name the thing and how it is, `remedy` is what to do."""

    check: str
    state: State
    words: str
    remedy: str = ""

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state.value}


def ok(check: str, words: str) -> Finding:
    return Finding(check, State.OK, words)


def warning(check: str, words: str, remedy: str) -> Finding:
    return Finding(check, State.WARNING, words, remedy)


def wrong(check: str, words: str, remedy: str) -> Finding:
    return Finding(check, State.WRONG, words, remedy)


def unknown(check: str, words: str, remedy: str = "") -> Finding:
    return Finding(check, State.UNKNOWN, words, remedy)


def or_well(check: str, findings: Iterable[Finding], words: str) -> Iterator[Finding]:
    """The findings, or that all is well where there is none."""
    none = True
    for finding in findings:
        none = False
        yield finding
    if none:
        yield ok(check, words)


def span(seconds: float) -> str:
    """`90 s`, `5 min`, `3 h`, `2 days`."""
    for size, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s"
