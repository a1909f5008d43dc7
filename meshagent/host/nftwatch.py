"""Wakes whoever asks when nftables changes, whoever changed it: nothing is polled that the kernel tells.

Only that something changed is known, not what. Where the kernel does not tell (no privilege, no nftables), nobody is woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFNLGRP_NFTABLES = 7


@contextlib.contextmanager
def watching(changed: Callable[[], None]) -> Iterator[None]:
    """Inside, `changed` is called by the running loop after each change."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
    except OSError:
        yield
        return
    with sock:
        try:
            sock.bind((0, 0))
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except OSError:
            yield
            return

        def drain() -> None:
            # ENOBUFS, too, says that there was something.
            with contextlib.suppress(OSError):
                while True:
                    sock.recv(1 << 16)
            changed()

        loop = asyncio.get_running_loop()
        loop.add_reader(sock, drain)
        try:
            yield
        finally:
            loop.remove_reader(sock)
