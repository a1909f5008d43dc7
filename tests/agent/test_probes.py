"""Probes: the counts, and each protocol against something that speaks it, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from meshagent.agent import probes
from meshagent.agent.probes import Counts, Target, Verdict, after, check, together, watch

TARGET = Target("127.0.0.1", 1, healthy=2, unhealthy=3)


def run(pattern: str, target: Target = TARGET) -> str:
    """One letter per probe: h when the verdict after it is healthy, u when unhealthy, ? while unknown."""
    counts, verdicts = Counts(), ""
    for letter in pattern:
        counts = after(counts, "" if letter == "+" else "refused", target)
        verdicts += {Verdict.HEALTHY: "h", Verdict.UNHEALTHY: "u", Verdict.UNKNOWN: "?"}[counts.verdict]
    return verdicts


@pytest.mark.parametrize(
    ("probes", "verdicts"),
    [
        ("+", "h"),  # the first success counts at once
        ("---", "??u"),
        ("--+", "??h"),
        ("+--+---", "hhhhhhu"),
        ("+---+-++", "hhhuuuuh"),
    ],
)
def test_thresholds(probes: str, verdicts: str) -> None:
    assert run(probes) == verdicts


def test_all_ports_must_be_healthy() -> None:
    good, bad = Counts(Verdict.HEALTHY), Counts(Verdict.UNHEALTHY, words="port 1: refused")
    assert together([]) == (Verdict.HEALTHY, "")
    assert together([good, good]) == (Verdict.HEALTHY, "")
    assert together([good, bad]) == (Verdict.UNHEALTHY, "port 1: refused")
    assert together([good, Counts()]) == (Verdict.UNKNOWN, "")
    assert together([bad, Counts()])[0] is Verdict.UNHEALTHY


Serve = Callable[[bytes, bool], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server on loopback that answers whatever it is asked with these bytes (None: with nothing at all)."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(answer: bytes, silent: bool = False) -> int:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            if silent:
                return
            await reader.read(100)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for writer in writers:
        writer.close()
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("protocol", "answer", "words"),
    [
        ("tcp", b"", ""),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n", ""),
        ("http", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("http", b"HTTP/1.1 500 Oops\r\n\r\n", "HTTP status 500 for /ping"),
        ("http", b"HTTP/1.1 404\r\n\r\n", "HTTP status 404 for /ping"),
        ("http", b"SSH-2.0\r\n", "no HTTP answer"),
        ("http", b"HTTP/1.1 20\xb2 OK\r\n\r\n", "no HTTP answer"),
        ("http", b"HTTP/1.1 \xb2\r\n\r\n", "no HTTP answer"),
        ("http", b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP answer"),
        ("http", b"", "no HTTP answer"),
        ("http2", b"\0\0\0\x04\0\0\0\0\0", ""),
        ("http2", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no HTTP/2 preface in the answer"),
        ("http2", b"", "closed without an HTTP/2 preface"),
    ],
)
async def test_each_protocol_against_an_answer(serve: Serve, protocol: str, answer: bytes, words: str) -> None:
    port = await serve(answer, False)
    assert await check(Target("127.0.0.1", port, protocol, "/ping")) == words


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc"])
async def test_d1_one_that_hangs_is_unwell(serve: Serve, protocol: str) -> None:
    port = await serve(b"", True)
    words = await check(Target("127.0.0.1", port, protocol, timeout=0.2))
    assert "no answer within 0.2 s" in words or "DEADLINE_EXCEEDED" in words


@pytest.mark.parametrize("protocol", ["tcp", "http", "http2", "grpc"])
async def test_d1_one_that_is_not_there_is_unwell(free_port: int, protocol: str) -> None:
    words = await check(Target("127.0.0.1", free_port, protocol))
    assert "refused" in words.lower() or "connect call failed" in words.lower()


@pytest.mark.parametrize(("status", "words"), [(b"\x08\x01", ""), (b"\x08\x02", "does not say SERVING")])
async def test_grpc_health(status: bytes, words: str) -> None:
    async def answer(request: bytes, context: object) -> bytes:
        return status

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)  # type: ignore[arg-type]
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        told = await check(Target("127.0.0.1", port, "grpc"))
        assert told == words or words in told
    finally:
        await server.stop(None)


async def test_a_socket_that_carries_a_probe_past_envoy_is_let_go_before_its_descriptor_is_used_again() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
        async with probes._marked_way(target) as way:
            reader, writer = await asyncio.open_unix_connection(way.removeprefix("unix:"))
            writer.write(b"here")
            assert await reader.readexactly(4) == b"here"
        for _ in range(3):  # the lowest descriptors that are free
            assert await check(target) == ""
        assert await asyncio.wait_for(reader.read(), 5) == b"", "both ends are let go"
        writer.close()


async def test_changes_are_reported_and_repetitions_are_not(serve: Serve) -> None:
    port = await serve(b"HTTP/1.1 200 OK\r\n\r\n", False)
    reports: asyncio.Queue[Counts] = asyncio.Queue()
    target = Target("127.0.0.1", port, "http", interval=0.02, timeout=0.5, unhealthy=1)
    task = asyncio.create_task(watch(target, reports.put_nowait, check))
    try:
        async with asyncio.timeout(10):
            assert (await reports.get()).verdict is Verdict.HEALTHY
        await asyncio.sleep(0.1)
        assert reports.empty()
    finally:
        task.cancel()
