"""A generation's socket lies in a directory that is the proxy's own user's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshagent.agent.face import Face
from tests.host.namespaces import needs_root

SOMEBODY = 12345


@needs_root
async def test_what_that_user_puts_in_the_sockets_place_is_not_followed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, socket = run_dir / "of-root", run_dir / "sockets/relay.sock"
    theirs.touch()
    real = grpc.aio.server

    def swapping(*arguments: Any, **more: Any) -> Any:
        server = real(*arguments, **more)
        listen = server.add_insecure_port

        def listen_and_swap(address: str) -> int:
            port = int(listen(address))
            socket.unlink()
            socket.symlink_to(theirs)
            return port

        server.add_insecure_port = listen_and_swap
        return server

    monkeypatch.setattr(grpc.aio, "server", swapping)
    serving = asyncio.create_task(Face("web", lambda _: None, lambda _: None).serve(socket, SOMEBODY))
    async with asyncio.timeout(10):
        while not socket.is_symlink() or socket.lstat().st_uid != SOMEBODY:
            assert not serving.done()
            await asyncio.sleep(0.01)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert theirs.stat().st_uid == os.geteuid()
