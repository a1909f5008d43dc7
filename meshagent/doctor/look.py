"""What is seen of this machine: files, processes, disks, Envoys. Reads only; what cannot be read is said, never raised."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import pwd
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from meshagent.agent.configuration import load
from meshagent.agent.settings import Settings, SettingsError
from meshagent.doctor.agent import AgentSeen
from meshagent.doctor.host import DiskSeen, FilesSeen, WatchesSeen
from meshagent.doctor.identity import IdentitySeen
from meshagent.doctor.proxies import BinarySeen
from meshagent.errors import MeshagentError
from meshagent.host import envoys, listening, processes, users
from meshagent.host.listening import Listener, Owner
from meshagent.identity import x509
from meshagent.protocol import host_pb2

_VERSION_SECONDS = 20.0
_CREDENTIALS = struct.calcsize("3i")
_INOTIFY = "anon_inode:inotify"
_AGENT_MODULE = "meshagent.agent"


def desired(state_directory: Path) -> host_pb2.Desired:
    """The desired state on the disk; an empty one where there is none, or none that can be read."""
    found = host_pb2.Desired()
    with contextlib.suppress(OSError, DecodeError):
        found.ParseFromString((state_directory / "desired.bin").read_bytes())
    return found


def heard(state_directory: Path) -> float | None:
    try:
        return (state_directory / "contact").stat().st_mtime
    except OSError:
        return None


def agents() -> Iterator[AgentSeen]:
    """The agents that run as this user, by their command lines."""
    for process in processes.own_processes():
        if _AGENT_MODULE not in process.arguments[1:-1]:
            continue
        config = process.arguments[-1]
        try:
            settings = load(Path(config))
        except SettingsError:
            yield AgentSeen(process.pid, config)
            continue
        yield AgentSeen(process.pid, config, str(settings.state_directory), settings.host.first_slot)


def lock_holder(state_directory: Path, seen: Iterable[AgentSeen]) -> int | None:
    """The agent that wrote itself into the lock, if it still runs. The lock itself is not touched: an agent may be about to take it."""
    try:
        pid = int((state_directory / "agent.lock").read_text())
    except (OSError, ValueError):
        return None
    return pid if any(one.pid == pid for one in seen) else None


def holder(path: str) -> int:
    """The process that listens on a unix socket, as the kernel has it from the moment of its listen(2); 0 for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.settimeout(1.0)
            sock.connect(path)
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS))
        except OSError:
            return 0
    return int(pid)


def identity(placement: str, directory: Path, wanted_owner: str, served: str = "") -> IdentitySeen:
    current = directory / "current"
    where, name = str(directory), placement
    try:
        key, chain, bundle = ((current / f"{part}.pem").read_bytes() for part in ("key", "chain", "bundle"))
        status = (current / "key.pem").stat()
    except FileNotFoundError as error:
        return IdentitySeen(name, where, f"{Path(str(error.filename)).name} is not there")
    except OSError as error:
        return IdentitySeen(name, where, f"cannot read it: {error.strerror}")
    try:
        leaf = x509.read_leaf(chain)
        x509.verified_leaf(chain, bundle, leaf.issued, key)
    except MeshagentError as error:
        return IdentitySeen(name, where, str(error))
    mode, owner = status.st_mode & 0o777, _user(status.st_uid)
    return IdentitySeen(name, where, "", leaf.issued, leaf.end, leaf.serial, mode, owner, wanted_owner, served)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def key_owner(placement: host_pb2.Placement) -> str:
    """Who has to own a proxy's key: the slot's user, where there is one."""
    there = users.find(placement.slot) if placement.slot in users.SLOTS else None
    return there.name if there else ""


def disks(settings: Settings) -> Iterator[DiskSeen]:
    seen = set()
    for directory in (settings.state_directory, settings.runtime_directory, Path("/etc")):
        try:
            device, found = directory.stat().st_dev, os.statvfs(directory)
        except OSError as error:
            yield DiskSeen(str(directory), words=error.strerror or str(error))
            continue
        if device not in seen:
            seen.add(device)
            free, inodes = found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1
            yield DiskSeen(str(directory), free, inodes, bool(found.f_flag & os.ST_RDONLY))


def files(what: str, pid: int) -> FilesSeen | None:
    """None when the process is gone, or is not this user's to look at."""
    try:
        used = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    limit = next((line.split()[3] for line in lines if line.startswith("Max open files")), "")
    return FilesSeen(what, used, int(limit) if limit.isdigit() else 1 << 30)


def watches(proc: Path = Path("/proc")) -> Iterator[WatchesSeen]:
    """Of every user that has any, as far as this one may look."""
    try:
        limit = int((proc / "sys/fs/inotify/max_user_instances").read_text())
    except (OSError, ValueError):
        return
    used: Counter[int] = Counter()
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            owner = process.stat().st_uid
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    used[owner] += str(descriptor.readlink()) == _INOTIFY
    yield from (WatchesSeen(_user(uid), count, limit) for uid, count in sorted(used.items()) if count)


def listeners() -> tuple[Listener, ...]:
    try:
        return listening.listeners()
    except OSError:
        return ()


def owners(found: Iterable[Listener]) -> dict[Listener, Owner]:
    return {one: listening.owner(one) for one in found}


def binaries(directory: Path) -> Iterator[BinarySeen]:
    for version in envoys.installed(directory):
        path = envoys.binary(directory, version)
        yield BinarySeen(version, str(path), _binary_words(version, path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _binary_words(version: str, path: Path) -> str:
    try:
        if path.stat().st_mode & 0o022:
            return "others than its owner may write to it"
        expected = envoys.BINARIES.get(version, {}).get(platform.machine())
        if expected and (found := _sha256(path)) != expected:
            return f"is not Envoy {version}: its SHA-256 is {found}, pinned is {expected}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"did not say its version within {_VERSION_SECONDS:.0f} s"
    if done.returncode != 0 or f"/{version}/" not in done.stdout:
        return f"is not Envoy {version}: {(done.stdout or done.stderr).strip()[:200] or 'says nothing'}"
    return ""
