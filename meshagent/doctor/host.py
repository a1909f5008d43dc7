"""Checks of the machine: disk, limits of open files, units, ports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshagent.doctor.finding import Finding, or_well, unknown, warning, wrong
from meshagent.host.listening import Listener, Owner
from meshagent.host.nftables import EGRESS_PORT, INGRESS_PORT, SERVICES_SLOT
from meshagent.protocol import host_pb2

# A certificate, a snapshot and a log need little; an Envoy's binary is a hundred megabytes.
LEAST_FREE = 512 << 20
LEAST_FILES = 4096
FULL_FILES = 0.8
AGENT_UNIT = "meshagent-agent.service"
REDIRECT_UNIT = "meshagent-redirect.service"
_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class DiskSeen:
    """The file system of a directory. `words`: why it could not be looked at."""

    path: str
    free: int = 0
    inodes_free: int = 1
    read_only: bool = False
    words: str = ""


def disks(seen: Iterable[DiskSeen]) -> Iterator[Finding]:
    def each() -> Iterator[Finding]:
        for disk in seen:
            free = f"{disk.free >> 20} MiB free"
            if disk.words:
                yield unknown("disk", f"{disk.path}: {disk.words}")
            elif disk.read_only:
                yield wrong(
                    "disk",
                    f"{disk.path} is mounted read-only: certificates and configuration cannot be renewed",
                    f"see `dmesg` for why, mend the disk, then `mount -o remount,rw` what {disk.path} is on",
                )
            elif disk.free == 0 or disk.inodes_free == 0:
                what = "no space" if disk.free == 0 else "no inode"
                yield wrong("disk", f"{disk.path} has {what} left: nothing can be renewed", "remove what fills it")
            elif disk.free < LEAST_FREE:
                yield warning("disk", f"{disk.path} has only {free}", f"make room: {LEAST_FREE >> 20} MiB at least")

    yield from or_well("disk", each(), "there is room, and it can be written")


@dataclass(frozen=True)
class FilesSeen:
    """Open files of a process, and its soft limit."""

    what: str
    used: int
    limit: int


@dataclass(frozen=True)
class WatchesSeen:
    """The inotify instances of one user, and the kernel's limit for each user. Every Envoy needs some, and ends without any."""

    user: str
    used: int
    limit: int


def open_files(seen: Iterable[FilesSeen], watches: Iterable[WatchesSeen] = ()) -> Iterator[Finding]:
    def each() -> Iterator[Finding]:
        for user in watches:
            if user.used > user.limit * FULL_FILES:
                yield wrong(
                    "limits",
                    f"user {user.user} has {user.used} of at most {user.limit} inotify instances: an Envoy that gets none ends at once",
                    f"sysctl fs.inotify.max_user_instances={user.limit * 8}, and a line for it in /etc/sysctl.d",
                )
        for one in seen:
            if one.used > one.limit * FULL_FILES:
                yield wrong(
                    "limits",
                    f"{one.what} has {one.used} of at most {one.limit} files open: new connections will be refused",
                    "raise LimitNOFILE= by a drop-in of its unit, then restart it; look for connections that nobody closes",
                )
            elif one.limit < LEAST_FILES:
                yield warning(
                    "limits",
                    f"{one.what} may open only {one.limit} files, which is {one.limit // 2} connections",
                    "raise LimitNOFILE= of its unit, or the hard limit of who starts it (`ulimit -Hn`)",
                )

    yield from or_well("limits", each(), "open files are within their limits")


@dataclass(frozen=True)
class UnitSeen:
    """As systemd has it. `differs`: its file is not the one that this release brings. `result` and `status` are of its last end."""

    name: str
    load: str
    active: str
    enabled: str = ""
    differs: bool = False
    result: str = ""
    status: int = 0


def units(seen: Iterable[UnitSeen], *, redirecting: bool) -> Iterator[Finding]:
    """`redirecting`: connections are turned on this host, which needs a unit at boot."""

    def each() -> Iterator[Finding]:
        found = {unit.name: unit for unit in seen}
        needed = [AGENT_UNIT, REDIRECT_UNIT] if redirecting else [AGENT_UNIT]
        for name in needed:
            yield from _needed(found.pop(name, UnitSeen(name, "not-found", "inactive")))
        for unit in found.values():
            yield from _failed(unit)

    yield from or_well("units", each(), "the units are installed, enabled and run")


def _needed(unit: UnitSeen) -> Iterator[Finding]:
    if unit.load == "masked":
        yield wrong("units", f"{unit.name} is masked: nothing starts it", f"systemctl unmask {unit.name}")
        return
    if unit.load != "loaded":
        yield wrong("units", f"{unit.name} is {unit.load}", "deploy the agent's role to this host again")
        return
    yield from _failed(unit)
    if unit.enabled in ("disabled", "indirect"):
        yield wrong(
            "units",
            f"{unit.name} is not enabled: after a reboot it does not come back",
            f"systemctl enable {unit.name}",
        )
    if unit.name == AGENT_UNIT and unit.active not in ("active", "failed", "activating", "reloading"):
        yield wrong("units", f"{unit.name} is {unit.active}", f"systemctl start {unit.name}")
    if unit.differs:
        yield warning(
            "units",
            f"{unit.name} is not the unit that this release brings",
            "deploy again; keep what is this host's own in a drop-in (`systemctl edit`)",
        )


def _failed(unit: UnitSeen) -> Iterator[Finding]:
    if unit.active == "failed":
        how = f"{unit.result}, status {unit.status}" if unit.status else unit.result or "failed"
        yield wrong(
            "units",
            f"{unit.name} has failed ({how})",
            f"`journalctl -u {unit.name}` says why; then systemctl restart {unit.name}",
        )
    elif unit.active == "activating" and unit.result not in ("", "success"):
        yield wrong(
            "units", f"{unit.name} ends again and again ({unit.result})", f"`journalctl -u {unit.name} -n 50` says why"
        )


def ports(
    placements: Iterable[host_pb2.Placement], found: Sequence[Listener], owners: Mapping[Listener, Owner]
) -> Iterator[Finding]:
    """Who listens where a placement's Envoy should, and does not let it."""

    def each() -> Iterator[Finding]:
        for placement in placements:
            for listener in in_the_way(placement, found):
                owner = owners.get(listener, Owner())
                if owner.name == "envoy":
                    continue
                where = f"{listener.address}:{listener.port}"
                wild = listener.address in _WILDCARDS and placement.mode == "bind"
                yield wrong(
                    "ports",
                    f"{owner} listens on {where}{' (every address)' if wild else ''}, where {_envoy(placement)} should",
                    "let it listen on 127.0.0.1, or set `mode: redirect` for the placement"
                    if wild
                    else "end it, or move it",
                )

    yield from or_well("ports", each(), "nobody else listens where the proxies do")


def in_the_way(placement: host_pb2.Placement, found: Iterable[Listener]) -> Iterator[Listener]:
    services = f"127.{SERVICES_SLOT + placement.slot}."
    own = {INGRESS_PORT + 2 * placement.slot, EGRESS_PORT + 2 * placement.slot}
    for listener in found:
        if placement.mode == "bind":
            blocks = listener.port in placement.ports and listener.address in (placement.address, *_WILDCARDS)
            if blocks or listener.address.startswith(services):
                yield listener
        elif listener.port in own and listener.address in ("127.0.0.1", *_WILDCARDS):
            yield listener


def _envoy(placement: host_pb2.Placement) -> str:
    return f"the Envoy of {placement.resource.removeprefix('mesh/')} ({placement.id})"
