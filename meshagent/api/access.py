"""Who may call the API: every request is signed by an access key, but for the few paths that are named unsigned.

A pure ASGI middleware: it reads the body (bounded in size and time), checks the signature, puts the
key's id into scope["state"]["access_key"] and the region that the client names into scope["state"]["region"], and hands
the request on with its body. It must not know what is called.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Collection
from urllib.parse import quote_from_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshagent.api import sigv4
from meshagent.api.sigv4 import AccessKey

BODY_LIMIT = 1 << 20
# Whole meshes at once: some 20,000 documents. What anybody may send, unsigned, is small.
BODY_LIMITS = {"/v1/apply": 16 << 20, "/v1/join": 64 << 10, "/v1/bundle": 1 << 10}
# So much of a body that is too large is read and dropped: a client that is still sending hears a reset, not a refusal.
DROPPED = 64 << 20
BODY_SECONDS = 30.0

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

log = logging.getLogger(__name__)


class _TooLarge(Exception):
    pass


class _ClientGone(Exception):
    pass


def new_access_key() -> AccessKey:
    """An id of the length of AWS's, recognisable as ours, and a secret of 240 random bits."""
    return AccessKey("MAK" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(17)), secrets.token_urlsafe(30))


class AccessKeys:
    """`lookup` gives an access key's secret, or None; it is called on the event loop and must not block."""

    def __init__(
        self,
        app: ASGIApp,
        lookup: Callable[[str], str | None],
        unsigned: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._lookup = lookup
        self._unsigned = frozenset(unsigned)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is nothing here for websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        limit = BODY_LIMITS.get(scope["path"], BODY_LIMIT)
        signed = scope["path"] not in self._unsigned
        claimed = sigv4.claimed_key(_request(scope, b"")) if signed else ""
        known = not signed or self._lookup(claimed) is not None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                # Of a stranger's body nothing is kept: thousands of them at once would be all of the memory.
                body = await _body(receive, limit, keep=known)
        except _TooLarge:
            await _refuse(
                send, 413, "RequestEntityTooLargeException", f"a request's body must be at most {limit} bytes"
            )
            return
        except TimeoutError:
            await _refuse(send, 408, "RequestTimeout", f"the body must arrive within {BODY_SECONDS:g} s")
            return
        except _ClientGone:
            return
        if signed:
            try:
                if claimed and not known:
                    raise sigv4.unknown_key()
                request = _request(scope, body)
                key = sigv4.verify(request, self._lookup, self._clock())
            except sigv4.SignatureRefused as error:
                log.warning("%s %s from %s refused: %s", scope["method"], scope["path"], _peer(scope), error)
                await _refuse(send, error.status, error.code, str(error))
                return
            scope.setdefault("state", {}).update(access_key=key, region=sigv4.region_of(request))
        await self._app(scope, _replay(body, receive), send)


def _request(scope: Scope, body: bytes) -> sigv4.Request:
    raw_path = scope.get("raw_path") or quote_from_bytes(scope["path"].encode(), safe="/").encode()
    return sigv4.Request(
        scope["method"],
        raw_path.decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        body,
    )


async def _body(receive: Receive, limit: int, keep: bool = True) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            parts.clear()
        elif keep:
            parts.append(part)
        if size > DROPPED:
            raise _TooLarge
        if not message.get("more_body", False):
            if size > limit:
                raise _TooLarge
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the whole body once, and after that what really comes: the client's going away."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _peer(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "?"


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"message": message, "code": code}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-errortype", code.encode()),
    ]
    if status in (408, 413):  # the rest of the body is not read: this connection is done
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
