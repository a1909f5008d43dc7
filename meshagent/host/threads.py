"""Blocking acts in threads, to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def finished(act: Callable[..., T], *arguments: object) -> T:
    """`act` in a thread, to its end: cancelled or not, nobody else begins before it is over."""
    thread = asyncio.ensure_future(asyncio.to_thread(act, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        if not thread.cancelled():
            thread.exception()  # nobody asks for it any more
        raise
