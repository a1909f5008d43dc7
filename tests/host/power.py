"""Power cuts: what a series of file operations may leave on a disk when it ends anywhere.

`recorded` notes what is done below a directory; `cuts` plays back every beginning of that, with what was not synced by then kept, dropped
as a whole, dropped one operation at a time, or with its names kept and its contents gone, which is how a journaling file system may come
back. Content is on the disk from its file's fsync on, a name from its directory's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Op:
    """`kind`: create, write, sync (a file); rename, unlink, symlink, mkdir, rmdir, sync directory. `file` counts files as they are made."""

    kind: str
    path: str
    to: str = ""
    file: int = 0
    content: bytes = b""


class Recorder:
    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.ops: list[Op] = []
        self._files: dict[int, int] = {}  # our number of the file that a descriptor is open for
        self._made = 0
        for name in ("open", "write", "fsync", "close", "rename", "unlink", "symlink", "mkdir", "rmdir"):
            patch.setattr(os, name, self._wrapped(getattr(os, name), getattr(self, f"_{name}")))

    def _wrapped(self, real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            note(result, *arguments, **named)
            return result

        return act

    def _name(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Relative to the root; None for what is elsewhere."""
        full = (_path_of(dir_fd) if dir_fd is not None else Path.cwd()) / path
        return str(full.relative_to(self.root)) if full.is_relative_to(self.root) else None

    def _note(self, op: Op) -> None:
        self.ops.append(op)

    def _open(self, fd: int, path: Any, flags: int, *_: Any, dir_fd: int | None = None, **__: Any) -> None:
        name = self._name(path, dir_fd)
        if name is not None and flags & os.O_CREAT:
            assert flags & os.O_EXCL, f"{name} is written over in place"
            self._made += 1
            self._files[fd] = self._made
            self._note(Op("create", name, file=self._made))

    def _write(self, written: int, fd: int, content: Any) -> None:
        if fd in self._files:
            self._note(Op("write", "", file=self._files[fd], content=bytes(content)[:written]))

    def _fsync(self, _: None, fd: int) -> None:
        if fd in self._files:
            self._note(Op("sync", "", file=self._files[fd]))
        elif (name := self._name(_path_of(fd))) is not None:
            self._note(Op("sync directory", name))

    def _close(self, _: None, fd: int) -> None:
        self._files.pop(fd, None)

    def _rename(self, _: None, source: Any, target: Any, **__: Any) -> None:
        before, after = self._name(source), self._name(target)
        if before is not None and after is not None:
            self._note(Op("rename", before, after))

    def _symlink(self, _: None, target: Any, path: Any, *__: Any, **___: Any) -> None:
        self._entry("symlink", path, None, os.fspath(target))

    def _unlink(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        self._entry("unlink", path, dir_fd)

    def _mkdir(self, _: None, path: Any, *__: Any, dir_fd: int | None = None, **___: Any) -> None:
        self._entry("mkdir", path, dir_fd)

    def _rmdir(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        self._entry("rmdir", path, dir_fd)

    def _entry(self, kind: str, path: Any, dir_fd: int | None, to: str = "") -> None:
        name = self._name(path, dir_fd)
        if name is not None:
            self._note(Op(kind, name, to))


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@contextmanager
def recorded(root: Path) -> Iterator[list[Op]]:
    with pytest.MonkeyPatch.context() as patch:
        yield Recorder(root, patch).ops


def cuts(before: Path, ops: list[Op], scratch: Path) -> Iterator[tuple[str, Path]]:
    """Every disk that a power cut may leave, in words and as a directory that is there until the next one is asked for."""
    seen: set[tuple[int, frozenset[int]]] = set()
    for done in range(len(ops) + 1):
        loose = _unsynced(ops[:done])
        contents = frozenset(at for at in loose if ops[at].kind == "write")
        for lost in [frozenset[int](), loose, contents, *(frozenset({at}) for at in loose)]:
            if (done, lost) in seen:
                continue
            seen.add((done, lost))
            disk = scratch / "disk"
            shutil.rmtree(disk, ignore_errors=True)
            shutil.copytree(before, disk, symlinks=True)
            _play(disk, ops[:done], lost)
            yield f"after {done} of {len(ops)} operations, without {sorted(lost)}", disk


def _unsynced(ops: list[Op]) -> frozenset[int]:
    loose: set[int] = set()
    for at, op in enumerate(ops):
        if op.kind == "sync":
            loose -= {each for each in loose if ops[each].kind == "write" and ops[each].file == op.file}
        elif op.kind == "sync directory":
            loose -= {each for each in loose if ops[each].path and str(Path(ops[each].path).parent) == op.path}
        else:
            loose.add(at)
    return frozenset(loose)


def _play(disk: Path, ops: list[Op], lost: Set[int]) -> None:
    """What hangs on a lost operation is lost with it. A file's content is one thing, its name another."""
    contents: dict[int, bytes] = {}
    for at, op in enumerate(ops):
        if op.kind == "write" and at not in lost:
            contents[op.file] = contents.get(op.file, b"") + op.content
    for at, op in enumerate(ops):
        path = disk / op.path
        if at in lost or op.kind in ("write", "sync", "sync directory") or not path.parent.is_dir():
            continue
        there = path.is_symlink() or path.exists()
        if op.kind == "create":
            path.write_bytes(contents.get(op.file, b""))
        elif op.kind == "rename" and there:
            path.rename(disk / op.to)
        elif op.kind == "unlink" and there:
            path.unlink()
        elif op.kind == "symlink" and not there:
            path.symlink_to(op.to)
        elif op.kind == "mkdir" and not there:
            path.mkdir()
        elif op.kind == "rmdir" and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
