"""The client against real sockets: what it sends, and its words for whatever fails."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from meshagent.cli import client as client_module
from meshagent.cli.client import Client, ClientError, ServerRefused
from meshagent.identity import x509
from tests.cli.fake_server import FakeServer, serving


def client_of(fake: FakeServer, /, **changed: object) -> Client:
    given = {"server": fake.url, "ca": fake.ca, "access_key": fake.access_key, **changed}
    return Client(**given)  # type: ignore[arg-type]


def test_a_signed_request_and_its_answer(server: FakeServer) -> None:
    server.answers["POST /v1/apply"] = lambda call: (200, {"echo": call.body, "query": call.query})
    answer = client_of(server).request("POST", "/v1/apply?x=a%2Fb", {"a": "é"}, query={"name": "a b/c", "empty": ""})
    assert answer == {"echo": {"a": "é"}, "query": "x=a%2Fb&name=a%20b%2Fc&empty="}


def test_names_in_paths_and_queries_are_signed_as_sent(server: FakeServer) -> None:
    server.answer("GET /v1/hosts/a%2Fb%25", {"ok": True})
    assert client_of(server).request("GET", "/v1/hosts/a%2Fb%25", query={"é": "~'()*"}) == {"ok": True}


def test_a_refusal_carries_all_errors(server: FakeServer) -> None:
    fault = {"resource": "mesh/shop", "path": "spec.x", "message": "must not be", "file": "a.yaml", "line": 3}
    server.answer("POST /v1/apply", {"message": "refused", "code": "BadRequestException", "errors": [fault]}, 400)
    with pytest.raises(ServerRefused, match=r"a.yaml:3: mesh/shop: spec.x: must not be") as caught:
        client_of(server).request("POST", "/v1/apply", {})
    assert (caught.value.status, caught.value.code) == (400, "BadRequestException")


def test_wrong_secret_names_the_key_file(server: FakeServer, tmp_path: Path) -> None:
    fields = json.loads(server.access_key.read_text())
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({**fields, "secretAccessKey": "no"}))
    with pytest.raises(ServerRefused, match=r"secret access key.*wrong.json"):
        client_of(server, access_key=wrong).request("GET", "/v1/status")


def test_another_authority_names_the_ca_file(server: FakeServer, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(x509.new_root("mesh.local", time.time(), 60).certificate_pem)
    with pytest.raises(ClientError, match=r"not of the authority in .*other\.pem"):
        client_of(server, ca=other).request("GET", "/v1/status")


def test_another_name_says_advertise(tmp_path: Path) -> None:
    with (
        serving(tmp_path, names=("elsewhere",), addresses=()) as server,
        pytest.raises(ClientError, match=r"--advertise 127.0.0.1"),
    ):
        client_of(server).request("GET", "/v1/status")


def test_connection_refused_is_one_line(server: FakeServer, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_RETRIES", client_module._RETRIES.new(backoff_factor=0.01, backoff_jitter=0.01))
    with pytest.raises(ClientError, match=r"cannot be reached: Connection refused; is the server running") as caught:
        client_of(server, server=f"https://127.0.0.1:{free_port}").request("GET", "/v1/status")
    assert "\n" not in str(caught.value)


def test_a_server_that_comes_up_meanwhile_is_found(tmp_path: Path) -> None:
    """The connection is tried again: a server that restarts is not an error."""
    with serving(tmp_path) as server:
        server.answer("GET /v1/status", {"ok": True})
        real = int(server.url.rpartition(":")[2])
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        relay = threading.Timer(0.15, _relay, (port, real))
        relay.daemon = True
        relay.start()
        assert client_of(server, server=f"https://127.0.0.1:{port}").request("GET", "/v1/status") == {"ok": True}
        relay.join(10)


def _relay(port: int, real: int) -> None:
    """Passes one connection on, until both ends are done."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(10)
        down, _ = listener.accept()
        with down, socket.create_connection(("127.0.0.1", real)) as up:

            def copy(source: socket.socket, sink: socket.socket) -> None:
                try:
                    while piece := source.recv(65536):
                        sink.sendall(piece)
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            back = threading.Thread(target=copy, args=(up, down), daemon=True)
            back.start()
            copy(down, up)
            back.join(10)


def test_a_connection_that_breaks_is_not_tried_again(server: FakeServer) -> None:
    """Nobody knows what became of a request that was sent."""
    accepted = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def slam() -> None:
            nonlocal accepted
            try:
                while True:
                    connection, _ = listener.accept()
                    accepted += 1
                    connection.close()
            except OSError:
                pass

        thread = threading.Thread(target=slam, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ClientError, match=r"127\.0\.0\.1:\d+") as caught:
            client_of(server, server=url).request("POST", "/v1/apply", {})
        assert "\n" not in str(caught.value)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert accepted == 1


def test_slow_answers_end(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "READ_SECONDS", 0.05)
    done = threading.Event()
    server.answers["POST /v1/accept"] = lambda _: (200, done.wait(5))
    with pytest.raises(ClientError, match=r"did not answer within 0.05 s; whether .* is not known"):
        client_of(server).request("POST", "/v1/accept", {"all": True})
    done.set()


def test_what_is_no_json_is_said(server: FakeServer) -> None:
    server.answer("GET /v1/status", b"<html>")
    with pytest.raises(ClientError, match=r"not JSON"):
        client_of(server).request("GET", "/v1/status")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://", "https://a:b", "https://a/path", "ftp://x", ""])
def test_urls_that_are_none(server: FakeServer, url: str) -> None:
    with pytest.raises(ClientError, match=r"must be a URL such as"):
        client_of(server, server=url)


def test_files_that_are_not_right(server: FakeServer, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(ClientError, match=r"CA file .*absent: there is no such file"):
        client_of(server, ca=tmp_path / "absent")
    with pytest.raises(ClientError, match=r"CA file .*must hold certificates in PEM"):
        client_of(server, ca=empty)
    with pytest.raises(ClientError, match=r"access key file .*absent: No such file"):
        client_of(server, access_key=tmp_path / "absent")
    for content in ("", "[]", "{}", '{"accessKeyId": 1, "secretAccessKey": 2}', '"x"'):
        empty.write_text(content)
        with pytest.raises(ClientError, match=r"access key file .*must be JSON such as"):
            client_of(server, access_key=empty)
