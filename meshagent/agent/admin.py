"""Envoy's admin interface over its unix socket: is it live, which certificates does it really hold, drain now.

Every call is one connection, short, with a timeout. An Envoy that does not answer is an answer too: None. HTTP is spoken by hand, which
takes a screen of code and spares every agent the memory of a client library and its threads. Who answers is no more trusted than Envoy's
user is: any bytes may come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

TIMEOUT = 1.0
OK, READY = (b"200",), (b"200", b"503")  # 503: it says which state it is in instead of LIVE
_MAX_BYTES = 4 << 20
_STATE = re.compile(rb"([A-Z_]+)\n?$")
_WORD = re.compile(r"[!-~]{1,64}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True)
class Held:
    """A certificate as Envoy holds it. `expires` in Unix seconds, `serial` in lower-case hex."""

    serial: str
    expires: int
    uris: tuple[str, ...]


@dataclass(frozen=True)
class ServerState:
    state: str  # LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING
    version: str


async def server_state(admin_socket: str, version: str = "") -> ServerState | None:
    """With `version`, where this process's is known already, Envoy is asked for its state alone: a word instead of a document."""
    if version:
        content = await _exchange("GET", admin_socket, "/ready")
        state = _STATE.match(body_of(content, READY) or b"") if content else None
        return ServerState(state[1].decode(), version) if state else None
    answer = await _json(admin_socket, "/server_info")
    if answer is None:
        return None
    # HASH/1.40.0/Clean/RELEASE/BoringSSL
    parts = str(answer.get("version", "")).split("/")
    return ServerState(_word(answer.get("state")), _word(parts[1]) if len(parts) > 1 else "")


async def certificates(admin_socket: str) -> tuple[Held, ...] | None:
    """The leaves that Envoy itself presents, none perhaps; None when it does not answer."""
    answer = await _json(admin_socket, "/certs")
    return None if answer is None else parse_certificates(answer)


def parse_certificates(answer: dict[str, Any]) -> tuple[Held, ...]:
    """From /certs' JSON. What is no certificate as Envoy writes one is left out."""
    entries = answer.get("certificates")
    held = []
    for entry in entries if isinstance(entries, list) else ():
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError):
            held.append(_held(entry["cert_chain"][0]))
    return tuple(held)


def _held(certificate: dict[str, Any]) -> Held:
    return Held(
        serial=_word(certificate.get("serial_number")).lower(),
        expires=int(datetime.fromisoformat(certificate["expiration_time"]).timestamp()),
        uris=tuple(str(name["uri"]) for name in certificate.get("subject_alt_names", ()) if "uri" in name),
    )


def _word(value: Any) -> str:
    """ "" for what is none: words are passed on, and not all that a JSON string can hold is text."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


async def drain(admin_socket: str) -> bool:
    """Begins the graceful drain of all listeners; False when Envoy did not take it."""
    return await _call("POST", admin_socket, "/drain_listeners?graceful") is not None


async def text(admin_socket: str, path: str) -> str | None:
    """Any of Envoy's admin pages, as it is."""
    body = await _call("GET", admin_socket, path)
    return None if body is None else body.decode(errors="replace")


async def _json(admin_socket: str, path: str) -> dict[str, Any] | None:
    body = await _call("GET", admin_socket, path)
    if body is None:
        return None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


async def _call(method: str, admin_socket: str, path: str) -> bytes | None:
    content = await _exchange(method, admin_socket, path)
    return None if content is None else body_of(content)


async def _exchange(method: str, admin_socket: str, path: str) -> bytes | None:
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(admin_socket)
            try:
                writer.write(f"{method} {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n".encode())
                await writer.drain()
                content = bytearray()
                while chunk := await reader.read(1 << 16):
                    content += chunk
                    if len(content) > _MAX_BYTES:
                        return None
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return bytes(content)


def body_of(content: bytes, statuses: Collection[bytes] = OK) -> bytes | None:
    """The body of a whole HTTP/1.1 answer with one of these statuses, whose end was the connection's; None for any other."""
    head, separator, body = content.partition(b"\r\n\r\n")
    status, *headers = head.lower().split(b"\r\n")
    if not separator or not set(status.split(b" ")[1:2]) & set(statuses):
        return None
    return _unchunked(body) if b"transfer-encoding: chunked" in headers else body


def _unchunked(body: bytes) -> bytes | None:
    whole, at = bytearray(), 0
    while chunk := _CHUNK.match(body, at):
        begin, length = chunk.end(), int(chunk[1], 16)
        if len(body) < begin + length:
            return None
        if length == 0:
            return bytes(whole)
        whole += body[begin : begin + length]
        at = begin + length + 2
    return None
