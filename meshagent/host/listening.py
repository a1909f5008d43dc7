"""Who listens on which TCP address of this host, from /proc: so that no proxy is started beside a stranger.

Two Envoys of one user bind one address without an error and share its traffic (SO_REUSEPORT); nothing but looking tells. Only reads.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
_EVERYWHERE = ("0.0.0.0", "::")
_SOCKET = "socket:[{}]"


@dataclass(frozen=True)
class Listener:
    address: str
    port: int
    inode: int


@dataclass(frozen=True)
class Owner:
    """The process that holds a listener, as far as this user may know: pid 0 and "" for one of somebody else's."""

    pid: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid else "a process of another user"


def listeners(proc: Path = Path("/proc")) -> tuple[Listener, ...]:
    """All TCP listeners of this network namespace; those of IPv6, too."""
    tables = [proc / "net" / "tcp", proc / "net" / "tcp6"]
    return tuple(one for table in tables if table.exists() for one in parse(table.read_text()))


def parse(table: str) -> tuple[Listener, ...]:
    """From the text of /proc/net/tcp or tcp6: addresses are hexadecimal, in words of a little-endian machine."""
    rows = (line.split() for line in table.splitlines()[1:])
    return tuple(_listener(row[1], int(row[9])) for row in rows if len(row) > 9 and row[3] == _LISTEN)


def _listener(local: str, inode: int) -> Listener:
    words, _, port = local.partition(":")
    packed = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Listener(str(mapped or address), int(port, 16), inode)


def holding(found: Iterable[Listener], address: str, port: int) -> tuple[Listener, ...]:
    """Those that keep anybody else from listening on that address and port: on it, or on all addresses. One on `::` takes IPv4's, too,
    unless it asked not to, which nobody can see from outside."""
    return tuple(one for one in found if one.port == port and one.address in (address, *_EVERYWHERE))


def within(found: Iterable[Listener], network: str, addresses: Collection[tuple[str, int]]) -> tuple[Listener, ...]:
    """Those in a network such as 127.64.0.0/16, or on one of the given addresses and ports exactly."""
    block = ipaddress.IPv4Network(network)
    return tuple(
        one for one in found if ipaddress.ip_address(one.address) in block or (one.address, one.port) in addresses
    )


def owner(listener: Listener, proc: Path = Path("/proc")) -> Owner:
    """Looks through the open files of all processes that this user may look into: some milliseconds on a full host."""
    wanted = _SOCKET.format(listener.inode)
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) == wanted:
                        return Owner(int(process.name), (process / "comm").read_text(errors="replace").strip())
    return Owner()
