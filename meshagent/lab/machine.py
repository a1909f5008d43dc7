"""What the lab asks of the machine that it runs on: root, programs, and a look at its links, routes and mounts.

The one place of this room that starts short commands. Every one has a timeout, and a failed one is named with what it said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from meshagent.lab.layout import LabError

Say = Callable[[str], None]

# Program -> the Debian package that has it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mount": "mount",
}
# What tests and benchmarks on a lab's hosts start, and a lab by itself does not.
TOOLS = {
    "wrk": "wrk",
    # redis-server under another name; the package redis-server would start one on this machine.
    "redis-check-rdb": "redis-tools",
}
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 2048
_NAMESPACES = Path("/run/netns")
_COMMAND_LIMIT = 30.0
_INSTALL_LIMIT = 600.0
_LOCK_LIMIT = 180.0


def why_not() -> str | None:
    """Why there can be no lab here and now; None when there can be one."""
    if os.geteuid() != 0:
        return "meshagent lab needs root: network namespaces and systemd-nspawn"
    missing = missing_programs()
    if missing:
        packages = " ".join(sorted({PROGRAMS[program] for program in missing}))
        return (
            f"meshagent lab needs {', '.join(missing)}: apt-get install {packages} (or: meshagent lab check --install)"
        )
    return None


def check() -> None:
    reason = why_not()
    if reason is not None:
        raise LabError(reason)


def make_room() -> None:
    """Raises the one limit of the kernel's that all hosts of all labs share, and that a dozen systemds reach. Nothing lowers it again."""
    try:
        if int(_INOTIFY.read_text()) < _INOTIFY_INSTANCES:
            _INOTIFY.write_text(str(_INOTIFY_INSTANCES))
    except OSError as error:
        raise LabError(f"{_INOTIFY} cannot be raised to {_INOTIFY_INSTANCES}: {error.strerror}") from error


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


def install_programs(say: Say) -> None:
    """Installs what is missing, the tools too, through apt."""
    every = PROGRAMS | TOOLS
    packages = sorted({package for program, package in every.items() if shutil.which(program) is None})
    if os.geteuid() != 0 or not packages:
        return
    say(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(("apt-get", "update", "-qq"), limit=_INSTALL_LIMIT, environment=quiet)
    run(("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages), _INSTALL_LIMIT, environment=quiet)


def run(
    command: Sequence[str], limit: float = _COMMAND_LIMIT, text: str = "", environment: dict[str, str] | None = None
) -> str:
    """What the command printed."""
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end within {limit:.0f} s") from error
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror or error}") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or f'ended with status {done.returncode}'}")
    return done.stdout


def links() -> set[str]:
    return {str(link["ifname"]) for link in json.loads(run(("ip", "-json", "link")) or "[]")}


def namespaces() -> set[str]:
    try:
        return {path.name for path in _NAMESPACES.iterdir()}
    except FileNotFoundError:
        return set()


def networks_in_use() -> list[IPv4Network]:
    """Everything that the machine has a route to, but for the default one; its own addresses among them."""
    routes = json.loads(run(("ip", "-json", "-4", "route", "show", "table", "all")) or "[]")
    return [
        IPv4Network(route["dst"], strict=False)
        for route in routes
        if route.get("dst", "default") not in ("default", "")
    ]


def mounts_under(directory: Path) -> list[Path]:
    """Mount points at and below a directory, the innermost first."""
    points = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    found = [Path(point.encode().decode("unicode_escape")) for point in points]
    return sorted((p for p in found if p == directory or directory in p.parents), key=lambda p: -len(p.parts))


def unmount_under(directory: Path, deadline: float) -> None:
    """A file system may be busy for a moment after the last process in it has ended."""
    while mounted := mounts_under(directory):
        try:
            run(("umount", str(mounted[0])))
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def lock(path: Path, limit: float = _LOCK_LIMIT) -> Iterator[None]:
    """Held by one process at a time; a killed one holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + limit
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"another lab command has held {path} for {limit:.0f} s") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def run_all(commands: Iterable[Sequence[str]]) -> None:
    for command in commands:
        run(command)
