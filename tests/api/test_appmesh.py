"""App Mesh's operations as boto3's own client calls them, and as clients call them that check nothing themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from meshagent.api.appmesh import Address, address
from meshagent.specs.keys import Kind
from tests.api.conftest import client
from tests.api.serving import Api, serving

LISTENER = {"portMapping": {"port": 8080, "protocol": "http"}}
NODE = {"listeners": [LISTENER], "serviceDiscovery": {"dns": {"hostname": "web.local"}}}
ROUTE = {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}}}
OTHER_ROUTE = {**ROUTE, "priority": 7}
TARGET = {"target": {"virtualService": {"virtualServiceName": "s.local"}}}
GATEWAY_ROUTE = {"httpRoute": {"match": {"prefix": "/"}, "action": TARGET}}

# Each kind: the words of its operations, its list's field, its names, a spec and another one; in an order in which they can be created.
KINDS: list[tuple[str, str, dict[str, str], dict[str, Any], dict[str, Any]]] = [
    ("mesh", "meshes", {"meshName": "m"}, {}, {"egressFilter": {"type": "ALLOW_ALL"}}),
    ("virtual_node", "virtualNodes", {"meshName": "m", "virtualNodeName": "n"}, NODE, {}),
    (
        "virtual_router",
        "virtualRouters",
        {"meshName": "m", "virtualRouterName": "r"},
        {"listeners": [LISTENER]},
        {"listeners": []},
    ),
    ("route", "routes", {"meshName": "m", "virtualRouterName": "r", "routeName": "x"}, ROUTE, OTHER_ROUTE),
    (
        "virtual_service",
        "virtualServices",
        {"meshName": "m", "virtualServiceName": "s.local"},
        {"provider": {"virtualRouter": {"virtualRouterName": "r"}}},
        {},
    ),
    (
        "virtual_gateway",
        "virtualGateways",
        {"meshName": "m", "virtualGatewayName": "g"},
        {"listeners": [LISTENER]},
        {"listeners": []},
    ),
    (
        "gateway_route",
        "gatewayRoutes",
        {"meshName": "m", "virtualGatewayName": "g", "gatewayRouteName": "gr"},
        GATEWAY_ROUTE,
        {**GATEWAY_ROUTE, "priority": 3},
    ),
]


def payload(answer: dict[str, Any]) -> dict[str, Any]:
    (body,) = (value for field, value in answer.items() if field != "ResponseMetadata")
    assert isinstance(body, dict)
    return body


def create_all(aws: Any) -> None:
    for word, _, names, spec, _ in KINDS:
        getattr(aws, f"create_{word}")(**names, spec=spec)


def refused(aws: Any, code: str, call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(getattr(aws.exceptions, code)) as caught:
        call(**params)
    return str(caught.value.response["message"])


def test_every_kind_is_created_described_updated_listed_and_deleted(aws: Any) -> None:
    before = datetime.now(UTC).timestamp() - 1
    for word, plural, names, spec, other in KINDS:
        created = payload(getattr(aws, f"create_{word}")(**names, spec=spec))
        assert {field: created[field] for field in names} == names
        assert created["spec"] == spec
        assert created["status"] == {"status": "ACTIVE"}
        metadata = created["metadata"]
        assert metadata["version"] == 1
        assert metadata["meshOwner"] == metadata["resourceOwner"] == "0" * 12
        assert len(metadata["uid"]) == 36
        assert before < metadata["createdAt"].timestamp() == metadata["lastUpdatedAt"].timestamp() < time.time() + 1
        assert payload(getattr(aws, f"describe_{word}")(**names)) == created

        updated = payload(getattr(aws, f"update_{word}")(**names, spec=other))
        assert updated["spec"] == other
        assert updated["metadata"]["version"] == 2
        assert updated["metadata"]["uid"] == metadata["uid"]
        assert updated["metadata"]["createdAt"] == metadata["createdAt"]
        assert payload(getattr(aws, f"describe_{word}")(**names)) == updated

        parents = dict(list(names.items())[:-1])
        (item,) = getattr(aws, f"list_{plural_word(word)}")(**parents)[plural]
        fields = ("arn", "createdAt", "lastUpdatedAt", "meshOwner", "resourceOwner", "version")
        assert item == {**names, **{field: updated["metadata"][field] for field in fields}}
    for word, plural, names, _, other in reversed(KINDS):
        deleted = payload(getattr(aws, f"delete_{word}")(**names))
        assert deleted["status"] == {"status": "DELETED"}
        assert deleted["spec"] == other
        refused(aws, "NotFoundException", getattr(aws, f"describe_{word}"), **names)
        assert plural


def plural_word(word: str) -> str:
    return "meshes" if word == "mesh" else f"{word}s"


def test_arns_name_region_account_and_path(aws: Any, api: Api) -> None:
    create_all(aws)
    start = "arn:aws:appmesh:eu-central-1:000000000000:mesh/m"
    found = {
        word: payload(getattr(aws, f"describe_{word}")(**names))["metadata"]["arn"] for word, _, names, _, _ in KINDS
    }
    assert found == {
        "mesh": start,
        "virtual_node": f"{start}/virtualNode/n",
        "virtual_router": f"{start}/virtualRouter/r",
        "route": f"{start}/virtualRouter/r/route/x",
        "virtual_service": f"{start}/virtualService/s.local",
        "virtual_gateway": f"{start}/virtualGateway/g",
        "gateway_route": f"{start}/virtualGateway/g/gatewayRoute/gr",
    }
    elsewhere = client(api, "us-west-2").describe_mesh(meshName="m")
    assert payload(elsewhere)["metadata"]["arn"] == "arn:aws:appmesh:us-west-2:000000000000:mesh/m"
    status, unsigned = api.call("GET", "/v20190125/meshes/m")
    assert (status, unsigned["metadata"]["arn"]) == (200, "arn:aws:appmesh:us-east-1:000000000000:mesh/m")


def test_a_mesh_needs_no_spec(aws: Any) -> None:
    assert payload(aws.create_mesh(meshName="m"))["spec"] == {}
    assert payload(aws.describe_mesh(meshName="m"))["spec"] == {}


def test_a_create_that_says_the_same_gives_the_same_resource(aws: Any) -> None:
    aws.create_mesh(meshName="m")
    first = payload(aws.create_virtual_node(meshName="m", virtualNodeName="n", spec=NODE, clientToken="t"))
    assert payload(aws.create_virtual_node(meshName="m", virtualNodeName="n", spec=NODE, clientToken="t")) == first
    assert payload(aws.create_virtual_node(meshName="m", virtualNodeName="n", spec=NODE)) == first
    create = aws.create_virtual_node
    words = refused(aws, "ConflictException", create, meshName="m", virtualNodeName="n", spec={}, clientToken="t")
    assert "mesh/m/virtualNode/n" in words and "clientToken" in words
    refused(aws, "ConflictException", create, meshName="m", virtualNodeName="n", spec={})


def test_an_update_that_says_the_same_changes_nothing(aws: Any) -> None:
    aws.create_mesh(meshName="m")
    first = payload(aws.create_virtual_node(meshName="m", virtualNodeName="n", spec=NODE))
    assert payload(aws.update_virtual_node(meshName="m", virtualNodeName="n", spec=NODE)) == first


def test_what_is_not_there(aws: Any) -> None:
    for word, _, names, spec, _ in KINDS:
        assert "mesh/m" in refused(aws, "NotFoundException", getattr(aws, f"update_{word}"), **names, spec=spec)
        assert "mesh/m" in refused(aws, "NotFoundException", getattr(aws, f"delete_{word}"), **names)
        if word != "mesh":
            create, listed = getattr(aws, f"create_{word}"), getattr(aws, f"list_{plural_word(word)}")
            assert "does not exist" in refused(aws, "NotFoundException", create, **names, spec=spec)
            refused(aws, "NotFoundException", listed, **dict(list(names.items())[:-1]))
    assert aws.list_meshes()["meshes"] == []
    aws.create_mesh(meshName="m")
    names = {"meshName": "m", "virtualRouterName": "r", "routeName": "x"}
    assert "mesh/m/virtualRouter/r does not exist" in refused(
        aws, "NotFoundException", aws.create_route, **names, spec=ROUTE
    )


def test_what_is_used_is_not_deleted(aws: Any) -> None:
    create_all(aws)

    def in_use(word: str, **names: str) -> str:
        return refused(aws, "ResourceInUseException", getattr(aws, f"delete_{word}"), meshName="m", **names)

    assert "mesh/m/virtualNode/n is in it" in in_use("mesh")
    assert "mesh/m/virtualRouter/r/route/x refers to it" in in_use("virtual_node", virtualNodeName="n")
    words = in_use("virtual_router", virtualRouterName="r")
    assert "route/x is in it" in words and "mesh/m/virtualService/s.local refers to it" in words
    assert "gatewayRoute/gr refers to it" in in_use("virtual_service", virtualServiceName="s.local")
    assert "gatewayRoute/gr is in it" in in_use("virtual_gateway", virtualGatewayName="g")
    # A node's backend keeps nothing from being deleted.
    backend = {"virtualService": {"virtualServiceName": "s.local"}}
    aws.create_virtual_node(meshName="m", virtualNodeName="caller", spec={"backends": [backend]})
    aws.delete_gateway_route(meshName="m", virtualGatewayName="g", gatewayRouteName="gr")
    aws.delete_virtual_service(meshName="m", virtualServiceName="s.local")


def test_references_may_dangle(aws: Any) -> None:
    aws.create_mesh(meshName="m")
    aws.create_virtual_service(
        meshName="m", virtualServiceName="s", spec={"provider": {"virtualNode": {"virtualNodeName": "later"}}}
    )


def test_lists_come_in_pages_that_what_happens_in_between_does_not_shift(aws: Any) -> None:
    aws.create_mesh(meshName="m")
    for number in range(7):
        aws.create_virtual_node(meshName="m", virtualNodeName=f"n{number}", spec={})
    first = aws.list_virtual_nodes(meshName="m", limit=3)
    assert [node["virtualNodeName"] for node in first["virtualNodes"]] == ["n0", "n1", "n2"]
    aws.delete_virtual_node(meshName="m", virtualNodeName="n0")
    aws.create_virtual_node(meshName="m", virtualNodeName="n11", spec={})
    second = aws.list_virtual_nodes(meshName="m", limit=3, nextToken=first["nextToken"])
    assert [node["virtualNodeName"] for node in second["virtualNodes"]] == ["n3", "n4", "n5"]
    last = aws.list_virtual_nodes(meshName="m", limit=3, nextToken=second["nextToken"])
    assert [node["virtualNodeName"] for node in last["virtualNodes"]] == ["n6"]
    assert last.get("nextToken") is None
    pages = aws.get_paginator("list_virtual_nodes").paginate(meshName="m", PaginationConfig={"PageSize": 2})
    names = [node["virtualNodeName"] for page in pages for node in page["virtualNodes"]]
    assert names == ["n1", "n11", "n2", "n3", "n4", "n5", "n6"]
    for params in ({"limit": 3, "nextToken": "nonsense"}, {"nextToken": first["nextToken"] + "x"}):
        refused(aws, "BadRequestException", aws.list_virtual_nodes, meshName="m", **params)
    assert "nextToken" in refused(
        aws, "BadRequestException", aws.list_virtual_routers, meshName="m", nextToken=first["nextToken"]
    )


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "9" * 5000, ""])
def test_limits_out_of_bounds(api: Api, limit: str) -> None:
    assert api.call("GET", f"/v20190125/meshes?limit={limit}")[0] == 400


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "ä ö", "a+b", "..", "?x=1", "~a.b-c_d", "*", "日本", "virtualNodes"])
def test_names_are_decoded_one_by_one(aws: Any, name: str) -> None:
    aws.create_mesh(meshName=name)
    aws.create_virtual_router(meshName=name, virtualRouterName=name, spec={})
    names = {"meshName": name, "virtualRouterName": name, "routeName": name}
    aws.create_route(**names, spec=ROUTE)
    found = payload(aws.describe_route(**names))
    assert {field: found[field] for field in names} == names
    assert [item["routeName"] for item in aws.list_routes(meshName=name, virtualRouterName=name)["routes"]] == [name]
    aws.delete_route(**names)


def test_siblings_whose_names_begin_alike_are_kept_apart(aws: Any) -> None:
    for mesh in ("shop", "shop2", "shop/virtualNode"):
        aws.create_mesh(meshName=mesh)
        aws.create_virtual_node(meshName=mesh, virtualNodeName="n", spec={})
    assert len(aws.list_virtual_nodes(meshName="shop")["virtualNodes"]) == 1
    aws.delete_virtual_node(meshName="shop", virtualNodeName="n")
    aws.delete_mesh(meshName="shop")
    assert len(aws.list_meshes()["meshes"]) == 2


def test_another_owners_mesh_is_not_found(aws: Any) -> None:
    aws.create_mesh(meshName="m")
    aws.describe_mesh(meshName="m", meshOwner="0" * 12)
    words = refused(aws, "NotFoundException", aws.describe_mesh, meshName="m", meshOwner="123456789012")
    assert "123456789012" in words


def test_an_invalid_spec_is_refused_with_every_path_and_reason(api: Api) -> None:
    api.call("PUT", "/v20190125/meshes", {"meshName": "m"})
    listener = {"portMapping": {"port": 70000, "protocol": "htp"}}
    body = {
        "virtualNodeName": "n",
        "spec": {"listeners": [listener], "serviceDiscovery": {"dns": {}, "awsCloudMap": {}}},
    }
    status, answer = api.call("PUT", "/v20190125/meshes/m/virtualNodes", body)
    assert (status, answer["code"]) == (400, "BadRequestException")
    paths = {error["path"] for error in answer["errors"]}
    assert {"spec.listeners[0].portMapping.port", "spec.listeners[0].portMapping.protocol"} <= paths
    assert all(error["resource"] == "mesh/m/virtualNode/n" for error in answer["errors"])
    assert "mesh/m/virtualNode/n: spec.listeners[0].portMapping.port: " in answer["message"]
    assert api.call("GET", "/v20190125/meshes/m/virtualNodes")[1] == {"virtualNodes": []}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "meshName"),
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b"\xff", "not JSON"),
        (b'{"meshName": "m", "meshName": "n"}', "twice"),
        (b'{"meshName": NaN}', "NaN"),
        (b'{"meshName": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"meshName": 7}', "meshName"),
        (b'{"meshName": ""}', "meshName"),
        (b'{"meshName": "' + b"x" * 256 + b'"}', "meshName"),
        (b'{"meshName": "m", "spek": {}}', "spek"),
        (b'{"meshName": "m", "spec": 1}', "spec"),
        (b'{"meshName": "m", "clientToken": "a b"}', "clientToken"),
        (b'{"meshName": "m", "tags": [{"value": "v"}]}', "tags[0].key"),
        (b'{"meshName": "m", "spec": {"egressFilter": {"type": "SOME"}}}', "spec.egressFilter.type"),
    ],
)
def test_bodies_that_are_refused(api: Api, body: bytes, words: str) -> None:
    status, answer = api.call("PUT", "/v20190125/meshes", body)
    assert status == 400
    assert words in answer["message"]
    assert api.call("GET", "/v20190125/meshes") == (200, {"meshes": []})


def test_a_name_in_the_body_agrees_with_the_path(api: Api) -> None:
    api.call("PUT", "/v20190125/meshes", {"meshName": "m"})
    path, spec = "/v20190125/meshes/m/virtualNodes", {"spec": {}}
    assert api.call("PUT", path, {"meshName": "m", "virtualNodeName": "n", **spec})[0] == 200
    assert api.call("PUT", f"{path}/n", {"meshName": "m", "virtualNodeName": "n", **spec})[0] == 200
    status, answer = api.call("PUT", f"{path}/n", {"virtualNodeName": "other", **spec})
    assert status == 400 and "the path says" in answer["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v20190125/"),
        ("GET", "/v20190125/nothing"),
        ("POST", "/v20190125/meshes"),
        ("DELETE", "/v20190125/meshes"),
        ("GET", "/v20190125/meshes/m/virtualRouters/r/routes"),
        ("GET", "/v20190125/meshes/m/virtualNodes/a/b"),
        ("GET", "/v20190125/meshes//virtualNodes"),
        ("GET", "/v20190125/tags?resourceArn=x"),
    ],
)
def test_what_is_no_operation(api: Api, method: str, path: str) -> None:
    status, answer = api.call(method, path)
    assert (status, answer["code"]) == (404, "UnknownOperationException")


def test_a_path_that_is_not_utf8(api: Api) -> None:
    assert api.call("GET", "/v20190125/meshes/%ff")[0] == 400


def test_writes_are_refused_while_the_gate_says_why(aws: Any, api: Api) -> None:
    aws.create_mesh(meshName="m")
    api.gate.append("the store was rolled back to revision 7")
    words = refused(aws, "ServiceUnavailableException", aws.create_mesh, meshName="n")
    assert "the store was rolled back to revision 7" in words
    refused(aws, "ServiceUnavailableException", aws.delete_mesh, meshName="m")
    assert [mesh["meshName"] for mesh in aws.list_meshes()["meshes"]] == ["m"]
    api.gate.clear()
    aws.delete_mesh(meshName="m")


def test_addresses() -> None:
    assert address(("meshes",)) == Address(Kind.MESH)
    assert address(("meshes", "m")) == Address(Kind.MESH, "m", None, "m")
    assert address(("meshes", "m", "virtualNodes")) == Address(Kind.VIRTUAL_NODE, "m")
    assert address(("meshes", "m", "virtualRouter", "r", "routes", "x")) == Address(Kind.ROUTE, "m", "r", "x")
    assert address(("meshes", "m", "virtualRouters", "r", "routes")) is None
    assert address(("meshes", "m", "virtualGateway", "g", "routes")) is None


def test_signed_calls_reach_the_names_that_they_were_signed_with() -> None:
    name = "a/b %2F ü?*~"
    with serving({"MAKTEST": "secret"}) as api:
        aws = client(api)
        aws.create_mesh(meshName=name)
        aws.create_virtual_node(meshName=name, virtualNodeName=name, spec=NODE)
        assert payload(aws.describe_virtual_node(meshName=name, virtualNodeName=name))["virtualNodeName"] == name
        status, answer = api.call("GET", "/v20190125/meshes")
        assert status == 403 and answer["code"] == "MissingAuthenticationToken"
