"""New connections to an address on which two processes listen side by side (SO_REUSEPORT) are given to one of them alone.

The kernel shares them out between the listening sockets of the group. When one of these is closed, what waits in its queue is reset, and
what has half arrived too: under thousands of new connections a second some always do. So a listener is first left alone, by a program that
picks the other's (SO_ATTACH_REUSEPORT_CBPF), and is closed once its queue has run empty.

The program names sockets by their number in the group: the order in which they began to listen. Where that is not as it was taken to be, or
a socket has gone meanwhile, the number leads to another socket or to none, and then the kernel chooses as it always does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from meshagent.errors import MeshagentError
from meshagent.host import processes
from meshagent.host.listening import Listener, listeners

_ATTACH, _DETACH = 51, 68  # SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF: <asm-generic/socket.h>
_PIDFD_GETFD = 438  # its number on every architecture that Envoy is built for
_LOAD, _MODULO, _ADD, _RETURN = 0x20, 0x94, 0x04, 0x16  # <linux/bpf_common.h>
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM

Process = tuple[int, int]  # pid and start time


class SteeringError(MeshagentError):
    """New connections are shared out as before."""


def program(first: int, count: int) -> bytes:
    """Classic BPF whose result is one of the `count` numbers from `first` on."""
    steps = [(_LOAD, _RANDOM), (_MODULO, count), (_ADD, first), (_RETURN, 0)]
    return b"".join(struct.pack("=HBBI", code, 0, 0, operand) for code, operand in steps)


def shared(found: Iterable[Listener], own: Iterable[int]) -> Iterator[tuple[list[int], int]]:
    """For each address on which a process listens beside others: its own sockets (inodes, of `own`), and how many the others have."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in found:
        groups[one.address, one.port].append(one.inode)
    mine = set(own)
    for inodes in groups.values():
        ours = [inode for inode in inodes if inode in mine]
        if ours and len(ours) < len(inodes):
            yield ours, len(inodes) - len(ours)


def steer(to: Process, away: Process) -> int:
    """From now on, of two processes that listen on the same addresses, `to` gets every new connection; returns on how many addresses.
    Raises SteeringError."""
    with _sockets(to) as (process, descriptors):
        steered = 0
        for ours, others in shared(listeners(), descriptors):
            code = program(0 if to[1] < away[1] else others, len(ours))
            with _borrowed(process, descriptors[ours[0]]) as sock:
                _attach(sock, code)
            steered += 1
    return steered


def release(process: Process) -> None:
    """The kernel chooses again for every address on which the process listens. Raises SteeringError."""
    with _sockets(process) as (held, descriptors):
        for one in listeners():
            if one.inode in descriptors:
                with _borrowed(held, descriptors[one.inode]) as sock:
                    _detach(sock)


def _attach(sock: socket.socket, code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH, described)


def _detach(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # it has no program, or is not one that shares
            raise


@contextlib.contextmanager
def _sockets(process: Process) -> Iterator[tuple[int, dict[int, int]]]:
    """A pidfd, and the process's descriptors of sockets by inode."""
    pid, started = process
    held = processes.pidfd(pid, started)
    if held is None:
        raise SteeringError(f"process {pid} has ended")
    try:
        yield held, dict(_descriptors(Path(f"/proc/{pid}/fd")))
    except OSError as error:
        raise SteeringError(f"the sockets of process {pid} cannot be had: {error.strerror}") from error
    finally:
        os.close(held)


def _descriptors(directory: Path) -> Iterator[tuple[int, int]]:
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(path.readlink())
            if target.startswith("socket:["):
                yield int(target[8:-1]), int(path.name)


@contextlib.contextmanager
def _borrowed(process: int, descriptor: int) -> Iterator[socket.socket]:
    """Another process's socket, for a moment (pidfd_getfd(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(fileno=number) as sock:
        yield sock
