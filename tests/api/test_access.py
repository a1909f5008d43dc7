"""The middleware that lets signed requests in, called as an ASGI server calls it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from meshagent.api import access, sigv4
from meshagent.api.access import AccessKeys

KEY = access.new_access_key()
NOW = 1_790_000_000.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = {**scope.get("state", {}), "body": message["body"].decode()}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def call(
    method: str = "POST",
    path: str = "/v1/apply",
    parts: Sequence[bytes] = (b"hello",),
    headers: Sequence[tuple[str, str]] | None = None,
    key: sigv4.AccessKey = KEY,
) -> Answer:
    body = b"".join(parts)
    given = [("host", "localhost")]
    if headers is None:
        given += sigv4.sign(sigv4.Request(method, path, "", given, body), key, "any", "appmesh", NOW).items()
    else:
        given += headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given],
        "client": ("127.0.0.1", 5),
    }
    incoming = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    known = {KEY.id: KEY.secret}
    await AccessKeys(echo, known.get, unsigned=["/v1/bundle"], clock=lambda: NOW)(scope, receive, send)
    start, end = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, json.loads(end["body"]))


async def test_signed_request_passes_with_its_body_and_key() -> None:
    answer = await call(parts=[b"he", b"llo"])
    assert (answer.status, answer.body) == (200, {"access_key": KEY.id, "region": "any", "body": "hello"})


async def test_unsigned_path_needs_no_signature() -> None:
    answer = await call("GET", "/v1/bundle", headers=[])
    assert (answer.status, answer.body) == (200, {"body": "hello"})


@pytest.mark.parametrize("path", ["/v1/bundle/", "/v1/bundle/../apply", "/v1//bundle", "/V1/bundle"])
async def test_what_only_looks_unsigned_does(path: str) -> None:
    assert (await call("GET", path, headers=[])).status == 403


async def test_refusals_have_app_mesh_s_form() -> None:
    answer = await call(headers=[])
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationToken")
    assert answer.body["code"] == "MissingAuthenticationToken"
    assert "not signed" in answer.body["message"]
    stranger = await call(key=access.new_access_key())
    assert (stranger.status, stranger.body["code"]) == (403, "UnrecognizedClientException")
    wrong = await call(key=sigv4.AccessKey(KEY.id, "another"))
    assert (wrong.status, wrong.body["code"]) == (403, "SignatureDoesNotMatch")


async def test_bodies_are_bounded() -> None:
    part = b"x" * 600_000
    refused = await call("PUT", "/v20190125/meshes", parts=[part, part])
    assert (refused.status, refused.body["code"]) == (413, "RequestEntityTooLargeException")
    assert (await call("POST", "/v1/apply", parts=[part, part])).status == 200
    endless = await call("POST", "/v1/apply", parts=[part] * 200)
    assert endless.status == 413


async def test_slow_bodies_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.01)
    sent: list[Any] = []

    async def never() -> Any:
        import asyncio

        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    await AccessKeys(echo, {}.get)(scope, never, send)
    assert sent[0]["status"] == 408


def test_access_keys_are_recognisable_and_differ() -> None:
    first, second = access.new_access_key(), access.new_access_key()
    assert first.id.startswith("MAK") and len(first.id) == 20
    assert first.id != second.id and first.secret != second.secret and len(first.secret) == 40


async def test_a_strangers_body_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    real = access._body

    async def spied(receive: Any, limit: int, keep: bool = True) -> bytes:
        body = await real(receive, limit, keep)
        kept.append(bool(body))
        return body

    monkeypatch.setattr(access, "_body", spied)
    stranger = await call(parts=[b"x" * 4096] * 8, key=access.new_access_key())
    assert stranger.body["message"] == "the access key that the request is signed with is not known to this server"
    assert (await call(headers=[("x-amz-date", "20260101T000000Z")])).status == 403
    assert kept == [False, False]
    assert (await call()).status == 200
    assert kept[-1]
