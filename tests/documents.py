"""The commands in the README and in docs/, and what becomes of each: a test runs it, or the page says why none does.

Above a block of commands stands a comment, which readers of the page do not see: `<!-- run by tests/... -->` names the test's file,
`<!-- not run: why -->` is the reason. tests/docs holds every page to that; tests that run commands take them from here, as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a line of a block begins with that makes it commands: no list of all that there is, but of all that the pages use.
_PROGRAMS = r"apt-get|aws|cat|client|cp|curl|export|for|host|journalctl|make|meshagent|meshctl|mkdir|pyinfra|python3|sudo|systemctl|tar"
_COMMAND = re.compile(rf"(?:\$ |\.venv[\w-]*/bin/)?(?:{_PROGRAMS})(?:\(\)| )(?!:)")
_MARK = re.compile(r"<!-- (?:run by (?P<test>\S+)|not run: (?P<why>\S.*\S)) -->")


@dataclass(frozen=True)
class Block:
    """Indented lines of one page, without their indent. `test` runs them, or nothing does, for the reason `why`; both empty: not said."""

    page: str
    line: int
    lines: tuple[str, ...]
    test: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def commands(self) -> tuple[str, ...]:
        """One for each line; what begins with # is what a command prints."""
        return tuple(line for line in self.lines if _COMMAND.match(line))


def blocks(path: Path) -> Iterator[Block]:
    """Those that have commands."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return (block for block in _blocks(name, path.read_text().splitlines()) if block.commands)


def run_by(test: str, page: str) -> list[Block]:
    """What a test has to run of a page; both are paths from the root of the repository."""
    return [block for block in blocks(ROOT / page) if block.test and Path(test).samefile(ROOT / block.test)]


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    mark: re.Match[str] | None = None
    start, gathered = 0, list[str]()
    for number, line in enumerate([*lines, "end"], 1):
        if line.startswith("    ") or (gathered and not line):
            start = start or number
            gathered.append(line[4:])
            continue
        if gathered:
            test, why = (mark["test"] or "", mark["why"] or "") if mark else ("", "")
            yield Block(page, start, tuple(each for each in gathered if each), test, why)
            mark, start, gathered = None, 0, []
        if line:
            mark = _MARK.fullmatch(line.strip())
