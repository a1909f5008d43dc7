"""Requests through real Envoys that run what the compiler made, in its static form: gateway, mutual TLS, node, application."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from meshagent.envoy.compile import Compiler
from meshagent.envoy.static import static_bootstrap
from meshagent.mesh.placement import Mode, Placement
from tests.envoy.certificates import Authority
from tests.envoy.golden_cases import TRUST_DOMAIN, case_of

SLOW_SECONDS = 0.3
DEADLINE = 20.0

DOCUMENTS = """
proxy: mesh/shop/virtualGateway/edge
mode: bind
slot: 0
endpoints: {{mesh/shop/virtualNode/web: [{{address: 127.0.0.2, leased: true}}]}}
documents:
- {{kind: Mesh, meshName: shop, spec: {{}}}}
- kind: VirtualGateway
  meshName: shop
  virtualGatewayName: edge
  spec: {{listeners: [{{portMapping: {{port: {edge}, protocol: http}}}}]}}
- kind: GatewayRoute
  meshName: shop
  virtualGatewayName: edge
  gatewayRouteName: web
  spec: {{httpRoute: {{match: {{prefix: /web}}, action: {{target: {{virtualService: {{virtualServiceName: web.local}}}}}}}}}}
- {{kind: VirtualService, meshName: shop, virtualServiceName: web.local, spec: {{provider: {{virtualNode: {{virtualNodeName: web}}}}}}}}
- kind: VirtualNode
  meshName: shop
  virtualNodeName: web
  spec:
    listeners: [{{portMapping: {{port: {web}, protocol: http}}}}]
    serviceDiscovery: {{dns: {{hostname: web.internal}}}}
"""


class Application(BaseHTTPRequestHandler):
    """Answers with the path and headers it was asked with, after a while."""

    def do_GET(self) -> None:
        time.sleep(SLOW_SECONDS)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server names it
        pass


@contextmanager
def application(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Application) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join(DEADLINE)


@contextmanager
def envoy(binary: Path, directory: Path, bootstrap: object, address: tuple[str, int]) -> Iterator[None]:
    """Runs until the block ends; the block begins when `address` takes connections."""
    (directory / "envoy.json").write_text(json.dumps(bootstrap))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with (directory / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        wait_for(address, process, directory / "envoy.log")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)


def wait_for(address: tuple[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def get(address: tuple[str, int], path: str, headers: dict[str, str]) -> tuple[int, dict[str, object], dict[str, str]]:
    with closing(http.client.HTTPConnection(*address, timeout=DEADLINE)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    said = json.loads(body) if answer.status == 200 else {"words": body.decode()}
    return answer.status, said, said.get("headers", {})


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


@pytest.mark.envoy
def test_a_request_goes_through_a_gateway_and_mutual_tls_to_the_application(envoy_binary: Path, tmp_path: Path) -> None:
    edge_port, web_port = free_ports()
    case = case_of("live", DOCUMENTS.format(edge=edge_port, web=web_port))
    mesh, edge = case.mesh, Placement("edge", "h1", case.placement.resource, Mode.BIND, 0, "127.0.0.1")
    node = next(key for key in mesh.specs if key.path == "mesh/shop/virtualNode/web")
    web = Placement("web", "h2", node, Mode.BIND, 0, "127.0.0.2")
    authority, compiler = Authority(), Compiler()
    bootstraps = {}
    for placement in (edge, web):
        authority.write_identity(tmp_path / placement.id, f"spiffe://{TRUST_DOMAIN}/{placement.resource.path}")
        bootstraps[placement.id] = static_bootstrap(compiler.compile(mesh, placement, TRUST_DOMAIN).snapshot)
    edge_at, web_at = ("127.0.0.1", edge_port), ("127.0.0.2", web_port)
    with (
        application(web_port),
        envoy(envoy_binary, tmp_path / "web", bootstraps["web"], web_at),
        envoy(envoy_binary, tmp_path / "edge", bootstraps["edge"], edge_at),
    ):
        # Callers can't shorten timeouts by Envoy's own headers, not even one who pretends to be inside.
        forged = {
            "x-envoy-upstream-rq-timeout-ms": "1",
            "x-forwarded-for": "10.0.0.1",
            "x-forwarded-client-cert": "URI=spiffe://shop.example/mesh/shop/virtualNode/forged",
        }
        status, said, headers = get(edge_at, "/web//a/../b", forged)
        assert (status, said.get("path")) == (200, "/b"), said
        assert headers["host"] == "web.local"
        peers = dict(part.split("=", 1) for part in headers["x-forwarded-client-cert"].split(";"))
        assert peers.keys() == {"By", "Hash", "URI"}
        assert peers["By"] == "spiffe://shop.example/mesh/shop/virtualNode/web"
        assert peers["URI"] == "spiffe://shop.example/mesh/shop/virtualGateway/edge"
        assert get(edge_at, "/other", {})[0] == 404
        # A caller without a proxy of its own: plaintext still passes, its word about itself does not.
        status, _, headers = get(web_at, "/", forged)
        assert status == 200
        assert "x-forwarded-client-cert" not in headers
