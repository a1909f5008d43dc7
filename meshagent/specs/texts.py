"""From text to Nodes: every document of a YAML stream, a JSON value, or several of them one after the other.

YAML's scalars are read by the rules of YAML 1.2's core schema, which are JSON's: `on`, `no` and 2020-01-01 are strings. Both readers
walk with a bounded depth and count what aliases expand to, so that no text takes more than its share of memory or stack.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from meshagent.specs.tree import MAX_VALUES, Flaw, Node, Path, Unreadable, check_depth, mapping, scalar, sequence, show

MAX_TEXT = 16 << 20
"""Bytes in one text of many documents."""

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml ten times slower, and the same
_MAX_DIGITS = 4000  # int() refuses more


@dataclass(frozen=True)
class Text:
    """The documents that could be read, each with what is wrong in it; and what is wrong with the text as a whole."""

    documents: tuple[tuple[Node, tuple[Flaw, ...]], ...] = ()
    flaws: tuple[Flaw, ...] = ()


def read(text: str) -> Text:
    """A list at the top is as many documents; empty documents are none."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_TEXT:
        return Text(flaws=(Flaw((), 1, f"a file must be at most {MAX_TEXT} bytes, found {len(text)}: split it"),))
    if found := re.search("[\x00\ud800-\udfff]", text):
        line = text.count("\n", 0, found.start()) + 1
        return Text(flaws=(Flaw((), line, f"must be text, found U+{ord(found[0]):04X}"),))
    if text.lstrip()[:1] not in ("{", "["):
        return _collect(_yaml_documents, text)
    as_json = _collect(_json_documents, text)
    if not as_json.flaws:
        return as_json
    # JSON with comments, single quotes or trailing commas is YAML in its flow style.
    as_yaml = _collect(_yaml_documents, text)
    return as_json if as_yaml.flaws else as_yaml


def _collect(reader: Callable[[str, list[Flaw]], Iterator[Node]], text: str) -> Text:
    documents: list[tuple[Node, tuple[Flaw, ...]]] = []
    flaws: list[Flaw] = []
    try:
        for root in reader(text, flaws):
            if isinstance(root.value, list):
                for place, item in root.children.items():
                    own = [replace(flaw, path=flaw.path[1:]) for flaw in flaws if flaw.path[:1] == (place,)]
                    documents.append((item, tuple(own)))
            elif root.value is not None or flaws:
                documents.append((root, tuple(flaws)))
            flaws.clear()
    except Unreadable as unreadable:
        flaws.append(unreadable.flaw)
    return Text(tuple(documents), tuple(flaws))


# --- JSON -----------------------------------------------------------------------------------------------------------------

_SPACE = re.compile(r"[ \t\r\n]*")


def _json_documents(text: str, flaws: list[Flaw]) -> Iterator[Node]:
    breaks = [found.start() for found in re.finditer("\n", text)]
    decoder = json.JSONDecoder(parse_int=_whole, parse_constant=_no_constant)

    def line_at(offset: int) -> int:
        return bisect_right(breaks, offset - 1) + 1

    def refuse(offset: int, expected: str) -> Unreadable:
        found = show(text[offset]) if offset < len(text) else "the end of the text"
        return Unreadable(
            Flaw((), line_at(min(offset, len(text) - 1)), f"not JSON: expected {expected}, found {found}")
        )

    def skip(offset: int) -> int:
        found = _SPACE.match(text, offset)
        return found.end() if found else offset

    def literal(offset: int) -> tuple[Any, int]:
        try:
            return decoder.raw_decode(text, offset)
        except json.JSONDecodeError as error:
            message = "a value" if error.msg == "Expecting value" else ""
            if message:
                raise refuse(error.pos, message) from error
            raise Unreadable(Flaw((), line_at(error.pos), f"not JSON: {error.msg}")) from error
        except ValueError as error:
            raise Unreadable(Flaw((), line_at(offset), f"not JSON: {error}")) from error

    def value(offset: int, path: Path) -> tuple[Node, int]:
        start, line = offset, line_at(offset)
        check_depth(path, line)
        opening = text[offset : offset + 1]
        if opening not in ("{", "["):
            plain, end = literal(offset)
            return scalar(plain, line, path, flaws, end - start), end
        closing = "}" if opening == "{" else "]"
        pairs: list[tuple[object, int, Node]] = []
        items: list[Node] = []
        offset = skip(offset + 1)
        if text[offset : offset + 1] != closing:
            while True:
                if opening == "{":
                    if text[offset : offset + 1] != '"':
                        raise refuse(offset, "a key in double quotes")
                    key_line = line_at(offset)
                    key, offset = literal(offset)
                    offset = skip(offset)
                    if text[offset : offset + 1] != ":":
                        raise refuse(offset, '":"')
                    node, offset = value(skip(offset + 1), (*path, key))
                    pairs.append((key, key_line, node))
                else:
                    node, offset = value(offset, (*path, len(items)))
                    items.append(node)
                offset = skip(offset)
                if text[offset : offset + 1] == closing:
                    break
                if text[offset : offset + 1] != ",":
                    raise refuse(offset, f'"," or "{closing}"')
                offset = skip(offset + 1)
        offset += 1
        if opening == "{":
            return mapping(pairs, line, path, flaws, offset - start), offset
        return sequence(items, line, offset - start), offset

    offset = skip(0)
    while offset < len(text):
        node, offset = value(offset, ())
        yield node
        offset = skip(offset)


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number of thousands of digits")
    return int(digits)


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not a JSON value")


# --- YAML -----------------------------------------------------------------------------------------------------------------

_CORE: tuple[tuple[str, re.Pattern[str], Callable[[str], Any]], ...] = (
    ("null", re.compile(r"~|null|Null|NULL|"), lambda text: None),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    ("int", re.compile(r"[-+]?[0-9]+"), _whole),
    ("int", re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    ("int", re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    # Not YAML's words alone: what other languages write for them must not pass as a name.
    ("float", re.compile(r"[-+]?(\.(inf|Inf|INF)|Infinity)|\.(nan|NaN|NAN)|NaN"), lambda text: float("nan")),
)
_TAG = "tag:yaml.org,2002:"
_MERGE = object()  # the key "<<": the fields of another mapping, unless given here


def _yaml_documents(text: str, flaws: list[Flaw]) -> Iterator[Node]:
    try:
        parser = _PARSER(text)
    except (yaml.YAMLError, UnicodeError) as error:
        raise _not_yaml(error) from error
    try:
        while not isinstance(event := _next(parser), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                begin = event.start_mark
                node = _Document(parser, flaws).value(_next(parser), ())
                end = _next(parser).start_mark
                yield replace(node, length=end.index - begin.index if begin and end else 0)
    finally:
        parser.dispose()


def _next(parser: Any) -> Any:
    try:
        return parser.get_event()
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        raise _not_yaml(error) from error


def _not_yaml(error: Exception) -> Unreadable:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    words = [word for word in (getattr(error, "context", None), getattr(error, "problem", None)) if word]
    message = ", ".join(words) or str(error).partition("\n")[0]
    return Unreadable(Flaw((), mark.line + 1 if mark else 1, f"not YAML: {message}"))


class _Document:
    """One document's events as Nodes; its anchors live as long as it."""

    def __init__(self, parser: Any, flaws: list[Flaw]) -> None:
        self.parser, self.flaws = parser, flaws
        self.anchors: dict[str, Node | None] = {}  # None: begun, and not yet ended
        self.seen = 0

    def value(self, event: Any, path: Path) -> Node:
        line = event.start_mark.line + 1
        check_depth(path, line)
        self.seen += 1
        if self.seen > MAX_VALUES:
            raise Unreadable(Flaw((), line, f"a document must hold at most {MAX_VALUES} values"))
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(anchor)
            if known is None:
                reason = "stands for what it is in" if anchor in self.anchors else "has no anchor before it"
                raise Unreadable(Flaw(path, line, f"the alias *{anchor} {reason}"))
            return known.under(line)
        if anchor is not None:
            self.anchors[anchor] = None
        node = self._anchored(event, path, line)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def _anchored(self, event: Any, path: Path, line: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return scalar(self._resolved(event, path, line), line, path, self.flaws)
        kind = "seq" if isinstance(event, yaml.SequenceStartEvent) else "map"
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            self.flaws.append(Flaw(path, line, f"the tag {show(event.tag)} is not understood here: leave it out"))
        if kind == "seq":
            items: list[Node] = []
            while not isinstance(following := _next(self.parser), yaml.SequenceEndEvent):
                items.append(self.value(following, (*path, len(items))))
            return sequence(items, line)
        return self._mapping(path, line)

    def _mapping(self, path: Path, line: int) -> Node:
        pairs: list[tuple[object, int, Node]] = []
        merged: list[Node] = []
        while not isinstance(event := _next(self.parser), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                key: object = _MERGE
            else:
                key = self.value(event, path).value
            part = key if isinstance(key, str) else "<<" if key is _MERGE else show(key)
            node = self.value(_next(self.parser), (*path, part))
            if key is _MERGE:
                merged.extend(node.children.values() if isinstance(node.value, list) else [node])
            else:
                pairs.append((key, key_line, node))
        given = {key for key, _, _ in pairs if isinstance(key, str)}
        for source in merged:
            if not isinstance(source.value, dict):
                self.flaws.append(Flaw(path, source.line, f'"<<" must name an object, found {show(source.value)}'))
                continue
            for name, node in source.children.items():
                if name not in given:
                    given.add(str(name))
                    pairs.append((name, node.line, node))
        return mapping(pairs, line, path, self.flaws)

    def _resolved(self, event: Any, path: Path, line: int) -> object:
        """The value of a scalar: its tag's where it has one, a string where it is quoted, else what the core schema makes of it."""
        text: str = event.value
        tag = event.tag
        if tag in ("!", f"{_TAG}str") or (tag is None and not event.implicit[0]):
            return text
        wanted = tag.removeprefix(_TAG) if tag else ""
        for kind, pattern, convert in _CORE:
            if wanted in ("", kind) and pattern.fullmatch(text):
                try:
                    return convert(text)
                except ValueError as error:
                    self.flaws.append(Flaw(path, line, f"must be a number of at most 64 bits: {error}"))
                    return None
        if tag:
            self.flaws.append(Flaw(path, line, f"the tag {show(tag)} does not go with {show(text)}"))
        return text
