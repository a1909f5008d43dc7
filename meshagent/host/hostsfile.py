"""The marked block of /etc/hosts: the names of virtual services, at the addresses that stand for them on this host.

What is outside the block is kept byte for byte, and without the block the file is what it was before it. Texts are pure; `put` and
`take_away` replace the file whole, durably, with the owner and mode that it had. Knows nothing of placements.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshagent.errors import MeshagentError
from meshagent.host.files import FileError, read_if_there, replace_durably, sync_directory

HOSTS_FILE = Path("/etc/hosts")
_MOUNTS = Path("/proc/self/mountinfo")
# How the file ended before the block is told by the block's first line, so that its removal restores just that.
_BEGIN = b"# BEGIN meshagent: virtual services; written by the agent, and gone when it is uninstalled"
_BEGIN_CONTINUED = _BEGIN + b" (the line above had no end)"
_BEGIN_ALONE = _BEGIN + b" (there was no file)"
_END = b"# END meshagent"
_MARKED = re.compile(
    rb"^(?P<begin># BEGIN meshagent[^\n]*)\n(?P<inside>(?:(?!# END meshagent|# BEGIN meshagent)[^\n]*\n)*)"
    rb"# END meshagent[^\n]*(?:\n|\Z)",
    re.MULTILINE,
)
_NAME = re.compile(r"[^\s#]+")
_NEW_FILE_MODE = 0o644


class HostsFileError(MeshagentError):
    """The file cannot be changed as it is; it is as it was."""


@dataclass(frozen=True)
class Taken:
    """A name that another line of the file gives already: resolvers take the first line that has it."""

    name: str
    line: int
    address: str


def with_block(content: bytes | None, entries: Mapping[str, str]) -> bytes:
    """The file's content with the block of these names and addresses at its end, in place of any that is there. `content` None: there is
    no file. HostsFileError when half a block is in it."""
    rest = without_block(content) if content is not None else None
    if rest is None:
        begin, joint = _BEGIN_ALONE, b""
    elif not rest or rest.endswith(b"\n"):
        begin, joint = _BEGIN, b""
    else:
        begin, joint = _BEGIN_CONTINUED, b"\n"
    lines = b"".join(f"{address}\t{name}\n".encode() for name, address in sorted(entries.items()))
    return (rest or b"") + joint + begin + b"\n" + lines + _END + b"\n"


def without_block(content: bytes) -> bytes | None:
    """What the file was before the block; None when there was none. Without a block it is `content`."""
    rest, at, alone = b"", 0, False
    for match in _MARKED.finditer(content):
        rest += content[at : match.start()]
        at = match.end()
        alone = alone or match["begin"] == _BEGIN_ALONE
        if match["begin"] == _BEGIN_CONTINUED and at == len(content):
            rest = rest.removesuffix(b"\n")
    rest += content[at:]
    for number, line in enumerate(rest.split(b"\n"), 1):
        if line.startswith((b"# BEGIN meshagent", _END)):
            words = line.decode(errors="replace")[:60]
            raise HostsFileError(
                f"line {number} ({words!r}) is half of a marked block: remove it, and what belonged to it, by hand"
            )
    return None if alone and not rest else rest


def entries_of(content: bytes) -> dict[str, str] | None:
    """The names and addresses in the block; None when there is no block."""
    found = _MARKED.search(content)
    if found is None:
        return None
    pairs = (line.split() for line in found["inside"].decode(errors="replace").splitlines())
    return {name: address for address, name in (pair for pair in pairs if len(pair) == 2)}


def taken(content: bytes, names: Iterable[str]) -> tuple[Taken, ...]:
    """Which of the names other lines give, in the order of the lines. Names are compared as resolvers do: case does not count."""
    wanted = {name.lower(): name for name in names}
    found: list[Taken] = []
    inside = False
    for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
        if line.startswith("# BEGIN meshagent"):
            inside = True
        elif line.startswith(_END.decode()):
            inside = False
        if inside:
            continue
        address, *given = line.partition("#")[0].split() or [""]
        found += [Taken(wanted.pop(name.lower()), number, address) for name in given if name.lower() in wanted]
    return tuple(found)


def resolvable(name: str) -> bool:
    """Whether a line of the file can give the name: a virtual service's may be any text."""
    return bool(_NAME.fullmatch(name))


def put(path: Path, entries: Mapping[str, str]) -> tuple[Taken, ...]:
    """Makes the block be there with these names, and returns those that were left out because another line has them. Writes only when
    something changes. No names: no block. HostsFileError or FileError when it cannot be; the file is as it was then."""
    content = read_if_there(path)
    others = taken(content, entries) if content else ()
    left_out = {each.name for each in others}
    wanted = {name: address for name, address in entries.items() if name not in left_out}
    try:
        after = with_block(content, wanted) if wanted else without_block(content) if content is not None else None
    except HostsFileError as error:
        raise HostsFileError(f"{path}: {error}") from None
    if after != content:
        _replace(path, after)
    return others


def take_away(path: Path) -> bool:
    """The block goes, and the file is what it was before it. False when there was none."""
    before = read_if_there(path)
    put(path, {})
    return before != read_if_there(path)


def _replace(path: Path, content: bytes | None) -> None:
    _check(path)
    if content is not None:
        replace_durably(path, content, _NEW_FILE_MODE)
        return
    try:
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise FileError("remove", path, error) from error


def _check(path: Path) -> None:
    """A file that is replaced by rename must be one in its directory, not a way to one that lies elsewhere."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError("look at", path, error) from error
    remedy = "write the names there by hand or by what owns it, and set `hosts_file: none` in the agent's configuration"
    if stat.S_ISLNK(mode):
        raise HostsFileError(f"{path} is a symlink to {path.readlink()}, which somebody else writes: {remedy}")
    if not stat.S_ISREG(mode):
        raise HostsFileError(f"{path} is no file: {remedy}")
    if str(path.resolve()) in _mount_points():
        raise HostsFileError(f"{path} is mounted by itself, as in a container, and cannot be replaced: {remedy}")


def _mount_points() -> set[str]:
    try:
        rows = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), row.split(" ")[4]) for row in rows if row}
