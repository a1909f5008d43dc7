"""Probes of the application behind a placement: is it there, does it answer.

The centre is pure: counts in, a verdict out. Around it, one small check per protocol and a loop per port. `http2` asks for an HTTP/2
preface's answer and `grpc` for grpc.health.v1; an HTTP answer from 200 to 399 is a healthy one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

import grpc

JITTER = 0.1
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # and empty SETTINGS
_HTTP2_SETTINGS = 4
_FRAME_HEADER = 9
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?![^ \r\n])")


class Verdict(Enum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class Counts:
    """What the probes of one port have shown so far. `words` are of the last failure."""

    verdict: Verdict = Verdict.UNKNOWN
    successes: int = 0
    failures: int = 0
    words: str = ""


@dataclass(frozen=True)
class Target:
    address: str
    port: int
    protocol: str = "tcp"
    path: str = "/"
    interval: float = 1.0
    timeout: float = 1.0
    healthy: int = 2
    unhealthy: int = 2
    mark: int = 0  # what its sockets are marked with, where Envoy would get the connection otherwise
    unit: str = ""  # a systemd service that must be active
    command: tuple[str, ...] = ()  # that must succeed
    placement: str = ""  # whose command it is

    @property
    def name(self) -> str:
        if self.unit:
            return self.unit
        return self.command[0] if self.command else f"port {self.port}"


Check = Callable[[Target], Awaitable[str]]
"""One probe: "" when it is well, else what is wrong."""


def after(counts: Counts, failure: str, target: Target) -> Counts:
    """The counts after one more probe; `failure` is "" for a good one. The first success of all counts at once."""
    if not failure:
        counts = replace(counts, successes=counts.successes + 1, failures=0)
        if counts.verdict is Verdict.UNKNOWN or counts.successes >= target.healthy:
            return replace(counts, verdict=Verdict.HEALTHY, words="")
        return counts
    counts = replace(counts, failures=counts.failures + 1, successes=0, words=f"{target.name}: {failure}")
    return replace(counts, verdict=Verdict.UNHEALTHY) if counts.failures >= target.unhealthy else counts


def together(counts: Iterable[Counts]) -> tuple[Verdict, str]:
    """A placement's verdict from its ports': all must be healthy; one unhealthy decides. Without a port to probe it is healthy."""
    every = tuple(counts)
    unhealthy = [one.words for one in every if one.verdict is Verdict.UNHEALTHY]
    if unhealthy:
        return Verdict.UNHEALTHY, "; ".join(unhealthy)
    if all(one.verdict is Verdict.HEALTHY for one in every):
        return Verdict.HEALTHY, ""
    return Verdict.UNKNOWN, "; ".join(one.words for one in every if one.words)


async def watch(target: Target, report: Callable[[Counts], None], probe: Check) -> None:
    """Probes for ever, and reports each time the counts say something new."""
    counts = Counts()
    while True:
        later = after(counts, await probe(target), target)
        if (later.verdict, later.words) != (counts.verdict, counts.words):
            report(later)
        counts = later
        # Jitter keeps the probes of many placements apart. A verdict in the making is not waited for longer than needed.
        await asyncio.sleep(target.interval * (1 + JITTER * (random.random() - 0.5)))  # noqa: S311


async def check(target: Target) -> str:
    """A probe over the network."""
    try:
        async with asyncio.timeout(target.timeout):
            return await _CHECKS[target.protocol](target)
    except TimeoutError:
        return f"no answer within {target.timeout:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


async def _connected(
    target: Target, speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]
) -> str:
    reader, writer = await asyncio.open_connection(sock=await _socket(target), limit=1 << 16)
    try:
        return await speak(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _socket(target: Target) -> socket.socket:
    """Connected to the target."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if target.mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, target.mark)
        await asyncio.get_running_loop().sock_connect(sock, (target.address, target.port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _tcp(target: Target) -> str:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        return ""

    return await _connected(target, speak)


async def _http(target: Target) -> str:
    host = f"[{target.address}]" if ":" in target.address else target.address

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        request = f"GET {target.path} HTTP/1.1\r\nhost: {host}:{target.port}\r\nuser-agent: meshagent-probe\r\nconnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        try:
            found = _STATUS_LINE.match(await reader.readline())
        except ValueError:
            found = None  # no line end within the limit
        if found is None:
            return "no HTTP answer"
        status = int(found[1])
        return "" if 200 <= status < 400 else f"HTTP status {status} for {target.path}"

    return await _connected(target, speak)


async def _http2(target: Target) -> str:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(_HTTP2_PREFACE)
        await writer.drain()
        try:
            header = await reader.readexactly(_FRAME_HEADER)
        except asyncio.IncompleteReadError:
            return "closed without an HTTP/2 preface"
        return "" if header[3] == _HTTP2_SETTINGS else "no HTTP/2 preface in the answer"

    return await _connected(target, speak)


async def _grpc(target: Target) -> str:
    host = f"[{target.address}]" if ":" in target.address else target.address
    async with _marked_way(target) if target.mark else contextlib.nullcontext(f"{host}:{target.port}") as address:
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.default_authority", f"{host}:{target.port}"),
        ]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call = channel.unary_unary(_HEALTH_CHECK, request_serializer=bytes, response_deserializer=bytes)
            answer = await call(b"", timeout=target.timeout, wait_for_ready=False)
    return "" if answer == _SERVING else "grpc.health.v1 does not say SERVING"


@contextlib.asynccontextmanager
async def _marked_way(target: Target) -> AsyncIterator[str]:
    """Where gRPC, which cannot mark its sockets, gets a connection to the target that is marked: a socket of our own in between."""
    # From here on the socket is its transport's: nobody else closes it.
    there, onward = await asyncio.open_connection(sock=await _socket(target))

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pumps = [asyncio.create_task(_pump(reader, onward)), asyncio.create_task(_pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            onward.close()
            writer.close()

    try:
        with tempfile.TemporaryDirectory(prefix="meshagent-") as directory:
            path = f"{directory}/probe"
            server = await asyncio.start_unix_server(between, path)
            try:
                yield f"unix:{path}"
            finally:
                server.close()
    finally:
        onward.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


_CHECKS: dict[str, Callable[[Target], Awaitable[str]]] = {"tcp": _tcp, "http": _http, "http2": _http2, "grpc": _grpc}
