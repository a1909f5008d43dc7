"""A real Envoy from a static configuration: route configurations as they are compiled, and backends that say which cluster they are."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from meshagent.envoy.filters import http_filter
from meshagent.envoy.memo import Digested
from meshagent.envoy.routes import UNREACHABLE
from meshagent.specs.fields import PortProtocol

DEADLINE = 15.0
Answered = tuple[int, dict[str, Any]]


class Backend(ThreadingHTTPServer):
    """Answers with its cluster's name and what it was asked; /r/ fails with 503 as often as the request's header says, by its id."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.name = name
        self.tries: Counter[str] = Counter()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for an acknowledgement
    server: Backend

    def do_GET(self) -> None:
        tries, status = 1, 200
        if self.path.startswith("/r/"):
            self.server.tries[self.path] += 1
            tries = self.server.tries[self.path]
            status = 503 if tries <= int(self.headers["fail"]) else 200
        if self.path.startswith("/slow"):
            time.sleep(1)  # the backend's slowness is what is tested
        body = json.dumps(
            {"cluster": self.server.name, "path": self.path, "host": self.headers["host"], "tries": tries}
        ).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)

    do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving(
    binary: Path, directory: Path, backends: Sequence[str], configs: Mapping[str, tuple[Any, Digested]]
) -> Iterator[Mapping[str, int]]:
    """Envoy and its backends, for as long as the block runs. `configs`: by name, what a listener routes by and how it logs; yields their
    ports."""
    *at, admin = ports(len(configs) + 1)
    where = dict(zip(configs, at, strict=True))
    bootstrap = {"admin": {"address": socket_address(admin)}}
    with answering(backends) as clusters:
        bootstrap["static_resources"] = {
            "listeners": [listener_of(where[name], routes, log) for name, (routes, log) in configs.items()],
            "clusters": [*clusters, cluster_of(UNREACHABLE, None)],
        }
        (directory / "envoy.json").write_text(json.dumps(bootstrap))
        command = [str(binary), "-c", str(directory / "envoy.json"), "--concurrency", "1", "--disable-hot-restart"]
        log = directory / "envoy.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-l", "warning", "--file-flush-interval-msec", "50"], stdout=output, stderr=output
            )
        try:
            ready(admin, process, log)
            yield where
        finally:
            process.terminate()
            process.wait(DEADLINE)


@contextmanager
def answering(names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Backends of these names; yields their clusters."""
    backends = [Backend(name) for name in names]
    threads = [threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.05}) for each in backends]
    for thread in threads:
        thread.start()
    try:
        yield [cluster_of(each.name, each.server_address[1]) for each in backends]
    finally:
        for backend in backends:
            backend.shutdown()
            backend.server_close()
        for thread in threads:
            thread.join(DEADLINE)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answered:
    """The status and what the backend said; {} when Envoy answered itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else {}


def listener_of(port: int, routes: Any, log: Digested) -> dict[str, Any]:
    """With the connection manager that every listener has, its routes inlined."""
    made = MessageToDict(http_filter("ingress", routes.name, PortProtocol.HTTP, log), preserving_proto_field_name=True)
    del made["typed_config"]["rds"]
    made["typed_config"]["route_config"] = MessageToDict(routes, preserving_proto_field_name=True)
    return {"name": f"port_{port}", "address": socket_address(port), "filter_chains": [{"filters": [made]}]}


def socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster_of(name: str, port: int | None) -> dict[str, Any]:
    endpoints = [] if port is None else [{"lb_endpoints": [{"endpoint": {"address": socket_address(port)}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def ready(admin: int, envoy: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        assert envoy.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=1)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"Envoy was not ready within {DEADLINE:.0f} s:\n{log.read_text()}")
