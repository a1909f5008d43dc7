"""Node: a parsed document that still knows the line of each of its values, from JSON or YAML text or from plain objects.

What no document may hold, whatever it defines, is found here: duplicate and non-string keys, NUL bytes and lone surrogates,
numbers beyond 64 bits, nesting and size without bound. Knows nothing of App Mesh.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_LENGTH = 1 << 20
"""Of one document: its depth, its values with aliases expanded, its bytes."""

Path = tuple[str | int, ...]
_NO_CHILDREN: Mapping[str | int, Node] = {}
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Flaw:
    """Something wrong at one place of a document. `path` starts at the document's root; `line` counts from 1, 0 where there is no text."""

    path: Path
    line: int
    message: str


class Unreadable(Exception):
    """The text cannot be read any further; carries the flaw. Never leaves meshagent.specs."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class Node:
    """`value` is plain Python, without the fields that were null: they count as not given. `line` is that of the value's key where it has
    one. `count` is how many values are in it, aliases expanded; `length` its text's length in characters."""

    value: Any
    line: int
    children: Mapping[str | int, Node]
    count: int
    length: int = 0

    def at(self, path: Path) -> Node:
        """The node at the path, or the nearest above it: a field that is missing is missed where it should be."""
        node = self
        for part in path:
            below = node.children.get(part)
            if below is None:
                return node
            node = below
        return node

    def under(self, line: int) -> Node:
        """The same value as found under a key of that line."""
        return Node(self.value, line, self.children, self.count, self.length)


def show(value: object) -> str:
    """A value as error messages quote it: as JSON, short, on one line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 64 else f"{text[:60]}... ({len(text)} characters)"


def printable(text: str) -> str:
    """For a terminal and for logs: one line without control characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def dotted(path: Path) -> str:
    """spec.listeners[0].portMapping.port"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() and len(part) <= 100 else show(part)
            text += f".{name}" if text else name
    return text


def scalar(value: object, line: int, path: Path, flaws: list[Flaw], length: int = 0) -> Node:
    """A node without children; what cannot be used as it is becomes a flaw and null."""
    problem = _problem_of(value)
    if problem:
        flaws.append(Flaw(path, line, problem))
        value = None
    return Node(value, line, _NO_CHILDREN, 1, length)


def sequence(items: Sequence[Node], line: int, length: int = 0) -> Node:
    return _bounded(Node([item.value for item in items], line, dict(enumerate(items)), _count(items), length))


def mapping(
    pairs: Sequence[tuple[object, int, Node]], line: int, path: Path, flaws: list[Flaw], length: int = 0
) -> Node:
    """`pairs` are (key, the key's line, value). The first of two equal keys counts, and the second is a flaw."""
    children: dict[str | int, Node] = {}
    for key, key_line, node in pairs:
        if not isinstance(key, str):
            flaws.append(Flaw(path, key_line, f"keys must be strings, found {show(key)}: put it in quotes"))
        elif problem := _problem_of(key):
            flaws.append(Flaw(path, key_line, f"a key {problem}"))
        elif key in children:
            flaws.append(Flaw((*path, key), key_line, f"duplicate key, given already on line {children[key].line}"))
        else:
            children[key] = node.under(key_line)
    value = {key: node.value for key, node in children.items() if node.value is not None}
    return _bounded(Node(value, line, children, _count([node for _, _, node in pairs]), length))


def check_depth(path: Path, line: int) -> None:
    if len(path) > MAX_DEPTH:
        raise Unreadable(Flaw(path[:8], line, f"nested deeper than {MAX_DEPTH} levels"))


def tree_of(value: object, path: Path = ()) -> tuple[Node, tuple[Flaw, ...]]:
    """The tree of plain Python values such as json.loads gives; what cannot stand in JSON is a flaw."""
    flaws: list[Flaw] = []
    try:
        node = _from_object(value, path, flaws)
        length = len(json.dumps(node.value, ensure_ascii=False).encode())
    except Unreadable as unreadable:
        return Node(None, 0, _NO_CHILDREN, 1), (*flaws, unreadable.flaw)
    if length > MAX_LENGTH:
        flaws.append(oversize(path, 0, length))
    return node, tuple(flaws)


def oversize(path: Path, line: int, length: int) -> Flaw:
    return Flaw(path, line, f"a document must be at most {MAX_LENGTH} bytes, found {length}")


def _from_object(value: object, path: Path, flaws: list[Flaw]) -> Node:
    check_depth(path, 0)
    if isinstance(value, Mapping):
        return mapping(
            [(key, 0, _from_object(item, (*path, str(key)), flaws)) for key, item in value.items()], 0, path, flaws
        )
    if isinstance(value, list | tuple):
        return sequence([_from_object(item, (*path, place), flaws) for place, item in enumerate(value)], 0)
    if value is None or isinstance(value, str | bool | int | float):
        return scalar(value, 0, path, flaws)
    flaws.append(Flaw(path, 0, f"must be a JSON value, found {type(value).__name__}"))
    return Node(None, 0, _NO_CHILDREN, 1)


def _problem_of(value: object) -> str:
    if isinstance(value, str):
        found = _UNUSABLE.search(value)
        return f"must not contain U+{ord(found[0]):04X}" if found else ""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return "must be a number of at most 64 bits"
    return ""


def _count(nodes: Sequence[Node]) -> int:
    return 1 + sum(node.count for node in nodes)


def _bounded(node: Node) -> Node:
    if node.count > MAX_VALUES:
        raise Unreadable(Flaw((), node.line, f"a document must hold at most {MAX_VALUES} values, aliases expanded"))
    return node
