"""get and delete against a server with the shape of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from meshagent.specs.documents import parse_text
from tests.cli.conftest import Run
from tests.cli.fake_server import Call, FakeServer

NODE = {
    "kind": "VirtualNode",
    "meshName": "shop",
    "virtualNodeName": "web",
    "spec": {"backends": [{"virtualService": {"virtualServiceName": "api.local"}}]},
    "metadata": {"uid": "x", "version": 3, "createdAt": 1.0, "lastUpdatedAt": 2.0},
}
ROUTE = {"kind": "Route", "meshName": "shop", "virtualRouterName": "r", "routeName": "x", "spec": {}, "metadata": {}}


@pytest.mark.parametrize("kind", ["VirtualNode", "virtualnodes", "virtual-node", "virtual_Node"])
def test_get_asks_for_what_was_said(online: Run, server: FakeServer, kind: str) -> None:
    server.answer("GET /v1/documents", {"documents": [NODE]})
    result = online("get", kind, "web", "--mesh", "shop")
    assert parse_qs(server.calls[0].query) == {"kind": ["VirtualNode"], "name": ["web"], "mesh": ["shop"]}
    head, row = result.stdout.splitlines()
    assert head.split() == ["KIND", "MESH", "NAME", "VERSION", "UPDATED"]
    assert row.split()[:4] == ["VirtualNode", "shop", "web", "3"]


def test_get_of_everything(online: Run, server: FakeServer) -> None:
    server.answer("GET /v1/documents", {"documents": [NODE, ROUTE]})
    result = online("get")
    assert server.calls[0].query == ""
    assert result.stdout.splitlines()[2].split() == ["Route", "shop", "r/x"]
    assert json.loads(online("get", "-o", "json").stdout) == {"documents": [NODE, ROUTE]}


def test_yaml_can_be_applied_again(online: Run, server: FakeServer) -> None:
    mesh = {"kind": "Mesh", "meshName": "shop", "spec": {}, "metadata": {"version": 1}}
    server.answer("GET /v1/documents", {"documents": [mesh, {**NODE, "source": {"file": "web.yaml", "line": 3}}]})
    text = online("get", "-o", "yaml").stdout
    assert list(yaml.safe_load_all(text)) == [mesh, NODE]
    loaded = parse_text(text, "x")
    assert loaded.errors == () and len(loaded.specs) == 2


def test_a_name_that_is_not_there(online: Run, server: FakeServer) -> None:
    server.answer("GET /v1/documents", {"documents": []})
    result = online("get", "mesh", "shop")
    assert (result.exit_code, result.stderr) == (1, "meshctl: there is no Mesh 'shop'\n")
    assert online("get", "meshes").exit_code == 0
    assert online("get", "pods").exit_code == 2


def test_delete_of_a_path(online: Run, server: FakeServer) -> None:
    problem = {"resource": "mesh/shop/virtualNode/web", "path": "spec.backends[0]", "message": "is not defined"}
    deleted = ["mesh/shop/virtualNode/a%2Fb"]
    server.answer("DELETE /v1/documents", {"revision": 7, "deleted": deleted, "problems": [problem]})
    result = online("delete", "mesh/shop/virtualNode/a%2Fb")
    assert parse_qs(server.calls[0].query) == {"path": ["mesh/shop/virtualNode/a%2Fb"]}
    assert result.stdout.splitlines() == ["deleted mesh/shop/virtualNode/a%2Fb", "1 resource deleted"]
    assert result.stderr == "warning: mesh/shop/virtualNode/web: spec.backends[0]: is not defined\n"


def test_delete_of_a_host(online: Run, server: FakeServer) -> None:
    proxies = [{"proxy": "852d2728f94f", "resource": "mesh/shop/virtualNode/web"}]
    server.answer("DELETE /v1/hosts/web-1", {"deleted": "web-1", "proxies": proxies})
    assert online("delete", "host/web-1").stdout.splitlines()[:2] == [
        "deleted host/web-1",
        "with its proxy 852d2728f94f of mesh/shop/virtualNode/web",
    ]
    assert json.loads(online("delete", "host/web-1", "-o", "json").stdout) == {
        "deleted": ["host/web-1"],
        "proxies": proxies,
    }


def test_delete_of_a_host_that_is_not_there(online: Run, server: FakeServer) -> None:
    server.answer("DELETE /v1/hosts/web-9", {"message": "there is no host 'web-9'", "code": "NotFoundException"}, 404)
    result = online("delete", "host/web-9")
    assert result.exit_code == 1 and "there is no host 'web-9'" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("mesh/shop", "-f", "x.yaml"), ("shop/web",)])
def test_delete_of_what(online: Run, arguments: tuple[str, ...]) -> None:
    assert online("delete", *arguments).exit_code == 2


def test_delete_of_files_goes_round_what_is_in_use(online: Run, server: FakeServer, tmp_path: Path) -> None:
    """The mesh is refused until the node is gone, and the node until the service is: whatever order the file has."""
    needs = {
        "mesh/shop": ["mesh/shop/virtualNode/web"],
        "mesh/shop/virtualNode/web": ["mesh/shop/virtualService/s.local"],
    }
    gone: list[str] = []

    def delete(call: Call) -> tuple[int, Any]:
        (path,) = parse_qs(call.query)["path"]
        in_use = [user for user in needs.get(path, []) if user not in gone]
        if in_use:
            return 409, {"message": f"{in_use[0]} needs it", "code": "ResourceInUseException"}
        gone.append(path)
        left = [{"resource": path, "path": "", "message": f"{len(gone)} gone"}]
        return 200, {"revision": 1, "deleted": [path], "problems": left}

    server.answers["DELETE /v1/documents"] = delete
    file = tmp_path / "all.yaml"
    file.write_text(
        "kind: Mesh\nmeshName: shop\n---\nkind: VirtualNode\nmeshName: shop\nvirtualNodeName: web\nspec: {}\n---\n"
        "kind: VirtualService\nmeshName: shop\nvirtualServiceName: s.local\nspec: {}\n"
    )
    result = online("delete", "-f", str(file))
    assert result.exit_code == 0, result.output
    assert gone == ["mesh/shop/virtualService/s.local", "mesh/shop/virtualNode/web", "mesh/shop"]
    assert result.stderr == "warning: mesh/shop: 3 gone\n", "of a mesh, what is amiss in the end"
    gone.clear()
    needs["mesh/shop"] = ["mesh/shop/virtualNode/other"]
    stuck = online("delete", "-f", str(file))
    assert stuck.exit_code == 1
    assert "warning: mesh/shop/virtualNode/web: 2 gone\n" in stuck.stderr
    assert (
        "mesh/shop was not deleted: mesh/shop/virtualNode/other needs it (2 resources deleted before)" in stuck.stderr
    )


def test_what_is_gone_already_is_no_failure(online: Run, server: FakeServer, tmp_path: Path) -> None:
    server.answer("DELETE /v1/documents", {"message": "no such mesh", "code": "NotFoundException"}, 404)
    file = tmp_path / "mesh.json"
    file.write_text('{"meshName": "shop"}')
    result = online("delete", "-f", str(file))
    assert (result.exit_code, result.stderr) == (0, "mesh/shop is not there\n")
    assert online("delete", "mesh/shop").exit_code == 1
