"""Files are whole or as they were, whatever happens in between."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from meshagent.host import files
from meshagent.host.files import FileError


def test_a_written_file_has_its_content_and_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_durably(tmp_path / "hosts", "one\n", 0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "hosts").read_text() == "one\n"
    assert stat.S_IMODE((tmp_path / "hosts").stat().st_mode) == 0o644
    files.write_durably(tmp_path / "hosts", b"two\n")
    assert (tmp_path / "hosts").read_bytes() == b"two\n"
    assert stat.S_IMODE((tmp_path / "hosts").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts"]


def test_everything_is_synced_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        acts.append("fsync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        acts.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    files.write_durably(tmp_path / "key.pem", b"key")
    assert acts == ["fsync file", "rename", "fsync directory"]


@pytest.mark.parametrize("step", ["write", "fsync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_k5_a_full_or_read_only_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "chain.pem"
    files.write_durably(path, b"old")

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(FileError, match=f"chain.pem: {os.strerror(number)}"):
            files.write_durably(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["chain.pem"]


def test_k5_a_write_that_stops_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    """A real limit on the size of files, as a full disk would: the first part is written, then no more."""
    path = tmp_path / "snapshot.bin"
    files.write_durably(path, b"old")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from meshagent.host.files import FileError, write_durably\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        f"    write_durably(Path({str(path)!r}), b'x' * 10000)\n"
        "except FileError as error:\n"
        "    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 7
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["snapshot.bin"]


def test_a_writer_killed_before_its_rename_leaves_the_old_file_and_the_next_write_works(tmp_path: Path) -> None:
    path = tmp_path / "desired.bin"
    files.write_durably(path, b"old")
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from meshagent.host.files import write_durably\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_durably(Path({str(path)!r}), b'half')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    files.write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["desired.bin"]


def test_a_symlink_points_to_the_old_or_the_new_and_never_to_nothing(tmp_path: Path) -> None:
    for name in ("g-1", "g-2"):
        (tmp_path / name).mkdir()
    files.point_symlink(tmp_path / "current", "g-1")
    files.point_symlink(tmp_path / "current", "g-2")
    assert (tmp_path / "current").readlink() == Path("g-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "g-1", "g-2"]


def test_a_missing_file_is_none_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert files.read_if_there(tmp_path / "nothing") is None
    with pytest.raises(FileError, match="cannot read"):
        files.read_if_there(tmp_path)


def test_directories_are_private_and_are_made_so_when_they_are_not(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    assert stat.S_IMODE(files.make_directory(tmp_path / "state").stat().st_mode) == 0o700
    files.make_directory(tmp_path / "a" / "b")
    files.remove_tree(tmp_path / "a")
    files.remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_removed_is_named_and_what_is_gone_is_gone(tmp_path: Path) -> None:
    files.remove(tmp_path / "never-there")
    (tmp_path / "file").touch()
    files.remove(tmp_path / "file")
    assert not (tmp_path / "file").exists()
    with pytest.raises(FileError, match=f"cannot remove {tmp_path}: "):
        files.remove(tmp_path)
