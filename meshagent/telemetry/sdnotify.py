"""Tells the service manager how we are (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names.

Does nothing where there is no such socket, and never fails the caller: a daemon that cannot say that it is ready is
ready all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator

_log = logging.getLogger(__name__)


def notify(state: str) -> bool:
    """`state` is such as "READY=1" or "STOPPING=1"; True when it was sent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("the service manager could not be told %s: %s", state, error)
        return False
    return True


def watchdog_interval() -> float | None:
    """How often, in seconds, the service manager should hear of us so that it does not take us for hung: thrice in its limit. None where
    it does not watch."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(microseconds) / 3e6 if microseconds.isdigit() and int(microseconds) and watched else None


@contextlib.asynccontextmanager
async def alive() -> AsyncIterator[None]:
    """Inside, the watchdog hears of us for as long as the event loop turns."""
    interval = watchdog_interval()
    if interval is None:
        yield
        return
    telling = asyncio.create_task(_tell(interval), name="watchdog")
    try:
        yield
    finally:
        telling.cancel()


async def _tell(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
