"""Envoy's admin interface: what it answers, and what whoever runs as Envoy's user may answer in its place."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshagent.agent import admin
from meshagent.agent.admin import Held, ServerState

CERTIFICATE = {
    "serial_number": "0AFF",
    "expiration_time": "2030-01-01T00:00:00Z",
    "subject_alt_names": [{"dns": "web"}, {"uri": "spiffe://m/mesh/shop/virtualNode/web"}],
}
HELD = Held("0aff", 1893456000, ("spiffe://m/mesh/shop/virtualNode/web",))


@asynccontextmanager
async def answering(directory: Path, body: bytes) -> AsyncIterator[str]:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        writer.close()

    path = directory / "admin.sock"
    async with await asyncio.start_unix_server(speak, path):
        yield str(path)


def chained(certificate: Any) -> dict[str, Any]:
    return {"certificates": [{"ca_cert": [], "cert_chain": [certificate]}]}


def test_the_leaves_that_envoy_holds_are_read() -> None:
    assert admin.parse_certificates(chained(CERTIFICATE)) == (HELD,)
    assert admin.parse_certificates({}) == ()


@pytest.mark.parametrize(
    "answer",
    [
        {"certificates": 5},
        {"certificates": [5, None, [], {}, {"cert_chain": 5}, {"cert_chain": {}}, {"cert_chain": []}]},
        *[chained(certificate) for certificate in (5, None, [], "x", {})],
        *[
            chained({**CERTIFICATE, "expiration_time": time})
            for time in ("soon", "", 5, None, "9999-99-99", "0001-01-01")
        ],
        *[chained({**CERTIFICATE, "subject_alt_names": names}) for names in (5, None, [5], [None])],
    ],
)
def test_forged_certificates_are_left_out(answer: dict[str, Any]) -> None:
    assert admin.parse_certificates(answer) == ()
    whole = {"certificates": [*chained(CERTIFICATE)["certificates"]]}
    if isinstance(answer["certificates"], list):
        whole["certificates"] += answer["certificates"]
        assert admin.parse_certificates(whole) == (HELD,)


def test_what_is_passed_on_is_text() -> None:
    forged = {**CERTIFICATE, "serial_number": "\ud800", "subject_alt_names": [{"uri": 5}]}
    assert admin.parse_certificates(chained(forged)) == (Held("", HELD.expires, ("5",)),)


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"version": "hash/1.40.0/Clean/RELEASE/BoringSSL", "state": "LIVE"}', ServerState("LIVE", "1.40.0")),
        (b'{"version": "a/\\ud800/b", "state": "\\udfff"}', ServerState("", "")),
        (json.dumps({"version": "a/" + "x" * 5000, "state": [1]}).encode(), ServerState("", "")),
        (b"[" * 100_000, None),
        (b'{"state": ' + b"9" * 5000 + b"}", None),
        (b"\xff", None),
        (b"[]", None),
    ],
)
async def test_a_forged_answer_is_no_state(run_dir: Path, body: bytes, state: ServerState | None) -> None:
    async with answering(run_dir, body) as socket:
        assert await admin.server_state(socket) == state


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b"3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b"3\r\nab", None),
        (b"3\r\nabc\r\n", None),
        (b"-2\r\n" * (1 << 16), None),
        (b"1\r\nx\r\n" * (1 << 18), None),
    ],
)
def test_chunks_are_put_together_in_no_time(body: bytes, whole: bytes | None) -> None:
    began = time.monotonic()
    assert admin.body_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body) == whole
    assert time.monotonic() - began < 3
