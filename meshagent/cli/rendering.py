"""How meshctl prints: one value, as a table on a terminal, or whole as JSON or YAML. Nothing else of meshctl formats output.

What comes from hosts and from Envoy is data: control characters in it must not reach a terminal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

OUTPUTS = ("table", "json", "yaml")

output_option = click.option(
    "--output", "-o", type=click.Choice(OUTPUTS), default="table", show_default=True, help="How to print."
)

# Wider than any table: what goes into a pipe is not broken where no terminal's edge is.
_UNFOLDED = 10_000
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
# A unit is used from two of it on, but for seconds.
_UNITS = ((2 * _DAY, _DAY, "d"), (2 * _HOUR, _HOUR, "h"), (2 * _MINUTE, _MINUTE, "min"), (0.0, 1.0, "s"))


class Screen:
    """Where tables and lines go: as wide as the terminal, and coloured there. A pipe or a file gets rows that are not folded, unless
    COLUMNS says how wide. Plain lines alone load no library."""

    def __init__(self, console: Console | None = None) -> None:
        self._given = console

    @cached_property
    def _console(self) -> Console:
        if self._given is not None:
            return self._given
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _UNFOLDED
        return console

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns without any content are left out; a table without rows is its headings."""
        from rich.table import Table
        from rich.text import Text

        kept = [i for i, name in enumerate(columns) if (name and not rows) or any(row[i] for row in rows)]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for i in kept:
            table.add_column(columns[i].upper(), overflow="fold")
        for row in rows:
            table.add_row(*(Text(clean(row[i]), style=_STYLES.get(row[i].partition(" ")[0], "")) for i in kept))
        self._console.print(table)

    def line(self, text: str = "", style: str = "") -> None:
        """One line, never broken: a terminal folds it, a pipe gets it whole."""
        if not style and self._given is None:
            click.echo(clean(text))
            return
        from rich.text import Text

        self._console.print(Text(clean(text), style=style), soft_wrap=True)


# The colour of a cell by its first word.
_STYLES = {
    "healthy": "green",
    "synced": "green",
    "unhealthy": "red",
    "away": "red",
    "held": "yellow",
    "refused": "red",
    "behind": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "unknown": "yellow",
    "expired": "red",
    "create": "green",
    "update": "yellow",
    "delete": "red",
    "done": "green",
    "waiting": "yellow",
    "pending": "yellow",
    "failed": "red",
}


def show(value: Any, output: str, lines: Callable[[Screen], None]) -> None:
    """Prints `value` whole as JSON or YAML, or calls `lines` for what people read."""
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    elif output == "yaml":
        click.echo(as_yaml(value), nl=False)
    else:
        lines(Screen())


def show_documents(documents: Sequence[Any]) -> None:
    """Several values as one YAML stream, a document each."""
    for document in documents:
        click.echo(f"---\n{as_yaml(document)}", nl=False)


def as_yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def clean(text: str) -> str:
    """The text without what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else f"\\x{ord(c):02x}" for c in text)


def span(seconds: float) -> str:
    """`23 h`, `5 min`: the largest unit of which there are two."""
    return next(f"{round(seconds / unit)} {word}" for least, unit, word in _UNITS if seconds >= least or unit == 1.0)


def expiry(end: float, now: float) -> str:
    return f"in {span(end - now)}" if end > now else f"expired {span(now - end)} ago"


def count(number: int, word: str, plural: str | None = None) -> str:
    """`1 proxy`, `2 proxies`."""
    return f"{number} {word if number == 1 else plural or word + 's'}"
