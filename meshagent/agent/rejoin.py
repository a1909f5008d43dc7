"""Joining anew beside a daemon at work, in a process of its own: HTTPS, X.509 and what else a join needs end with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from meshagent.agent.membership import Membership, membership
from meshagent.errors import MeshagentError

_SECONDS = 300.0


class RejoinError(MeshagentError):
    """The new token did not lead to a membership."""


async def rejoin(directory: Path, token: str, host: str, attempts: int) -> Membership:
    """As join.join with so many attempts. Its records go where ours go."""
    wanted = {"directory": str(directory), "token": token, "host": host, "attempts": attempts}
    program = [sys.executable, "-P", "-m", "meshagent.agent.join"]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe)
    except OSError as error:
        raise RejoinError(f"cannot run {sys.executable}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate(json.dumps(wanted).encode())
    except TimeoutError as error:
        raise RejoinError(f"no end within {_SECONDS:.0f} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode or output:
        raise RejoinError(output.decode(errors="replace").strip() or f"ended with status {process.returncode}")
    member = await asyncio.to_thread(membership, directory)
    if member is None:
        raise RejoinError(f"{directory} holds no identity after the join")
    return member
