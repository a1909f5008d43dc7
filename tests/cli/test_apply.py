"""apply and diff against a server with the shape of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer

NODE = """kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
  serviceDiscovery: {dns: {hostname: web.local}}
"""
BEFORE = {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}]}
AFTER = {"listeners": [{"portMapping": {"port": 8081, "protocol": "http"}}]}
ROUTE = {"change": "changed", "type": "route", "name": "rds_egress", "before": {"weight": 90}, "after": {"weight": 50}}


def answer(**changed: object) -> dict[str, object]:
    changes = [
        {"resource": "mesh/shop", "change": "none", "before": {}, "after": {}},
        {"resource": "mesh/shop/virtualNode/web", "change": "update", "before": BEFORE, "after": AFTER},
    ]
    problem = {"resource": "mesh/shop/virtualNode/web", "path": "backends[0]", "message": "is not defined"}
    return {"revision": 42, "changes": changes, "proxies": [], "problems": [problem], **changed}


@pytest.fixture
def node(tmp_path: Path) -> str:
    path = tmp_path / "web.yaml"
    path.write_text(f"# the web\n---\n{NODE}")
    return str(path)


def test_apply_sends_all_documents_at_once_with_their_places(online: Run, server: FakeServer, node: str) -> None:
    server.answer("POST /v1/apply", answer())
    result = online("apply", node)
    assert result.exit_code == 0, result.output
    (call,) = server.calls
    assert call.body["dryRun"] is False
    (document,) = call.body["documents"]
    assert document["source"]["file"] == node and document["source"]["line"] >= 2
    assert {key: document[key] for key in ("kind", "meshName", "virtualNodeName", "spec")} == yaml.safe_load(NODE)
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "CHANGE  RESOURCE",
        "update  mesh/shop/virtualNode/web",
        "1 updated, 1 unchanged; revision 42",
    ]
    assert result.stderr == "warning: mesh/shop/virtualNode/web: backends[0]: is not defined\n"


def test_what_is_wrong_is_said_before_anything_is_sent(online: Run, server: FakeServer, node: str) -> None:
    path = Path(node)
    path.write_text(path.read_text().replace("8080", "80800"))
    result = online("apply", node)
    assert result.exit_code == 1
    assert server.calls == []
    assert f"{node}:8: mesh/shop/virtualNode/web: spec.listeners[0].portMapping.port: " in result.stderr
    assert "nothing was sent" in result.stderr


def test_the_server_s_refusal_ends_with_1(online: Run, server: FakeServer, node: str) -> None:
    fault = {
        "resource": "mesh/shop/virtualNode/web",
        "path": "spec",
        "message": "no such mesh",
        "file": node,
        "line": 3,
    }
    server.answer(
        "POST /v1/apply", {"message": "1 document refused", "code": "NotFoundException", "errors": [fault]}, 404
    )
    result = online("apply", node)
    assert result.exit_code == 1
    assert f"{node}:3: mesh/shop/virtualNode/web: spec: no such mesh" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_whole_answers(online: Run, server: FakeServer, node: str, output: str) -> None:
    server.answer("POST /v1/apply", answer())
    result = online("apply", node, "-o", output)
    assert yaml.safe_load(result.stdout) == answer()


def test_dry_run_says_would(online: Run, server: FakeServer, node: str) -> None:
    server.answer("POST /v1/apply", answer(proxies=[{"proxy": "p1", "resource": "r", "host": "h", **ROUTE}]))
    result = online("apply", "--dry-run", node)
    assert server.calls[0].body["dryRun"] is True
    assert result.stdout.splitlines()[-1] == "would be: 1 updated, 1 unchanged; 1 proxy would change"


def test_documents_from_standard_input(run: Run, server: FakeServer) -> None:
    server.answer("POST /v1/apply", answer())
    assert run("apply", "-", *server.options, stdin=NODE).exit_code == 0
    assert server.calls[0].body["documents"][0]["source"] == {"file": "<stdin>", "line": 1}


def test_diff_shows_resources_and_what_many_proxies_share_once(online: Run, server: FakeServer, node: str) -> None:
    listener = {"type": "listener", "name": "lds_ingress", "change": "added", "before": None, "after": {"name": "x"}}
    proxies = [
        {"proxy": f"p{i}", "resource": "mesh/shop/virtualNode/web", "host": f"web-{i}", **change}
        for i in range(5)
        for change in (ROUTE, listener)
    ]
    server.answer("POST /v1/apply", answer(proxies=proxies))
    lines = online("diff", node).stdout.splitlines()
    assert lines[0] == "update mesh/shop/virtualNode/web"
    assert "  -    port: 8080" in lines and "  +    port: 8081" in lines
    assert "proxy p0 of mesh/shop/virtualNode/web on web-0: 1 listener added, 1 route changed" in lines
    assert lines.count("changed route rds_egress in p0, p1, p2 and 2 more") == 1
    assert lines.count("  -weight: 90") == 1 and lines.count("  +weight: 50") == 1
    assert "added listener lds_ingress in p0, p1, p2 and 2 more" in lines
    assert "  +name: x" not in lines
    assert lines[-1] == "would be: 1 updated, 1 unchanged; 5 proxies would change"
    full = online("diff", "--full", node).stdout.splitlines()
    assert "  +name: x" in full and "added listener lds_ingress in p0, p1, p2, p3, p4" in full


def test_long_differences_are_cut(online: Run, server: FakeServer, node: str) -> None:
    change = {**ROUTE, "before": {"a": list(range(100))}, "after": {"a": list(range(100, 200))}}
    server.answer("POST /v1/apply", answer(proxies=[{"proxy": "p", "resource": "r", "host": "h", **change}]))
    lines = online("diff", node).stdout.splitlines()
    assert any("more lines: --full shows them" in line for line in lines)
    assert len(lines) < 70
    assert len(online("diff", "--full", node).stdout.splitlines()) > 200


def test_json_of_diff_is_the_dry_run(online: Run, server: FakeServer, node: str) -> None:
    server.answer("POST /v1/apply", answer())
    assert json.loads(online("diff", node, "--output", "json").stdout) == answer()
    assert server.calls[0].body["dryRun"] is True


def test_files_that_define_nothing(online: Run, server: FakeServer, tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n")
    result = online("apply", str(empty))
    assert (result.exit_code, result.stderr) == (1, f"meshctl: no documents in {empty}\n")
    assert server.calls == []
