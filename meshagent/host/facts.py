"""What this host is: hardware, system, load, disks, addresses; and what one process uses. Reads only.

What cannot be found out is empty or 0: a fact is never a reason to fail. Numbers that always move are rounded here, so that a host at rest
says the same thing again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_SYSTEMCTL_SECONDS = 5.0
_SYSTEMD = Path("/run/systemd/system")
# Memory is told in this many steps of the whole, load in steps of a quarter.
_MEMORY_STEPS, _LOAD_STEP = 20, 0.25
_CPU_STEP, _MIB = 0.01, 1 << 20


@dataclass(frozen=True)
class System:
    """What does not change before the next boot, or the next upgrade."""

    os: str = ""
    os_version: str = ""
    kernel: str = ""
    arch: str = ""
    systemd: str = ""
    booted: int = 0
    cpus: int = 0
    memory_total: int = 0


@dataclass(frozen=True)
class Disk:
    path: str
    total: int
    used_percent: int
    read_only: bool


@dataclass(frozen=True)
class Present:
    """What changes."""

    load: float = 0.0
    memory_available: int = 0
    disks: tuple[Disk, ...] = ()
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Of one process. `cpu_seconds` is what it used so far."""

    cpu_seconds: float
    memory: int
    open_files: int


def system() -> System:
    """Starts `systemctl` once, for its version."""
    release: Mapping[str, str] = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return System(
        os=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        kernel=platform.release(),
        arch=platform.machine(),
        systemd=_systemd_version(),
        booted=round(psutil.boot_time()),
        cpus=len(os.sched_getaffinity(0)),
        memory_total=psutil.virtual_memory().total,
    )


def present(directories: Iterable[Path]) -> Present:
    memory = psutil.virtual_memory()
    step = max(1, memory.total // _MEMORY_STEPS)
    return Present(
        load=round(os.getloadavg()[0] / _LOAD_STEP) * _LOAD_STEP,
        memory_available=memory.available // step * step,
        disks=tuple(disks(directories)),
        addresses=tuple(addresses()),
    )


def disks(directories: Iterable[Path]) -> Iterator[Disk]:
    """Of the file systems on which these directories lie, each once. `used_percent` as df counts: of what users may fill."""
    seen = set()
    for directory in directories:
        try:
            device, found = directory.stat().st_dev, os.statvfs(directory)
        except OSError:
            continue
        if device in seen:
            continue
        seen.add(device)
        used = found.f_blocks - found.f_bfree
        usable = used + found.f_bavail
        percent = -(-100 * used // usable) if usable else 0
        yield Disk(str(directory), found.f_blocks * found.f_frsize, percent, _is_read_only(device, found))


def _is_read_only(device: int, found: os.statvfs_result) -> bool:
    """Of the file system, not of how this process sees it: a service's sandbox may show it read-only."""
    with contextlib.suppress(OSError):
        states = superblocks(Path("/proc/self/mountinfo").read_text(errors="replace"))
        if (state := states.get(f"{os.major(device)}:{os.minor(device)}")) is not None:
            return state
    return bool(found.f_flag & os.ST_RDONLY)


def superblocks(mountinfo: str) -> dict[str, bool]:
    """major:minor of each mounted file system, and whether it is read-only as a whole (proc(5), mountinfo's last field)."""
    rows = (line.split(" ") for line in mountinfo.splitlines())
    return {row[2]: "ro" in row[-1].split(",") for row in rows if len(row) > 9}


def addresses() -> list[str]:
    """Interface and address, without those that only this host or this link knows."""
    found = []
    for interface, every in sorted(psutil.net_if_addrs().items()):
        for one in every:
            try:
                address = ipaddress.ip_address(one.address.partition("%")[0])
            except ValueError:
                continue  # a hardware address
            if not address.is_loopback and not address.is_link_local:
                found.append(f"{interface} {address}")
    return found


def usage(pid: int) -> Usage | None:
    """None when the process is gone. What this user may not see of it is 0."""
    process_files = Path(f"/proc/{pid}/fd")
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info().rss
    except (psutil.Error, OSError):
        return None
    open_files = 0
    with contextlib.suppress(OSError):
        open_files = len(os.listdir(process_files))  # noqa: PTH208 - names are enough
    return Usage(times.user + times.system, memory, open_files)


def cores(before: Usage, after: Usage, seconds: float) -> float:
    """How many cores were busy with it in between, rounded."""
    used = max(0.0, after.cpu_seconds - before.cpu_seconds) / seconds if seconds > 0 else 0.0
    return round(round(used / _CPU_STEP) * _CPU_STEP, 2)


def rounded_memory(size: int) -> int:
    return round(size / _MIB) * _MIB


def _systemd_version() -> str:
    if not _SYSTEMD.is_dir():
        return ""
    try:
        done = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=_SYSTEMCTL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    words = done.stdout.split()  # systemd 252 (252.39-1~deb12u1) ...
    return words[1] if len(words) > 1 else ""
