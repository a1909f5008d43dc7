"""What /proc says of processes: who is who, although pids are used again.

A process is told by its pid and its start time (clock ticks since boot) within one boot. Ends are awaited and signals sent through
pidfds, so that a pid used again by another program is never waited for nor signalled. What is started and ended is the supervisors'
business.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CONTAINER = Path("/run/systemd/container")
_DEAD = frozenset((b"Z", b"X", b"x"))  # a zombie holds no socket and serves nobody


@dataclass(frozen=True)
class Process:
    pid: int
    start_time: int  # clock ticks since boot: field 22 of /proc/PID/stat
    arguments: tuple[str, ...]


def boot_id(proc: Path = PROC, container: Path = CONTAINER) -> str:
    """Another at every boot, and on every machine: pids and start times of an earlier boot mean nothing. In a container, whose boots are
    none of the kernel's and whose own id a sandboxed unit does not see, its PID namespace (which one that ends passes on) and the start of
    its init (which those that start together share) make the difference."""
    try:
        found = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{found}-{(proc / 'self/ns/pid').stat().st_ino}-{start_time(1, proc)}" if container.exists() else found
    except OSError:
        return ""


def is_systemd_host() -> bool:
    """Whether this process is root on a machine that systemd runs: what is done to hosts can be done to this one."""
    return os.geteuid() == 0 and Path("/run/systemd/system").is_dir()


def start_time(pid: int, proc: Path = PROC) -> int | None:
    """None when there is no such process, or only its zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in parentheses, which may itself hold spaces and parentheses, and bytes that are no text.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in _DEAD else int(fields[19])


def own_processes(proc: Path = PROC) -> Iterator[Process]:
    """Every living process of this user."""
    user = os.geteuid()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != user:
                continue
            arguments = tuple((entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
        except OSError:
            continue  # it ended while we looked
        started = start_time(int(entry.name), proc)
        if started is not None and arguments:
            yield Process(int(entry.name), started, arguments)


def pidfd(pid: int, started: int) -> int | None:
    """A descriptor for this very process; None when it has ended, or never began (pid 0)."""
    if pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Opened first, looked at second: the pid cannot change hands in between.
    if start_time(pid) != started:
        os.close(descriptor)
        return None
    return descriptor


def send(pid: int, started: int, number: signal.Signals) -> bool:
    """False when the process is gone."""
    descriptor = pidfd(pid, started)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def signal_name(number: int) -> str:
    """Real-time signals have a number alone."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def end(pid: int, started: int) -> None:
    """Returns when the process has ended; at once when it has already."""
    descriptor = pidfd(pid, started)
    if descriptor is None:
        return
    try:
        await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
