"""The marked block: other lines stay byte for byte, and the file without the block is the file before it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.host import hostsfile
from meshagent.host.files import FileError
from meshagent.host.hostsfile import HostsFileError, Taken, entries_of, put, take_away, taken, with_block, without_block

DEBIAN = b"127.0.0.1\tlocalhost\n127.0.1.1\tweb-1\n\n# IPv6\n::1 localhost ip6-localhost\n"
SHOP = {"catalog.shop.local": "127.64.0.7", "orders.shop.local": "127.64.1.2"}
LINES = st.lists(
    st.binary(max_size=20).filter(lambda line: b"\n" not in line and not line.startswith((b"# BEGIN", b"# END"))),
    max_size=6,
).map(b"\n".join)


def test_the_block_stands_at_the_end_in_the_order_of_names() -> None:
    assert with_block(DEBIAN, SHOP) == DEBIAN + (
        b"# BEGIN meshagent: virtual services; written by the agent, and gone when it is uninstalled\n"
        b"127.64.0.7\tcatalog.shop.local\n127.64.1.2\torders.shop.local\n# END meshagent\n"
    )


@given(LINES, st.booleans())
def test_h7_without_the_block_the_file_is_what_it_was(content: bytes, ends: bool) -> None:
    content += b"\n" if ends and content else b""
    marked = with_block(content, SHOP)
    assert entries_of(marked) == SHOP
    assert without_block(marked) == content
    assert with_block(marked, SHOP) == marked
    assert without_block(with_block(marked, {"a": "127.64.0.1"})) == content


def test_what_is_written_behind_the_block_stays_a_line_of_its_own() -> None:
    marked = with_block(b"10.0.0.1 one", SHOP)
    assert without_block(marked + b"10.0.0.2 two\n") == b"10.0.0.1 one\n10.0.0.2 two\n"


def test_a_block_that_was_copied_goes_too() -> None:
    marked = with_block(DEBIAN, SHOP)
    assert without_block(marked + marked) == DEBIAN + DEBIAN


def test_half_a_block_is_an_error_that_names_its_line() -> None:
    marked = with_block(b"127.0.0.1 localhost\n", SHOP)
    with pytest.raises(HostsFileError, match=r"line 2 .*BEGIN.* half of a marked block"):
        without_block(marked.replace(b"# END meshagent\n", b""))
    with pytest.raises(HostsFileError, match="END"):
        with_block(b"# END meshagent\n", SHOP)


def test_a_name_that_another_line_gives_is_left_to_that_line(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DEBIAN + b"10.10.10.10 Catalog.shop.local # for App Mesh\n")
    assert put(path, SHOP) == (Taken("catalog.shop.local", 6, "10.10.10.10"),)
    assert entries_of(path.read_bytes()) == {"orders.shop.local": "127.64.1.2"}
    assert taken(path.read_bytes(), ["orders.shop.local", "localhost"]) == (Taken("localhost", 1, "127.0.0.1"),)


def test_no_name_but_those_that_a_line_can_hold() -> None:
    assert hostsfile.resolvable("catalog.shop.local")
    assert not any(map(hostsfile.resolvable, ("two words", "a#b", "", "a\nb")))


def test_owner_mode_and_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DEBIAN)
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    before = path.stat()
    put(path, SHOP)
    assert take_away(path)
    after = path.stat()
    assert path.read_bytes() == DEBIAN
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    assert not take_away(path)


def test_nothing_is_written_when_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DEBIAN)
    put(path, SHOP)
    before = path.stat()
    put(path, SHOP)
    assert path.stat().st_ino == before.st_ino


def test_a_file_that_was_not_there_is_not_there_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    put(path, {})
    assert not path.exists()
    put(path, SHOP)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    take_away(path)
    assert not path.exists()


def test_a_symlink_is_named_and_left_alone(tmp_path: Path) -> None:
    real, path = tmp_path / "real", tmp_path / "hosts"
    real.write_bytes(DEBIAN)
    path.symlink_to(real)
    with pytest.raises(HostsFileError, match=r"symlink to .*real.*hosts_file: none"):
        put(path, SHOP)
    assert real.read_bytes() == DEBIAN


def test_a_file_that_is_mounted_is_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a b" / "hosts"
    path.parent.mkdir()
    path.write_bytes(DEBIAN)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {str(path).replace(' ', chr(92) + '040')} rw,noatime - ext4 /dev/sda rw\n")
    monkeypatch.setattr(hostsfile, "_MOUNTS", mounts)
    with pytest.raises(HostsFileError, match="mounted by itself"):
        put(path, SHOP)
    assert path.read_bytes() == DEBIAN


def test_a_directory_that_cannot_be_written_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DEBIAN)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileError, match="Read-only file system"):
        put(path, SHOP)
    monkeypatch.undo()
    assert path.read_bytes() == DEBIAN
