"""Load of thousands of requests a second, by wrk, from a host of a lab.

A closed loop: each connection pauses for about `PAUSE` between its requests, so that the rate follows from their number as long as answers
are quick. A request fails when its connection is refused or breaks, when its status is not 2xx or 3xx, and when it takes more than two
seconds.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from meshagent.lab import LabError

PAUSE = 0.030
_END_LIMIT = 10.0
_LONGEST = 3600
_SCRIPT = """
function delay() return math.random(20, 40) end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "seconds": %f, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "p99": %f, "longest": %f}\\n',
    summary.requests, summary.duration / 1e6, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(99) / 1e6, latency.max / 1e6))
end
"""


@dataclass(frozen=True)
class Count:
    """What a load came to. `failures`: how many of each kind; `p99` and `longest` in seconds."""

    name: str
    requests: int
    seconds: float
    failures: dict[str, int]
    p99: float
    longest: float

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def why_not() -> str | None:
    if shutil.which("wrk") is None:
        return "needs wrk: apt-get install wrk (or: meshagent lab check --install)"
    return None


class Wrk:
    """One load, from `with` on. `namespace` is the network that it runs in; `fresh`: every request on a connection of its own."""

    def __init__(self, name: str, namespace: str, url: str, connections: int, *, fresh: bool = False) -> None:
        self.name = name
        close = ("-H", "Connection: close") if fresh else ()
        self._command = ("ip", "netns", "exec", namespace, "wrk", "-t1", f"-c{connections}", f"-d{_LONGEST}", *close)
        self._url = url

    def __enter__(self) -> Wrk:
        self._scratch = tempfile.TemporaryDirectory(prefix="wrk-")
        script = Path(self._scratch.name) / "load.lua"
        script.write_text(_SCRIPT)
        self._process = subprocess.Popen(
            [*self._command, "-s", str(script), self._url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._scratch.cleanup()

    def stop(self) -> Count:
        """Ends it. Requests without an answer yet are not counted."""
        self._process.send_signal(signal.SIGINT)
        try:
            output, _ = self._process.communicate(timeout=_END_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"wrk ({self.name}) did not end within {_END_LIMIT:.0f} s") from error
        return count_of(self.name, output)


def count_of(name: str, output: str) -> Count:
    """From what wrk and the script above print."""
    last = output.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        raise LabError(f"wrk ({name}) said: {output.strip()[-500:]}")
    said = json.loads(last)
    failures = {kind: said[kind] for kind in ("connect", "read", "write", "status", "timeout") if said[kind]}
    return Count(name, said["requests"], said["seconds"], failures, said["p99"], said["longest"])
