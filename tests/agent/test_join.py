"""Joining, against a small server that speaks the two calls over TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from meshagent.agent import join as joining
from meshagent.agent.join import JoinError, JoinRefused, join
from meshagent.agent.membership import Joined, Membership, fingerprint, membership
from meshagent.agent.rejoin import RejoinError, rejoin
from meshagent.identity import tokens, x509
from meshagent.identity.errors import IdentityError
from tests.agent.authority import TRUST_DOMAIN, Authority

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None]


class Server:
    """`answer` gets a join's body; None from it closes the connection without a word. Requests are remembered by their keys."""

    def __init__(self, authority: Authority, tmp: Path, serving: Authority | None = None) -> None:
        self.authority = authority
        self.keys: list[str] = []
        self.answer: Answer = self.accept
        key, chain = (serving or authority).server()
        pem = tmp / f"server-{id(self)}.pem"
        pem.write_bytes(chain + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        outer = self

        class Requests(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"bundle": outer.authority.bundle.decode()})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.keys.append(x509.public_key_sha256(x509.requested_key(body["csr"].encode())))
                answer = outer.answer(body)
                if answer is not None:
                    self.reply(*answer)

            def reply(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http.server_port}"

    def accept(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {
            "chain": self.authority.sign(body["csr"].encode(), f"host/{body['host']}").decode(),
            "bundle": self.authority.bundle.decode(),
            "trustDomain": TRUST_DOMAIN,
            "servers": ["127.0.0.1:8444"],
            "serverName": f"server.{TRUST_DOMAIN}",
        }

    def token(self, *before: str) -> str:
        fingerprint = x509.root_sha256(self.authority.bundle)
        return tokens.encode(tokens.JoinToken((*before, self.address), fingerprint, "0" * 16, "secret"))

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(Authority(), tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(joining, "TIMEOUT", 2.0)


async def joined(directory: Path, token: str, attempts: int | None = 3) -> Membership:
    async with asyncio.timeout(20):
        return await join(directory, token, "web-1", attempts=attempts)


async def test_a_host_joins_once_and_remembers(tmp_path: Path, server: Server) -> None:
    token = server.token()
    made = await joined(tmp_path / "host", token)
    assert made.joined == Joined(
        "web-1", ("127.0.0.1:8444",), f"server.{TRUST_DOMAIN}", TRUST_DOMAIN, fingerprint(token)
    )
    assert str(made.identity.leaf.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/host/web-1"
    assert membership(tmp_path / "host") == made
    assert not (tmp_path / "host" / "pending-key.pem").exists()
    assert (tmp_path / "host" / "current" / "key.pem").stat().st_mode & 0o777 == 0o600


async def test_the_key_never_leaves_and_no_name_is_asked_for(tmp_path: Path, server: Server) -> None:
    bodies: list[dict[str, Any]] = []

    def look(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        bodies.append(body)
        return server.accept(body)

    server.answer = look
    await joined(tmp_path, server.token())
    assert set(bodies[0]) == {"token", "host", "csr"}
    assert "PRIVATE" not in json.dumps(bodies)


async def test_k6_a_lost_reply_is_asked_for_again_with_the_same_key(tmp_path: Path, server: Server) -> None:
    server.answer = lambda body: None  # the token is used, and the reply is lost
    with pytest.raises(JoinError):
        await joined(tmp_path, server.token(), attempts=1)
    assert (tmp_path / "pending-key.pem").stat().st_mode & 0o777 == 0o600
    server.answer = server.accept
    made = await joined(tmp_path, server.token())  # as a restarted agent would
    assert len(server.keys) == 2
    assert set(server.keys) == {made.identity.leaf.public_key_sha256}


async def test_another_token_gets_another_key(tmp_path: Path, server: Server) -> None:
    server.answer = lambda body: None
    with pytest.raises(JoinError):
        await joined(tmp_path, server.token(), attempts=1)
    server.answer = server.accept
    await joined(tmp_path, server.token("127.0.0.1:1"))
    assert len(set(server.keys)) == 2


async def test_a_used_token_is_an_error_that_says_what_to_do(tmp_path: Path, server: Server) -> None:
    words = "join token was already used, by host 'db-1': make one with `meshctl token create`"
    server.answer = lambda body: (403, {"message": words})
    with pytest.raises(JoinRefused, match=r"already used.*meshctl token create"):
        await joined(tmp_path, server.token())
    assert len(server.keys) == 1


async def test_every_address_is_tried(tmp_path: Path, server: Server, free_port: int) -> None:
    assert (await joined(tmp_path, server.token(f"127.0.0.1:{free_port}"), attempts=1)).joined.host == "web-1"


async def test_a_server_that_is_ill_is_asked_again(tmp_path: Path, server: Server) -> None:
    answers = iter([(503, {"message": "the store is away"}), (500, {})])
    server.answer = lambda body: next(answers, None) or server.accept(body)
    await joined(tmp_path, server.token(), attempts=None)
    assert len(server.keys) == 3


async def test_a_server_with_another_root_is_never_told_the_token(tmp_path: Path, server: Server) -> None:
    foreign = Server(Authority(), tmp_path)
    try:
        token = tokens.decode(server.token())
        swapped = tokens.encode(tokens.JoinToken((foreign.address,), token.root_sha256, token.id, token.secret))
        with pytest.raises(JoinError, match="none of the server's roots"):
            await joined(tmp_path / "host", swapped, attempts=1)
        assert foreign.keys == []
    finally:
        foreign.close()


async def test_one_in_the_middle_that_shows_the_right_root_is_never_told_the_token(tmp_path: Path) -> None:
    """It can pass the bundle on, but has no certificate of that root."""
    middle = Server(Authority(), tmp_path, serving=Authority())
    try:
        with pytest.raises(JoinError, match="its certificate is not this mesh's"):
            await joined(tmp_path / "host", middle.token(), attempts=1)
        assert middle.keys == []
    finally:
        middle.close()


async def test_an_answer_that_is_no_answer(tmp_path: Path, server: Server) -> None:
    server.answer = lambda body: (200, {"chain": "x"})
    with pytest.raises(JoinRefused, match="lacks"):
        await joined(tmp_path, server.token())


async def test_a_bad_token_is_named_without_asking_anybody(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="must begin with mj1"):
        await joined(tmp_path, "abc")


def test_half_a_membership_is_none(tmp_path: Path) -> None:
    assert membership(tmp_path) is None
    (tmp_path / "joined.json").write_text("{")
    assert membership(tmp_path) is None


async def test_a_host_joins_anew_in_a_process_of_its_own(tmp_path: Path, server: Server) -> None:
    member = await rejoin(tmp_path / "host", server.token(), "web-1", 1)
    assert member == membership(tmp_path / "host")
    assert member.joined.token == fingerprint(server.token())


async def test_why_it_did_not_join_anew_is_said(tmp_path: Path, server: Server) -> None:
    server.answer = lambda body: (403, {"message": "the token has expired"})
    with pytest.raises(RejoinError, match="refused the join of web-1: the token has expired"):
        await rejoin(tmp_path / "host", server.token(), "web-1", 1)
    assert membership(tmp_path / "host") is None
