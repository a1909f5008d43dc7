"""The agent's local interface: HTTP with JSON answers, on a unix socket that only root may open, and for GET alone on loopback.

What can be asked is a table: (method, path pattern) -> Route. Everything is bounded (connections, sizes, time), and one request is one
connection, which keeps the whole of it small: an HTTP framework would cost more memory than the rest of the agent's own code. What the
routes mean is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from meshagent.errors import MeshagentError
from meshagent.host.files import make_directory

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
# A stop holds one of the socket for as long as it drains, and a host may stop 64 proxies at once.
SOCKET_CONNECTIONS, LOOPBACK_CONNECTIONS = 128, 16
HEAD_BYTES, BODY_BYTES = 8 << 10, 64 << 10
HEAD_SECONDS = 5.0
_AGAIN = 5.0
_LINGER = 0.5
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.[01]")


class LocalError(MeshagentError):
    """What a route answers a request with that it cannot serve: a status and a sentence."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Request:
    """`parameters` are the pattern's, `body` is the JSON document that came with it, None without one."""

    method: str
    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Route:
    """Answers with what becomes JSON; raises LocalError (any other MeshagentError is a 500 with its words). It has `seconds` for that."""

    answer: Callable[[Request], Awaitable[Any]]
    seconds: float = 10.0


Routes = Mapping[tuple[str, str], Route]
"""(method, pattern) -> route. A pattern is a path such as /proxies/{id}/stop; a word in braces stands for one part of it."""


def find(routes: Routes, method: str, target: str) -> tuple[Route, Request]:
    """Raises LocalError: 404 for a path that nothing answers, 405 for one that another method would be right for."""
    path, _, query = target.partition("?")
    others = []
    for (routed, pattern), route in routes.items():
        parameters = _match(pattern, path)
        if parameters is not None and routed == method:
            return route, Request(method, path, parameters, dict(parse_qsl(query, keep_blank_values=True)))
        if parameters is not None:
            others.append(routed)
    if others:
        raise LocalError(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} {path}: takes {', '.join(others)}")
    known = ", ".join(f"{method} {pattern}" for method, pattern in routes)
    raise LocalError(HTTPStatus.NOT_FOUND, f"{path}: nothing is there; there are {known}")


def _match(pattern: str, path: str) -> dict[str, str] | None:
    wanted, found = pattern.split("/"), path.split("/")
    if len(wanted) != len(found):
        return None
    parameters = {}
    for word, part in zip(wanted, found, strict=True):
        if word.startswith("{"):
            parameters[word.strip("{}")] = unquote(part)
        elif word != part:
            return None
    return parameters


@dataclass
class _Listener:
    """What can be asked there, whether `anybody` may ask, and at most how many at once."""

    routes: Routes
    anybody: bool
    limit: int
    connections: int = 0


class Local:
    """Serves the table. `loopback` is an address and port that answers GETs without asking who asks; None: the socket alone. Neither's
    connections count against the other's."""

    def __init__(self, routes: Routes, runtime_directory: Path, loopback: tuple[str, int] | None = None) -> None:
        readable = {key: route for key, route in routes.items() if key[0] == "GET"}
        self._on_socket = _Listener(routes, False, SOCKET_CONNECTIONS)
        self._on_loopback = _Listener(readable, True, LOOPBACK_CONNECTIONS)
        self._path = runtime_directory / SOCKET
        self._loopback = loopback

    async def run(self) -> None:
        """For ever. A socket that cannot be had is tried again: the agent goes on without."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(f"{self._path}", self._unix))
            if self._loopback is not None:
                address, port = self._loopback
                group.create_task(self._serve(f"{address}:{port}", self._tcp))

    async def _serve(self, where: str, listen: Callable[[], contextlib.AbstractAsyncContextManager[None]]) -> None:
        told = ""
        while True:
            try:
                async with listen():
                    log.debug("answering on %s", where)
                    await asyncio.get_running_loop().create_future()
            except (OSError, MeshagentError) as error:
                words = f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}"
                if words != told:
                    log.error("%s; the agent goes on without", words)
                told = words
            await asyncio.sleep(_AGAIN)

    @contextlib.asynccontextmanager
    async def _unix(self) -> AsyncIterator[None]:
        make_directory_if_missing(self._path.parent)
        sock = private_socket(self._path)
        server = await asyncio.start_unix_server(partial(self._client, self._on_socket), sock=sock, limit=HEAD_BYTES)
        try:
            yield
        finally:
            server.close()

    @contextlib.asynccontextmanager
    async def _tcp(self) -> AsyncIterator[None]:
        assert self._loopback is not None
        server = await asyncio.start_server(partial(self._client, self._on_loopback), *self._loopback, limit=HEAD_BYTES)
        try:
            yield
        finally:
            server.close()

    async def _client(self, listener: _Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.connections += 1
        try:
            if listener.connections > listener.limit:
                status, answer = HTTPStatus.SERVICE_UNAVAILABLE, _words(f"{listener.limit} requests are being answered")
            else:
                status, answer = await self._answer(reader, listener)
            writer.write(response(status, answer))
            async with asyncio.timeout(HEAD_SECONDS):
                await writer.drain()
            if status is not HTTPStatus.OK:
                await _let_go(reader, writer)
        except (OSError, TimeoutError):
            pass  # whoever asked is gone, or reads nothing
        except asyncio.CancelledError:
            return  # the agent ends; the task is this connection's alone, and asyncio would print it
        finally:
            listener.connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, listener: _Listener) -> tuple[HTTPStatus, Any]:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                method, target, body = await _read(reader, anybody=listener.anybody)
            route, request = find(listener.routes, method, target)
            async with asyncio.timeout(route.seconds):
                return HTTPStatus.OK, await route.answer(replace(request, body=body))
        except LocalError as error:
            return error.status, _words(str(error))
        except MeshagentError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, _words(str(error))
        except TimeoutError:
            return HTTPStatus.GATEWAY_TIMEOUT, _words("it took too long")


async def _let_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closing on what was not read resets the connection, and the answer may be lost with it."""
    writer.write_eof()
    async with asyncio.timeout(_LINGER):
        while await reader.read(HEAD_BYTES):
            pass


def _words(text: str) -> dict[str, str]:
    return {"error": text}


async def _read(reader: asyncio.StreamReader, *, anybody: bool) -> tuple[str, str, Any]:
    """Method, target and body of one request."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise LocalError(HTTPStatus.BAD_REQUEST, f"no HTTP request of at most {HEAD_BYTES} bytes") from None
    line, *rest = head.strip().split("\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise LocalError(HTTPStatus.BAD_REQUEST, "not an HTTP/1.1 request with a path")
    headers = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
    if anybody and not _is_this_host(headers.get("host", "")):
        raise LocalError(HTTPStatus.FORBIDDEN, "ask by a loopback address")
    if "transfer-encoding" in headers:
        raise LocalError(HTTPStatus.LENGTH_REQUIRED, "send a content-length")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > BODY_BYTES:
        raise LocalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {BODY_BYTES} bytes")
    try:
        content = await reader.readexactly(int(length))
        return found[1], found[2], json.loads(content) if content else None
    except (asyncio.IncompleteReadError, ValueError, RecursionError):
        raise LocalError(HTTPStatus.BAD_REQUEST, "the body is no JSON document") from None


def _is_this_host(host: str) -> bool:
    """False for a name: a page in somebody's browser whose name was made to point to loopback must not read the answers."""
    address = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if address in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def response(status: HTTPStatus, answer: Any) -> bytes:
    body = json.dumps(answer, indent=1).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


def make_directory_if_missing(path: Path) -> None:
    """Its mode is others' to say."""
    if not path.is_dir():
        make_directory(path)


def private_socket(path: Path) -> socket.socket:
    """A bound unix socket that only this user may open, from its first moment on: it takes its name when its mode is set."""
    temporary = path.with_name(f".{path.name}.new")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        temporary.unlink(missing_ok=True)
        sock.bind(str(temporary))
        temporary.chmod(0o600)
        os.replace(temporary, path)  # noqa: PTH105 - Path.rename says less of what is there already
    except OSError:
        sock.close()
        raise
    return sock
