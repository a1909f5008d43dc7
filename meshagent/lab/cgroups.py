"""A host's cgroup: by it a lab knows its processes, and ends them, without ever naming a pid.

A process cannot leave it, however it was forked and whoever was killed meanwhile, so that no list of pids can be out of date. Two
systemds in one cgroup would take each other's services for their own: each host has one. `power` holds the loop that starts the host,
`machine` all that runs in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from meshagent.lab.layout import LabError

TOP = "meshagent-lab"
_LEAVES = ("power", "machine")


def hierarchies(mountinfo: str) -> list[Path]:
    """Mount points of cgroup v2 and, where version 1 is beside it, of systemd's own named hierarchy and the memory controller's; the v2
    one first."""
    unified: list[Path] = []
    named: list[Path] = []
    memory: list[Path] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            unified.append(Path(before.split(" ")[4]))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            named.append(Path(before.split(" ")[4]))
        elif kind == "cgroup" and "memory" in options.split(","):
            memory.append(Path(before.split(" ")[4]))
    if not unified:
        raise LabError("meshagent lab needs cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return [unified[0], *named[:1], *memory[:1]]


class HostGroup:
    """The cgroup `meshagent-lab/LAB/HOST` in every hierarchy that counts."""

    def __init__(self, lab: str, host: str) -> None:
        self.path = f"{TOP}/{lab}/{host}"

    @cached_property
    def roots(self) -> list[Path]:
        return hierarchies(Path("/proc/self/mountinfo").read_text())

    @property
    def has_memory_controller(self) -> bool:
        """Of version 1, and in it."""
        return any((root / "memory.limit_in_bytes").exists() for root in self.roots)

    def make(self) -> None:
        for root in self.roots:
            directory = root
            for name in self.path.split("/"):
                directory /= name
                _make(directory)
                if root == self.roots[0]:
                    _delegate(directory)
            for leaf in _LEAVES:
                _make(directory / leaf)

    def is_powered(self) -> bool:
        return any(True for _ in self._pids(self.roots[0] / self.path / "power"))

    def leader(self) -> int | None:
        """The pid, as the machine counts, of the host's process 1; None while there is none."""
        for pid in self._pids(self.roots[0] / self.path / "machine" / "payload"):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                counted = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                if counted == [str(pid), "1"]:
                    return pid
        return None

    def end(self, deadline: float) -> None:
        """Power off, at once: the loop first, so that it starts nothing again. Then removes the cgroup."""
        top = self.roots[0] / self.path
        for directory in (top / "power", top):
            with contextlib.suppress(FileNotFoundError):
                (directory / "cgroup.kill").write_text("1")
            while left := list(self._pids(directory)):
                if time.monotonic() > deadline:
                    raise LabError(f"{self.path}: processes {left} did not end when killed")
                time.sleep(0.02)
        self._remove(deadline)

    def _remove(self, deadline: float) -> None:
        for root in self.roots:
            while (root / self.path).exists():
                try:
                    for directory in _innermost_first(root / self.path):
                        directory.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    # A cgroup stays busy for a moment after its last process has been reaped.
                    if time.monotonic() > deadline:
                        raise LabError(f"cannot remove the cgroup {root / self.path}: {error.strerror}") from error
                    time.sleep(0.02)
            for parent in (root / self.path).parents[:2]:
                with contextlib.suppress(OSError):
                    parent.rmdir()  # only when this was the last host, or the last lab

    @staticmethod
    def _pids(directory: Path) -> Iterator[int]:
        for inner in _innermost_first(directory):
            with contextlib.suppress(OSError):
                yield from (int(line) for line in (inner / "cgroup.procs").read_text().split())


def hosts_left(lab: str) -> list[str]:
    """Hosts of which a cgroup is there, whatever any record says."""
    left: set[str] = set()
    for root in hierarchies(Path("/proc/self/mountinfo").read_text()):
        with contextlib.suppress(FileNotFoundError):
            left |= {path.name for path in (root / TOP / lab).iterdir() if path.is_dir()}
    return sorted(left)


def _innermost_first(directory: Path) -> Iterator[Path]:
    try:
        inner = [path for path in directory.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return
    for path in inner:
        yield from _innermost_first(path)
    yield directory


def _make(directory: Path) -> None:
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the cgroup {directory}: {error.strerror}; it must be writable here") from error


def _delegate(directory: Path) -> None:
    """Lets the host's systemd limit memory and processes, where this hierarchy has the controllers. Beside version 1 it has not, and only a
    host that boots with version 1 has the memory controller."""
    for controller in (directory / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")
