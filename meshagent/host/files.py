"""The one way in which files are written: whole or not at all, and on the disk before anybody is told.

A temporary file in the same directory, fsync, rename, fsync of the directory. Whatever goes wrong in between (disk full, read-only,
killed) leaves the old file as it was; a temporary file that a kill left behind is never read and is swept at the next write of that name.
Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from meshagent.errors import MeshagentError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
# Entered by who knows a name in it, listed by nobody: for what several users have their own places in.
PASSABLE_DIRECTORY = 0o711
# Of what another user's program is to read and to watch, without a say in what stands there.
READABLE_FILE = 0o644
READABLE_DIRECTORY = 0o755


class FileError(MeshagentError):
    """A file or directory that could not be written or read. What was there before is there still."""

    def __init__(self, act: str, path: Path, error: OSError) -> None:
        super().__init__(f"cannot {act} {path}: {error.strerror or error}")
        self.errno = error.errno


def write_durably(path: Path, content: bytes | str, mode: int = PRIVATE_FILE, owner: int | None = None) -> None:
    """Replaces `path` by `content`; when this returns, a power cut can no longer take it back. `owner`: another user's id, for root.

    One writer per path at a time: the temporary name is fixed, so that nothing is left lying about after a kill."""

    def dressed(descriptor: int) -> None:
        os.fchmod(descriptor, mode)  # the process's umask has no say
        if owner is not None:
            os.fchown(descriptor, owner, -1)

    _write(path, content, dressed)


def replace_durably(path: Path, content: bytes, mode: int) -> None:
    """As `write_durably`, for a file that is somebody else's too: mode, owner and extended attributes (a security label, say) stay as they
    are. `mode` is for a file that is not there yet."""

    def alike(descriptor: int) -> None:
        try:
            before = path.stat()
        except FileNotFoundError:
            os.fchmod(descriptor, mode)
            return
        os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        with contextlib.suppress(OSError):  # a file system without them
            for name in os.listxattr(path):
                os.setxattr(descriptor, name, os.getxattr(path, name))

    _write(path, content, alike)


def _write(path: Path, content: bytes | str, dress: Callable[[int], None]) -> None:
    """`dress` gives the temporary file's descriptor its mode, and whatever else the file is to have."""
    body = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            dress(descriptor)
            view = memoryview(body)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise FileError("write", path, error) from error


def point_symlink(link: Path, target: str) -> None:
    """Makes `link` a symlink to `target` by renaming over what is there: a reader sees the old target or the new, never neither."""
    temporary = link.with_name(f".{link.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(target)
        temporary.rename(link)
        sync_directory(link.parent)
    except OSError as error:
        raise FileError("point the link", link, error) from error


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY, owner: int | None = None) -> Path:
    """The directory, made with its parents if it is not there, with exactly this mode, and this owner if one is given."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
        if owner is not None and path.stat().st_uid != owner:
            os.chown(path, owner, -1)
        sync_directory(path.parent)
    except OSError as error:
        raise FileError("make the directory", path, error) from error
    return path


def give(path: Path, owner: int, mode: int | None = None) -> None:
    """Makes the files of a tree another user's, links as such, and its directories ours, of this mode if one is given: what we write there
    by name, nobody has put something else in the place of. What is right already is left alone."""
    try:
        _give(path, owner, mode)
    except OSError as error:
        raise FileError("change the owner of", path, error) from error


def _give(path: Path, owner: int, mode: int | None) -> None:
    """What `path` is in is ours: it stays what it is."""
    status = path.lstat()
    directory = stat.S_ISDIR(status.st_mode)
    if directory and mode is not None and stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)  # first: its files' owner is to find them at every moment
    wanted = os.geteuid() if directory else owner
    if status.st_uid != wanted:
        os.chown(path, wanted, -1, follow_symlinks=False)
    if directory:
        for each in path.iterdir():
            _give(each, owner, mode)


def is_ours(path: Path) -> bool:
    """Whether a file that is there is this process's user's, so that nobody else has changed it."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError as error:
        raise FileError("look at", path, error) from error


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_if_there(path: Path) -> bytes | None:
    """The file's content; None when there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError("read", path, error) from error


def set_aside(path: Path) -> Path:
    """Renames a file that cannot be used to NAME.bad, so that it is neither read again nor lost to whoever wants to know why."""
    aside = path.with_name(f"{path.name}.bad")
    try:
        path.rename(aside)
        sync_directory(path.parent)
    except OSError as error:
        raise FileError("set aside", path, error) from error
    return aside


def remove(path: Path) -> None:
    """Removes a file. Gone already is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError("remove", path, error) from error


def remove_tree(path: Path) -> None:
    """Removes a directory with all that is in it. Gone already is fine."""
    try:
        shutil.rmtree(path)
        sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError("remove", path, error) from error
