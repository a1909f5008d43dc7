"""Tables, spans of time, and what is kept from terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from meshagent.cli.rendering import Screen, clean, count, expiry, span


def screen(width: int = 80, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, width=width, force_terminal=terminal, highlight=False, markup=False)), text


def test_columns_without_content_are_left_out() -> None:
    to, text = screen()
    to.table(["a", "b", ""], [["1", "", "x"], ["2", "", ""]])
    assert [line.rstrip() for line in text.getvalue().splitlines()] == ["A", "1  x", "2"]


def test_narrow_terminals_fold_and_lose_nothing() -> None:
    to, text = screen(width=20)
    to.table(["name", "words"], [["n", "abcdefghijklmnopqrstuvwxyz"]])
    assert max(map(len, text.getvalue().splitlines())) <= 20
    cells = "".join(line.removeprefix("n").strip() for line in text.getvalue().splitlines()[1:])
    assert cells == "abcdefghijklmnopqrstuvwxyz"


def test_lines_stay_whole_and_markup_is_text() -> None:
    to, text = screen(width=20)
    to.line("[bold]x[/bold] :smile: " + "y" * 100)
    assert text.getvalue() == "[bold]x[/bold] :smile: " + "y" * 100 + "\n"


def test_colour_on_a_terminal_only() -> None:
    for terminal in (True, False):
        to, text = screen(terminal=terminal)
        to.table(["health"], [["healthy"]])
        assert ("\x1b[" in text.getvalue()) is terminal


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (47.9 * 3600, "48 h"),
        (172800, "2 d"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_expiry_and_counts() -> None:
    assert expiry(100.0, 40.0) == "in 60 s"
    assert expiry(100.0, 400.0) == "expired 5 min ago"
    assert (count(1, "proxy", "proxies"), count(2, "proxy", "proxies"), count(0, "host")) == (
        "1 proxy",
        "2 proxies",
        "0 hosts",
    )


def test_clean() -> None:
    assert clean("é ✓\tx\n\x1b[0m\x00\x7f\u202e") == "é ✓ x\n\\x1b[0m\\x00\\x7f\\x202e"
