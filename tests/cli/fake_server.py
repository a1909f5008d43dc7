"""A small server with the shape of the operator's API: real sockets, TLS by a real authority, signatures checked; its answers are a
table that the test fills."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from meshagent.api import sigv4
from meshagent.api.access import new_access_key
from meshagent.identity import spiffe, x509

Answer = Callable[["Call"], tuple[int, Any]]


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    query: str
    body: Any


@dataclass
class FakeServer:
    url: str
    ca: Path
    access_key: Path
    calls: list[Call] = field(default_factory=list)
    # "METHOD /path" -> what to answer.
    answers: dict[str, Answer] = field(default_factory=dict)

    def answer(self, call: str, value: Any, status: int = 200) -> None:
        self.answers[call] = lambda _: (status, value)

    @property
    def options(self) -> list[str]:
        return ["--server", self.url, "--ca", str(self.ca), "--access-key", str(self.access_key)]


@contextlib.contextmanager
def serving(
    directory: Path, names: tuple[str, ...] = ("localhost",), addresses: tuple[str, ...] = ("127.0.0.1",)
) -> Iterator[FakeServer]:
    key = new_access_key()
    (directory / "access-key.json").write_text(json.dumps({"accessKeyId": key.id, "secretAccessKey": key.secret}))
    now = time.time()
    root = x509.new_root("mesh.local", now, 3600)
    between = x509.new_intermediate(root, "mesh.local", now, 3600)
    server_key = x509.new_key()
    chain = x509.new_leaf(
        between, x509.public_key_of(server_key), spiffe.server_id("mesh.local"), now, 600, names, addresses
    )
    (directory / "ca.pem").write_bytes(root.certificate_pem)
    (directory / "server.pem").write_bytes(server_key + chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "server.pem")

    class Requests(BaseHTTPRequestHandler):
        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            request = sigv4.Request(self.command, path, query, list(self.headers.items()), body)
            call = Call(self.command, path, query, json.loads(body) if body else None)
            try:
                sigv4.verify(request, {key.id: key.secret}.get, time.time())
                fake.calls.append(call)
                absent: Answer = lambda call: (404, {"message": f"no {call.path}"})  # noqa: E731
                status, answer = fake.answers.get(f"{self.command} {path}", absent)(call)
            except sigv4.SignatureRefused as error:
                status, answer = error.status, {"message": str(error), "code": error.code}
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake in the connection's own thread: a client that refuses it holds up nobody.
            with contextlib.suppress(OSError):
                request.settimeout(5)
                super().finish_request(tls.wrap_socket(request, server_side=True), client_address)

    with Server(("127.0.0.1", 0), Requests) as server:
        fake = FakeServer(
            f"https://127.0.0.1:{server.server_port}", directory / "ca.pem", directory / "access-key.json"
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join(10)
