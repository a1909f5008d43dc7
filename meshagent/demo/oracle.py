"""The traffic oracle as a process of its own, which may run where its caller does not: in the network of a lab's host.

    python -m meshagent.demo.oracle

Reads a JSON object a line: `{"start": "http", "name": ..., "address": ..., "port": ..., ...}` begins a load (the arguments of Oracle's
methods), `{"report": true}` is answered with a line about all of them, and the end of the input ends it. Moments of failures are
time.monotonic()'s, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from meshagent.demo.traffic import Load, Oracle

_END_LIMIT = 20.0
_KINDS = ("http", "tcp", "grpc", "calls", "held")


class RemoteOracle:
    """Loads that run in another process, started with `prefix` before its command. A context manager; all loads end with it."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._command = [*prefix, sys.executable, "-P", "-m", __name__]

    def __enter__(self) -> RemoteOracle:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=_END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def http(self, name: str, address: str, port: int, **more: Any) -> None:
        """As Oracle.http: rate=200, fresh=0.25, path="/", host=""."""
        self._say({"start": "http", "name": name, "address": address, "port": port, **more})

    def tcp(self, name: str, address: str, port: int, **more: Any) -> None:
        self._say({"start": "tcp", "name": name, "address": address, "port": port, **more})

    def grpc(self, name: str, address: str, port: int, **more: Any) -> None:
        self._say({"start": "grpc", "name": name, "address": address, "port": port, **more})

    def calls(self, name: str, address: str, port: int, **more: Any) -> None:
        self._say({"start": "calls", "name": name, "address": address, "port": port, **more})

    def held(self, name: str, address: str, port: int, **more: Any) -> None:
        self._say({"start": "held", "name": name, "address": address, "port": port, **more})

    def loads(self) -> dict[str, Load]:
        """What each load has come to by now, by its name."""
        self._say({"report": True})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the traffic oracle ended: status {self._process.wait(_END_LIMIT)}"
        return {one["name"]: _load(one) for one in json.loads(line)}

    def failed(self, since: float = 0.0) -> list[str]:
        """Every failed request's words, of all loads, from that moment of time.monotonic() on."""
        return [f"{name}: {words}" for name, load in self.loads().items() for words in load.failures_since(since)]

    def _say(self, words: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()


def _row(load: Load) -> dict[str, Any]:
    counted = {"answers": dict(load.answers), "callers": dict(load.callers), "failures": load.failures}
    return {"name": load.name, "sent": load.sent, "ok": load.ok, "in_flight": load.in_flight, **counted}


def _load(row: dict[str, Any]) -> Load:
    counters = {name: Counter(row[name]) for name in ("answers", "callers")}
    return Load(**{**row, **counters, "failures": [(at, words) for at, words in row["failures"]]})


async def main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Oracle() as oracle:
        while line := await lines.readline():
            words = json.loads(line)
            if words.get("report"):
                print(json.dumps([_row(load) for load in oracle.loads]), flush=True)
            else:
                kind = words.pop("start")
                assert kind in _KINDS, kind
                getattr(oracle, kind)(**words)


if __name__ == "__main__":
    asyncio.run(main())
