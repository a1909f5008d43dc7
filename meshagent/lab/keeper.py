"""Waits for a process to end, however it ends, and then takes away the labs that belonged to it.

Started by that process with a pipe as its standard input, which the kernel closes at the latest when the process dies. Should the keeper be
killed as well, the next `up` of any lab does its work (`sweep`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from meshagent.lab import record
from meshagent.lab.lab import Places, sweep

_DEATH_LIMIT = 10.0  # between a process's last closed file and its end


def start(owner: int, places: Places) -> subprocess.Popen[bytes]:
    """A keeper of the labs of this process. Kill it when they have been taken down."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(owner), str(places.state), str(places.cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def main(owner: str, state: str, cache: str) -> None:
    kept = record.owner_if_there(int(owner))
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _DEATH_LIMIT
    while kept is not None and kept.lives and time.monotonic() < deadline:
        time.sleep(0.02)
    sweep(Places(Path(state), Path(cache)))


if __name__ == "__main__":
    main(*sys.argv[1:])
