"""The address on which peers reach this host, where its configuration gives none: that of the default route, looked at again and again,
since a lease of DHCP or another network card may change it under a running agent."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0
# Addresses for documentation: connecting a datagram socket to one asks the kernel for a route, and sends nothing.
_NOWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_DISCARD = 9


class HostAddress:
    """`given` is the configuration's; `last` says the one that was good before, for a host that has no route just now."""

    def __init__(self, given: str | None, last: Callable[[], str], look: Callable[[], str] | None = None) -> None:
        self._given, self._last = given, last
        self._look = look or of_default_route
        self._told = ""

    def tell(self) -> str:
        """The address to connect with now; "" when there is none."""
        self._told = self._given or self._look() or self._last()
        return self._told

    async def watch(self, changed: Callable[[], None]) -> None:
        """For ever. `changed` is called when another address than the one told last is the host's."""
        while self._given is None:
            await asyncio.sleep(LOOK_EVERY)
            now = self._look()
            if self._told and now and now != self._told:
                log.warning("this host's address is %s now, and was %s: telling the server", now, self._told)
                self._told = now
                changed()


def of_default_route() -> str:
    """The address that the default route leaves from, IPv4's before IPv6's; "" when there is no such route."""
    for family, nowhere in _NOWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((nowhere, _DISCARD))
                return str(sock.getsockname()[0])
        except OSError:
            continue
    return ""
