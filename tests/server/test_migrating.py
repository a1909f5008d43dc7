"""What docs/migrating.md promises: App Mesh's own clients, pointed at a real server over TLS, and what they print as a document again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError

from meshagent.specs.documents import parse_text
from tests.server.serving import Server

NODE = {
    "listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}],
    "serviceDiscovery": {"dns": {"hostname": "teller.local"}},
}
ONE = {"virtualNode": "teller", "weight": 1}
ROUTE = {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [ONE]}}}
COLOR = {"target": {"virtualService": {"virtualServiceName": "teller.local"}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("migrating") / "server")
    one.start()
    yield one
    one.close()


def client(server: Server, ca: str = "", secret: str = "") -> Any:
    admin = server.directory / "admin"
    key = json.loads((admin / "access-key.json").read_text())
    return boto3.client(
        "appmesh",
        endpoint_url=f"https://{server.api}",
        verify=ca or str(admin / "ca.pem"),
        region_name="eu-west-1",
        aws_access_key_id=key["accessKeyId"],
        aws_secret_access_key=secret or key["secretAccessKey"],
        config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 0}),
    )


def test_boto3_makes_a_mesh_and_reads_it_back(server: Server) -> None:
    appmesh, mesh = client(server), {"meshName": "colors"}
    appmesh.create_mesh(**mesh)
    appmesh.create_virtual_node(**mesh, virtualNodeName="teller", spec=NODE)
    appmesh.create_virtual_router(**mesh, virtualRouterName="teller", spec={"listeners": NODE["listeners"]})
    appmesh.create_route(**mesh, virtualRouterName="teller", routeName="all", spec=ROUTE)
    provider = {"provider": {"virtualRouter": {"virtualRouterName": "teller"}}}
    appmesh.create_virtual_service(**mesh, virtualServiceName="teller.local", spec=provider)
    appmesh.create_virtual_gateway(**mesh, virtualGatewayName="edge", spec={"listeners": NODE["listeners"]})
    gateway_route = {"httpRoute": {"match": {"prefix": "/color"}, "action": COLOR}}
    appmesh.create_gateway_route(**mesh, virtualGatewayName="edge", gatewayRouteName="color", spec=gateway_route)

    assert [each["meshName"] for each in appmesh.list_meshes()["meshes"]] == ["colors"]
    pages = appmesh.get_paginator("list_virtual_nodes").paginate(**mesh)
    assert [each["virtualNodeName"] for page in pages for each in page["virtualNodes"]] == ["teller"]
    described = appmesh.describe_virtual_node(**mesh, virtualNodeName="teller")["virtualNode"]
    assert described["spec"] == NODE
    assert described["metadata"]["arn"].startswith("arn:aws:appmesh:eu-west-1:")
    updated = appmesh.update_route(**mesh, virtualRouterName="teller", routeName="all", spec={**ROUTE, "priority": 5})
    assert (updated["route"]["spec"]["priority"], updated["route"]["metadata"]["version"]) == (5, 2)
    # `aws appmesh describe-virtual-node --query virtualNode` is a document.
    loaded = parse_text(json.dumps(described, default=str), "teller.json")
    assert not loaded.errors
    assert [each.key.path for each in loaded.specs] == ["mesh/colors/virtualNode/teller"]

    with pytest.raises(ClientError) as in_use:
        appmesh.delete_virtual_node(**mesh, virtualNodeName="teller")
    assert in_use.value.response["Error"]["Code"] == "ResourceInUseException"


def test_a_wrong_secret_and_a_wrong_authority_are_told_apart(server: Server) -> None:
    with pytest.raises(ClientError) as refused:
        client(server, secret="wrong").list_meshes()
    assert "signature" in refused.value.response["Error"]["Message"]
    with pytest.raises(SSLError):
        client(server, ca=str(Path(botocore.__file__).parent / "cacert.pem")).list_meshes()
