"""Reading documents from files, directories and standard input, for every command that takes PATHs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from meshagent.errors import MeshagentError
from meshagent.specs.documents import Loaded, SpecError, merge, parse_text
from meshagent.specs.texts import MAX_TEXT

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


class PathError(MeshagentError):
    """A path names nothing that documents can be read from."""


def load_paths(paths: Iterable[str]) -> Loaded:
    """All documents of all files; of a directory those below it whose names end like SUFFIXES, in the order of their names; `-` is
    standard input. What is wrong inside a file is in the answer; PathError is for a path that is not there or cannot be read."""
    return merge([_load(name) for path in paths for name in _files(path)])


def _files(path: str) -> Iterator[str]:
    if path != STDIN and Path(path).is_dir():
        found = [file for file in sorted(Path(path).rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not found:
            raise PathError(f"{path}: no file here ends in {', '.join(SUFFIXES)}")
        yield from map(str, found)
    else:
        yield path


def _load(name: str) -> Loaded:
    filename = "<stdin>" if name == STDIN else name
    try:
        # One byte more than may be there tells that there is too much, without reading all of it.
        if name == STDIN:
            content = sys.stdin.buffer.read(MAX_TEXT + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise PathError(f"{name}: {error.strerror}") from error
    if len(content) > MAX_TEXT:
        return _refused(filename, 1, f"a file must be at most {MAX_TEXT} bytes: split it")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _refused(filename, line, f"must be UTF-8 text, found the byte 0x{content[error.start]:02x}")
    return parse_text(text, filename)


def _refused(filename: str, line: int, message: str) -> Loaded:
    return Loaded(errors=(SpecError(filename, line, "", "", message),))
