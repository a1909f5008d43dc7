"""A figure, what it is to reach, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    unit: str
    goal: str = ""
    reached: bool | None = None


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(figures: list[Figure]) -> str:
    rows = [("", "measured", "goal", "")]
    for figure in figures:
        verdict = "" if figure.reached is None else ("reached" if figure.reached else "MISSED")
        rows.append((figure.what, f"{number(figure.value)} {figure.unit}", figure.goal, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
