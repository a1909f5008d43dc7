"""The local interface: who may ask, what is found, and that nobody can keep it busy."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from meshagent.agent import local
from meshagent.agent.local import Local, LocalError, Request, Route, Routes, find
from meshagent.errors import MeshagentError


async def told(request: Request) -> Any:
    return {
        "path": request.path,
        "parameters": dict(request.parameters),
        "query": dict(request.query),
        "body": request.body,
    }


async def refuse(request: Request) -> Any:
    raise LocalError(HTTPStatus.CONFLICT, "not now")


async def fail(request: Request) -> Any:
    raise MeshagentError("the disk is full")


async def hang(request: Request) -> Any:
    await asyncio.get_running_loop().create_future()


ROUTES: Routes = {
    ("GET", "/status"): Route(told),
    ("POST", "/proxies/{id}/stop"): Route(told),
    ("GET", "/refuse"): Route(refuse),
    ("GET", "/fail"): Route(fail),
    ("GET", "/hang"): Route(hang, seconds=0.05),
}


@asynccontextmanager
async def serving(directory: Path, port: int | None = None) -> AsyncIterator[Path]:
    task = asyncio.create_task(Local(ROUTES, directory, ("127.0.0.1", port) if port else None).run())
    path = directory / local.SOCKET
    try:
        async with asyncio.timeout(5):
            while not path.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield path
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def say(path: Path | int, content: bytes) -> tuple[int, Any]:
    for _ in range(200):
        try:
            streams = (
                await asyncio.open_connection("127.0.0.1", path)
                if isinstance(path, int)
                else await asyncio.open_unix_connection(str(path))
            )
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    reader, writer = streams
    try:
        writer.write(content)
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def request(line: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{line} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode() + body


@pytest.mark.parametrize(
    ("method", "target", "parameters"),
    [("GET", "/status", {}), ("GET", "/status?x=1", {}), ("POST", "/proxies/ab%2Fc/stop", {"id": "ab/c"})],
)
def test_a_request_finds_its_route(method: str, target: str, parameters: dict[str, str]) -> None:
    route, found = find(ROUTES, method, target)
    assert route is ROUTES[method, "/proxies/{id}/stop" if parameters else "/status"]
    assert found.parameters == parameters


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        ("GET", "/nowhere", 404, "there are GET /status, POST /proxies/{id}/stop"),
        ("GET", "/proxies/a/stop", 405, "takes POST"),
        ("GET", "/proxies/stop", 404, "nothing is there"),
    ],
)
def test_what_nothing_answers_says_what_would(method: str, target: str, status: int, words: str) -> None:
    with pytest.raises(LocalError, match=words.replace("{", r"\{")) as caught:
        find(ROUTES, method, target)
    assert caught.value.status == status


async def test_the_socket_is_roots_alone_and_is_replaced_at_each_start(run_dir: Path) -> None:
    for _ in range(2):  # the first one leaves its socket behind
        async with serving(run_dir) as path:
            await asyncio.sleep(0)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (await say(path, request("GET /status")))[0] == 200


async def test_answers_and_refusals_come_as_json(run_dir: Path) -> None:
    async with serving(run_dir) as path:
        assert await say(path, request("POST /proxies/ab/stop?wait=", b'{"limit": 5}')) == (
            200,
            {"path": "/proxies/ab/stop", "parameters": {"id": "ab"}, "query": {"wait": ""}, "body": {"limit": 5}},
        )
        assert await say(path, request("GET /refuse")) == (409, {"error": "not now"})
        assert await say(path, request("GET /fail")) == (500, {"error": "the disk is full"})
        assert (await say(path, request("GET /hang")))[0] == 504


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (64 << 10), 400),
        (b"hello\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\n\r\n", 404),
        (b"GET /status HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n", 413),
        (b"GET /status HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 413),
        (b"GET /status HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST /proxies/a/stop HTTP/1.1\r\ncontent-length: 3\r\n\r\n{{{", 400),
        (b"POST /proxies/a/stop HTTP/1.1\r\ncontent-length: 10000\r\n\r\n" + b"[" * 10000, 400),
    ],
)
async def test_what_is_no_good_request_is_turned_away(run_dir: Path, content: bytes, status: int) -> None:
    async with serving(run_dir) as path:
        assert (await say(path, content))[0] == status


async def test_whoever_says_nothing_holds_no_place_for_long(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "HEAD_SECONDS", 2.0)
    async with serving(run_dir) as path:
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(local.SOCKET_CONNECTIONS)]
        assert (await say(path, request("GET /status")))[0] == 503
        async with asyncio.timeout(20):
            while (await say(path, request("GET /status")))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for _, writer in silent:
            writer.close()


async def test_64_stops_are_answered_beside_a_busy_loopback(run_dir: Path, free_port: int) -> None:
    async with serving(run_dir, free_port) as path:
        assert (await say(free_port, request("GET /status", host="localhost")))[0] == 200
        silent = [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(local.LOOPBACK_CONNECTIONS)]
        stops = [await asyncio.open_unix_connection(str(path)) for _ in range(64)]
        assert (await say(free_port, request("GET /status", host="localhost")))[0] == 503
        assert (await say(path, request("POST /proxies/ab/stop")))[0] == 200
        for _, writer in (*silent, *stops):
            writer.close()


async def test_loopback_answers_gets_alone_and_by_its_address_alone(run_dir: Path, free_port: int) -> None:
    async with serving(run_dir, free_port):
        assert (await say(free_port, request("GET /status", host="127.0.0.1:9903")))[0] == 200
        assert (await say(free_port, request("GET /status", host="localhost")))[0] == 200
        assert (await say(free_port, request("GET /status", host="[::1]:9903")))[0] == 200
        assert (await say(free_port, request("GET /status", host="rebound.example")))[0] == 403
        assert (await say(free_port, request("POST /proxies/a/stop", host="localhost")))[0] == 404


async def test_a_port_that_is_taken_leaves_the_socket(run_dir: Path, free_port: int) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", free_port)
    async with taken, serving(run_dir, free_port) as path:
        assert (await say(path, request("GET /status")))[0] == 200
