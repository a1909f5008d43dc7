"""The traffic oracle: open-loop load through real proxies, every request's outcome counted.

A request fails when it is anything but a complete 200 with the answer expected: refused, reset, late, cut short, another status. Open loop:
requests start when their time has come, whether or not earlier ones have ended, so that a stall shows as failures and not as a pause.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT = 5.0
# What fails while a client of gRPC's own accord waits before it connects again is not the mesh's doing.
_SOON_AGAIN = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
IN_FLIGHT = 400  # more than this waiting at once is a stall, and counts as failed


class Failed(Exception):
    """One request's failure, in words."""


@dataclass
class Load:
    """What one stream of requests came to. `answers` counts who answered (the service's name in the body); `failures` have the moment at
    which the request was sent, or the long stream or connection broke."""

    name: str
    sent: int = 0
    ok: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    callers: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    in_flight: int = 0

    @property
    def failed(self) -> int:
        return len(self.failures)

    def failures_since(self, when: float) -> list[str]:
        """Of what was sent from a moment of time.monotonic() on."""
        return [words for at, words in self.failures if at >= when]

    def __str__(self) -> str:
        worst = "".join(
            f"\n    {count} x {words}" for words, count in Counter(w for _, w in self.failures).most_common(3)
        )
        return f"{self.name}: {self.ok} ok, {self.failed} failed{worst}"


class Connection:
    """One HTTP/1.1 connection as a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        self._h11: Any = h11
        self._http = h11.Connection(h11.CLIENT)
        self._reader, self._writer = reader, writer
        self.used = time.monotonic()

    @classmethod
    async def open(cls, address: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(address, port))

    async def get(self, path: str, host: str, headers: tuple[tuple[str, str], ...] = ()) -> tuple[int, bytes]:
        h11, http = self._h11, self._http
        request = h11.Request(method="GET", target=path, headers=[("host", host), *headers])
        self._writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise Failed(f"no whole HTTP answer: {error}") from error
            if event is h11.NEED_DATA:
                received = await self._reader.read(65536)
                if not received and not status:
                    raise Failed("connection closed without an answer")
                http.receive_data(received)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.used = time.monotonic()
                return status, body
            elif isinstance(event, h11.ConnectionClosed):
                raise Failed("connection closed within the answer")

    def reusable(self) -> bool:
        """May serve another request: kept alive by both sides, and not closed by the peer meanwhile."""
        http, h11 = self._http, self._h11
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or self._reader.at_eof():
            return False
        http.start_next_cycle()
        return True

    def close(self) -> None:
        self._writer.close()


async def get(address: str, port: int, path: str = "/", host: str = "", timeout: float = TIMEOUT) -> tuple[int, bytes]:
    """One request over a connection of its own."""
    async with asyncio.timeout(timeout):
        connection = await Connection.open(address, port)
        try:
            return await connection.get(path, host or f"{address}:{port}")
        finally:
            connection.close()


class Oracle:
    """Runs loads until it is closed: `async with Oracle() as oracle: load = oracle.http(...)`."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Oracle:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def failed(self) -> int:
        return sum(load.failed for load in self.loads)

    @property
    def ok(self) -> int:
        return sum(load.ok for load in self.loads)

    def report(self) -> str:
        return "\n".join(str(load) for load in self.loads)

    def http(
        self,
        name: str,
        address: str,
        port: int,
        *,
        host: str = "",
        rate: float = 200.0,
        fresh: float = 0.25,
        path: str = "/",
    ) -> Load:
        """`rate` requests a second; the share `fresh` of them on new connections, the others on kept-alive ones."""
        load = Load(name)
        idle: deque[Connection] = deque()

        async def one() -> None:
            connection: Connection | None = None
            new = (load.sent * fresh) % 1 < fresh
            try:
                async with asyncio.timeout(TIMEOUT):
                    while not new and idle:
                        candidate = idle.pop()
                        if candidate.reusable():
                            connection = candidate
                            break
                        candidate.close()
                    connection = connection or await Connection.open(address, port)
                    status, body = await connection.get(path, host or f"{address}:{port}")
                if status != 200:
                    raise Failed(f"status {status}: {body[:160].decode(errors='replace')}")
                answer = json.loads(body)
                load.answers[answer["service"]] += 1
                load.callers[answer["caller"]] += 1
                if not new:
                    idle.append(connection)
                    connection = None
            finally:
                if connection is not None:
                    connection.close()

        self._start(load, self._paced(load, rate, one))
        return load

    def tcp(self, name: str, address: str, port: int, *, rate: float = 20.0) -> Load:
        """`rate` new connections a second, each of which must be greeted first and gets a line echoed."""
        load = Load(name)

        async def one() -> None:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = await asyncio.open_connection(address, port)
                try:
                    greeting = (await reader.readline()).decode()
                    if not greeting.endswith(" ready\n"):
                        raise Failed(f"greeted with {greeting!r}")
                    writer.write(b"ping\n")
                    if (echoed := await reader.readline()) != b"ping\n":
                        raise Failed(f"echoed {echoed!r}")
                finally:
                    writer.close()
            load.answers[greeting.removesuffix(" ready\n")] += 1

        self._start(load, self._paced(load, rate, one))
        return load

    def grpc(self, name: str, address: str, port: int, *, rate: float = 20.0) -> Load:
        """One long bidirectional stream with `rate` messages a second; a stream that breaks is one failure, and is opened again."""
        load = Load(name)
        self._start(load, self._streams(load, f"{address}:{port}", rate))
        return load

    def calls(self, name: str, address: str, port: int, *, rate: float = 20.0) -> Load:
        """`rate` short gRPC streams a second on one channel, each of which sends one message, gets its answer and ends."""
        load = Load(name)
        self._start(load, self._short_streams(load, f"{address}:{port}", rate))
        return load

    def held(self, name: str, address: str, port: int, *, rate: float = 10.0) -> Load:
        """One long TCP connection with `rate` lines echoed a second; one that breaks is one failure, and is opened again."""
        load = Load(name)
        self._start(load, self._connections(load, address, port, rate))
        return load

    def _start(self, load: Load, work: Any) -> None:
        self.loads.append(load)
        self._tasks.add(asyncio.create_task(work, name=load.name))

    async def _paced(self, load: Load, rate: float, one: Callable[[], Awaitable[None]]) -> None:
        async def counted(sent: float) -> None:
            try:
                await one()
                load.ok += 1
            except TimeoutError:
                load.failures.append((sent, f"no complete answer within {TIMEOUT:.0f} s"))
            except (OSError, Failed, ValueError, KeyError) as error:
                load.failures.append((sent, f"{type(error).__name__}: {error}"))
            finally:
                load.in_flight -= 1

        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                now = time.monotonic()
                if now < due:
                    await asyncio.sleep(due - now)
                    continue
                due += 1 / rate
                load.sent += 1
                if load.in_flight >= IN_FLIGHT:
                    load.failures.append((now, f"{IN_FLIGHT} requests were waiting already"))
                    continue
                load.in_flight += 1
                group.create_task(counted(now))

    async def _short_streams(self, load: Load, target: str, rate: float) -> None:
        import grpc.aio

        async with grpc.aio.insecure_channel(target, options=_SOON_AGAIN) as channel:
            watch: Any = channel.stream_stream("/demo.Quotes/Watch")

            async def one() -> None:
                call: Any = watch(iter([b"1"]), timeout=TIMEOUT)
                try:
                    answers = [answer async for answer in call]
                except grpc.aio.AioRpcError as error:
                    raise Failed(f"{error.code().name}: {error.details()}") from error
                if len(answers) != 1:
                    raise Failed(f"{len(answers)} answers to one message")
                load.answers[answers[0].split(b" ")[0].decode()] += 1

            await self._paced(load, rate, one)

    async def _connections(self, load: Load, address: str, port: int, rate: float) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT):
                    reader, writer = await asyncio.open_connection(address, port)
            except OSError as error:  # TimeoutError is one
                load.failures.append((time.monotonic(), f"not connected: {error}"))
                await asyncio.sleep(0.1)
                continue
            try:
                async with asyncio.timeout(TIMEOUT):
                    greeting = await reader.readline()
                while greeting:
                    load.sent += 1
                    writer.write(b"%d\n" % load.sent)
                    async with asyncio.timeout(TIMEOUT):
                        if await reader.readline() != b"%d\n" % load.sent:
                            break
                    load.ok += 1
                    load.answers[greeting.removesuffix(b" ready\n").decode()] += 1
                    await asyncio.sleep(1 / rate)
                load.failures.append((time.monotonic(), "connection broke: it was ended"))
            except OSError as error:
                load.failures.append((time.monotonic(), f"connection broke: {error or type(error).__name__}"))
            finally:
                writer.close()
            await asyncio.sleep(0.1)

    async def _streams(self, load: Load, target: str, rate: float) -> None:
        import grpc.aio

        async def messages() -> AsyncIterator[bytes]:
            while True:
                load.sent += 1
                yield b"%d" % load.sent
                await asyncio.sleep(1 / rate)

        while True:
            async with grpc.aio.insecure_channel(target, options=_SOON_AGAIN) as channel:
                call: Any = channel.stream_stream("/demo.Quotes/Watch")(messages())  # type: ignore[arg-type]
                try:
                    async for answer in call:
                        load.ok += 1
                        load.answers[answer.split(b" ")[0].decode()] += 1
                    load.failures.append((time.monotonic(), "the stream was ended"))
                except grpc.aio.AioRpcError as error:
                    load.failures.append((time.monotonic(), f"stream broke: {error.code().name}: {error.details()}"))
                finally:
                    call.cancel()
            await asyncio.sleep(0.1)


async def until(what: str, condition: Callable[[], Awaitable[Any]], seconds: float, every: float = 0.1) -> Any:
    """Polls until `condition` returns something true, and returns it; TimeoutError names `what` and the last error after `seconds`."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            last = await condition()
            if last:
                return last
        except (OSError, Failed, AssertionError, LookupError, ValueError, RuntimeError, TimeoutError) as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what} (last: {last!r})")
        await asyncio.sleep(every)
