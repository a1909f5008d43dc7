"""The README and docs/ say nothing of a command line or a file that is not so.

Every `meshctl` and `meshagent` command line in them is parsed by the commands' own parsers, and none is run; every relative link leads to
a file, and to a heading of it where one is named. Every block of commands says which test runs it, or why none does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from meshagent.cli.meshagent import meshagent
from meshagent.cli.meshctl import meshctl
from tests.documents import PAGES, Block, blocks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS: dict[str, click.Command] = {"meshctl": meshctl, "meshagent": meshagent}

# Where a shell would look for a command: at a line's start, after what joins commands, in $(...); up to what ends it or redirects it.
_COMMAND = re.compile(
    r"(?:^|[;|&(]|\bdo|\bsudo)\s*(?:[\w./-]*/)?(meshctl|meshagent)(?![\w:.-])((?:\s+(?!\d*[<>])(?:'[^']*'|[^\s|&;<>()#'])+)*)"
)
_INLINE = re.compile(r"`(meshctl|meshagent)((?: [^`]+)?)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class CommandLine:
    """`whole` for one that is there to be typed; else it is a mention, which may leave out what the command needs."""

    place: str
    program: str
    arguments: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.place}: {' '.join((self.program, *self.arguments))}"


def command_lines(name: str, text: str) -> Iterator[CommandLine]:
    fenced = False
    number, lines = 0, text.splitlines()
    while number < len(lines):
        line, place = lines[number], f"{name}:{number + 1}"
        number += 1
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if not fenced and not line.startswith("    "):
            for program, rest in _INLINE.findall(line):
                for arguments in _alternatives(rest.split()):
                    yield CommandLine(place, program, arguments, whole=False)
            continue
        while line.endswith("\\") and number < len(lines):
            line = f"{line[:-1]} {lines[number].strip()}"
            number += 1
        for found in _COMMAND.finditer(line.strip().removeprefix("$ ")):
            yield CommandLine(place, found[1], tuple(shlex.split(found[2])), whole=True)


def _alternatives(words: list[str]) -> Iterator[tuple[str, ...]]:
    """`accept HOST|--all` is two command lines."""
    if not words:
        yield ()
        return
    for rest in _alternatives(words[1:]):
        for word in words[0].split("|"):
            yield (word, *rest)


def check(line: CommandLine) -> None:
    """Raises click's own error for a command, an option or a value that is not right."""
    command, arguments, parent = PROGRAMS[line.program], list(line.arguments), None
    name = line.program
    while isinstance(command, click.Group):
        context = click.Context(command, parent=parent, info_name=name)
        _, arguments, _ = command.make_parser(context).parse_args(arguments)
        if not arguments:
            return
        found, inner, arguments = command.resolve_command(context, arguments)
        assert found is not None
        assert inner is not None
        command, parent, name = inner, context, found
    if line.whole:
        try:
            command.make_context(name, arguments, parent=parent)
        except click.exceptions.Exit:
            return  # --help
    else:
        context = click.Context(command, parent=parent, info_name=name)
        command.make_parser(context).parse_args(arguments)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_shown)
def test_command_lines_are_what_the_commands_take(document: Path) -> None:
    wrong = []
    for line in command_lines(_shown(document), document.read_text()):
        try:
            check(line)
        except click.UsageError as error:
            wrong.append(f"{line}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_shown)
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for target in _LINK.findall(document.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        if not path.exists():
            wrong.append(f"{_shown(document)}: {target}: there is no such file")
        elif anchor and anchor not in _anchors(path):
            wrong.append(f"{_shown(document)}: {target}: there is no such heading")
    assert not wrong, "\n".join(wrong)


def _anchors(document: Path) -> set[str]:
    """As the web's readers of Markdown make them."""
    headings = _HEADING.findall(document.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_and_the_guide_have_command_lines() -> None:
    """That the tests above look at something."""
    for name in ("README.md", "docs/meshctl.md"):
        typed = [line for line in command_lines(name, (ROOT / name).read_text()) if line.whole]
        assert {line.program for line in typed} >= {"meshctl"}, name
        assert len(typed) > 5, name


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("    meshctl get -o json | jq .", ["meshctl get -o json"]),
        ("    meshagent server --data-dir /x &", ["meshagent server --data-dir /x"]),
        ("    meshctl diff a.yaml   # b", ["meshctl diff a.yaml"]),
        (
            "    for h in a b; do .venv/bin/meshagent agent --config $h.yaml; done",
            ["meshagent agent --config $h.yaml"],
        ),
        ("    meshctl token create \\\n      -p 'mesh/shop/*' > t", ["meshctl token create -p mesh/shop/*"]),
        ("```\n$ meshctl status\nmeshctl: no\n```", ["meshctl status"]),
        ("say `meshctl accept HOST|--all` once", ["meshctl accept HOST", "meshctl accept --all"]),
        ("meshctl is a word here", []),
    ],
)
def test_command_lines_are_found(text: str, wanted: list[str]) -> None:
    assert [" ".join((line.program, *line.arguments)) for line in command_lines("t", text)] == wanted


@pytest.mark.parametrize(
    "line",
    [
        CommandLine("t", "meshctl", ("explode",), whole=False),
        CommandLine("t", "meshctl", ("status", "--loud"), whole=False),
        CommandLine("t", "meshctl", ("token", "rename"), whole=False),
        CommandLine("t", "meshctl", ("apply",), whole=True),
        CommandLine("t", "meshctl", ("status", "-o", "xml"), whole=True),
        CommandLine("t", "meshagent", ("server", "--port", "1"), whole=True),
    ],
    ids=str,
)
def test_what_is_wrong_is_found(line: CommandLine) -> None:
    with pytest.raises(click.UsageError):
        check(line)


def _unaccounted(block: Block) -> str:
    """What is missing for a block of commands to be run by a test, or not to be for a reason."""
    if block.why:
        named = re.findall(r"\btests/[\w/]+(?:\.py)?", block.why)
        return next((f"{block}: {test} is not there" for test in named if not (ROOT / test).exists()), "")
    if not block.test:
        return f"{block}: say above it `<!-- run by tests/... -->`, or `<!-- not run: why -->`"
    if not (ROOT / block.test).is_file():
        return f"{block}: {block.test} is not there"
    if block.page not in (ROOT / block.test).read_text():
        return f"{block}: {block.test} does not speak of {block.page}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=_shown)
def test_every_command_is_run_by_a_test_or_the_page_says_why_not(page: Path) -> None:
    wrong = [words for block in blocks(page) if (words := _unaccounted(block))]
    assert not wrong, "\n".join(wrong)


def test_commands_that_nobody_runs_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Do\n\n    sudo meshctl status\n\n<!-- not run: because -->\n\n    make all\n\n    meshctl get\n\nand\n\n"
        "<!-- run by tests/none.py -->\n\n    meshctl hosts\n\n<!-- not run: why -->\nas in\n\n    kind: Mesh\n"
    )
    first, second, third = blocks(page)
    assert "say above it" in _unaccounted(first)
    assert (second.why, second.commands, _unaccounted(second)) == ("because", ("make all", "meshctl get"), "")
    assert "tests/none.py is not there" in _unaccounted(third)
