"""The addresses behind the servers' names, asked for now and then; what was found last counts when nobody answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable

_AGAIN = 60.0


class Addresses:
    """`servers` are host:port. Blocks while it asks: for threads."""

    def __init__(self, servers: Callable[[], Iterable[str]]) -> None:
        self._servers = servers
        self._known: dict[str, tuple[tuple[str, int], ...]] = {}
        self._asked = 0.0

    def found(self) -> tuple[tuple[str, int], ...]:
        servers = tuple(self._servers())
        now = time.monotonic()
        if now - self._asked > _AGAIN or set(servers) - self._known.keys():
            self._asked = now
            self._known = {server: _resolved(server) or self._known.get(server, ()) for server in servers}
        return tuple(sorted({address for found in self._known.values() for address in found}))


def _resolved(server: str) -> tuple[tuple[str, int], ...]:
    host, _, port = server.rpartition(":")
    try:
        answers = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return ()
    return tuple(dict.fromkeys((str(answer[4][0]), int(port)) for answer in answers))
