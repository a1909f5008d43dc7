"""/v1/apply and /v1/documents: whole sets, all or nothing, all errors at once."""

from __future__ import annotations

from typing import Any

import pytest

from meshagent.api.changes import ChangeKind
from tests.api.serving import Api

NODE = {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}]}


def doc(kind: str, spec: Any, source: Any = None, **names: str) -> dict[str, Any]:
    return {"kind": kind, **names, "spec": spec, **({"source": source} if source else {})}


MESH = doc("Mesh", {}, meshName="shop")
WEB = doc("VirtualNode", NODE, {"file": "mesh.yaml", "line": 4}, meshName="shop", virtualNodeName="web")
ROUTER = doc("VirtualRouter", {}, meshName="shop", virtualRouterName="r")
SERVICE = doc(
    "VirtualService",
    {"provider": {"virtualRouter": {"virtualRouterName": "r"}}},
    meshName="shop",
    virtualServiceName="web.local",
)
POLICY = doc("VirtualNodePolicy", {"endpoints": "leases"}, meshName="shop", virtualNodeName="web")
ALL = [POLICY, SERVICE, ROUTER, WEB, MESH]


def apply(api: Api, documents: list[Any], **more: Any) -> tuple[int, Any]:
    return api.call("POST", "/v1/apply", {"documents": documents, **more})


def test_a_set_is_applied_at_one_revision_parents_first(api: Api) -> None:
    status, answer = apply(api, ALL)
    assert status == 200
    assert [(change["resource"], change["change"]) for change in answer["changes"]] == [
        ("mesh/shop", "create"),
        ("mesh/shop/virtualNode/web", "create"),
        ("mesh/shop/virtualNodePolicy/web", "create"),
        ("mesh/shop/virtualRouter/r", "create"),
        ("mesh/shop/virtualService/web.local", "create"),
    ]
    assert answer["changes"][1]["before"] is None
    assert answer["changes"][1]["after"] == NODE
    assert answer["proxies"] == []
    status, again = apply(api, ALL)
    assert (status, again["revision"]) == (200, answer["revision"])
    assert {change["change"] for change in again["changes"]} == {"none"}


def test_what_changes_is_shown_before_and_after(api: Api) -> None:
    first = apply(api, ALL)[1]
    status, answer = apply(api, [WEB, {**SERVICE, "spec": {}}])
    assert status == 200 and answer["revision"] == first["revision"] + 1
    assert [change["change"] for change in answer["changes"]] == ["none", "update"]
    assert answer["changes"][1]["before"] == SERVICE["spec"]
    assert answer["changes"][1]["after"] == {}


def test_a_dry_run_asks_for_the_proxies_and_writes_nothing(api: Api) -> None:
    revision = apply(api, [MESH, WEB])[1]["revision"]
    status, answer = apply(api, ALL, dryRun=True)
    assert (status, answer["revision"]) == (200, revision)
    assert [change["change"] for change in answer["changes"]] == ["none", "none", "create", "create", "create"]
    assert answer["proxies"] == [{"proxy": "p1", "change": "changed"}]
    (changes,) = api.previewed
    assert [change.kind for change in changes] == [ChangeKind.CREATE] * 3
    assert len(api.call("GET", "/v1/documents")[1]["documents"]) == 2
    assert apply(api, [MESH, WEB], dryRun=True)[1]["proxies"] == []
    assert len(api.previewed) == 1


def test_all_errors_of_all_documents_come_at_once_and_nothing_is_written(api: Api) -> None:
    wrong = [
        {**WEB, "spec": {"listeners": [{"portMapping": {"port": 0, "protocol": "x"}}]}},
        doc("VirtualNod", {}, {"file": "other.yaml", "line": 9}, meshName="shop"),
        {**MESH, "spec": {"egress": 1}},
    ]
    status, answer = apply(api, [*wrong, ROUTER])
    assert (status, answer["code"]) == (400, "BadRequestException")
    found = {(error["file"], error["line"], error["path"]) for error in answer["errors"]}
    assert found >= {
        ("mesh.yaml", 4, "spec.listeners[0].portMapping.port"),
        ("mesh.yaml", 4, "spec.listeners[0].portMapping.protocol"),
        ("other.yaml", 9, "kind"),
        ("", 0, "spec.egress"),
    }
    assert api.call("GET", "/v1/documents")[1]["documents"] == []


def test_a_parent_must_be_there_or_in_the_same_call(api: Api) -> None:
    status, answer = apply(api, [WEB, ROUTER])
    assert (status, answer["code"]) == (404, "NotFoundException")
    assert [(error["resource"], error["path"], error["line"]) for error in answer["errors"]] == [
        ("mesh/shop/virtualNode/web", "meshName", 4),
        ("mesh/shop/virtualRouter/r", "meshName", 0),
    ]
    assert apply(api, [MESH])[0] == 200
    assert apply(api, [WEB, ROUTER])[0] == 200


def test_one_resource_twice_in_one_call(api: Api) -> None:
    status, answer = apply(api, [MESH, WEB, {**WEB, "spec": {}}])
    assert status == 400
    assert "mesh.yaml:4" in answer["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": {}}, "documents"),
        ({"documents": [MESH], "dryRun": "yes"}, "dryRun"),
        ({"documents": [MESH], "dry": True}, "dry"),
        ({"documents": [7]}, "documents[0]"),
        ({"documents": [MESH, {**WEB, "source": {"line": 4}}]}, "documents[1]"),
        ({"documents": [{**WEB, "source": {"file": "a", "line": -1}}]}, "documents[0]"),
        ({"documents": [{**WEB, "source": "a"}]}, "documents[0]"),
    ],
)
def test_bodies_that_are_refused(api: Api, body: Any, words: str) -> None:
    status, answer = api.call("POST", "/v1/apply", body)
    assert status == 400
    assert words in answer["message"]


def test_documents_are_chosen(api: Api) -> None:
    apply(
        api, [*ALL, doc("Mesh", {}, meshName="other"), doc("VirtualNode", {}, meshName="other", virtualNodeName="web")]
    )

    def paths(query: str) -> list[str]:
        status, answer = api.call("GET", f"/v1/documents?{query}")
        assert status == 200
        return [document["metadata"]["arn"].partition(":mesh/")[2] for document in answer["documents"]]

    assert len(paths("")) == 7
    assert paths("mesh=other") == ["other", "other/virtualNode/web"]
    assert paths("kind=virtualnode") == ["other/virtualNode/web", "shop/virtualNode/web"]
    assert paths("kind=VirtualNode&mesh=shop&name=web") == ["shop/virtualNode/web"]
    assert paths("parent=r") == []
    assert paths("name=nothing") == []
    assert api.call("GET", "/v1/documents?kind=Nod")[0] == 400
    assert api.call("GET", "/v1/documents?nam=web")[0] == 400


def test_what_is_shown_can_be_applied_again(api: Api) -> None:
    apply(api, ALL)
    shown = api.call("GET", "/v1/documents")[1]["documents"]
    (web,) = [document for document in shown if document["kind"] == "VirtualNode"]
    assert web["source"] == {"file": "mesh.yaml", "line": 4}
    assert web["metadata"]["version"] == 1
    answer = apply(api, shown)[1]
    assert {change["change"] for change in answer["changes"]} == {"none"}


def test_documents_are_deleted_unless_something_needs_them(api: Api) -> None:
    revision = apply(api, ALL)[1]["revision"]
    status, answer = api.call("DELETE", "/v1/documents?path=mesh/shop/virtualRouter/r")
    assert (status, answer["code"]) == (409, "ResourceInUseException")
    assert "mesh/shop/virtualService/web.local" in answer["message"]
    status, answer = api.call("DELETE", "/v1/documents?path=mesh/shop/virtualService/web.local")
    assert (status, answer["revision"]) == (200, revision + 1)
    assert answer["deleted"] == ["mesh/shop/virtualService/web.local"]
    assert {"resource": "mesh/shop/virtualRouter/r", "path": "", "message": "has no route"} in answer["problems"]
    assert api.call("DELETE", "/v1/documents?path=mesh/shop/virtualService/web.local")[0] == 404
    for path in ("", "mesh", "shop/virtualNode/web"):
        assert api.call("DELETE", f"/v1/documents?path={path}")[0] == 400


def test_policies_go_with_their_mesh(api: Api) -> None:
    apply(api, [MESH, POLICY, doc("MeshPolicy", {"mutualTls": "STRICT"}, meshName="shop")])
    status, answer = api.call("DELETE", "/v1/documents?path=mesh/shop")
    assert status == 200
    assert answer["deleted"] == ["mesh/shop/meshPolicy", "mesh/shop/virtualNodePolicy/web", "mesh/shop"]
    assert api.call("GET", "/v1/documents")[1]["documents"] == []


def test_writes_are_refused_while_the_gate_says_why_and_a_dry_run_is_not(api: Api) -> None:
    api.gate.append("the store was rolled back")
    status, answer = apply(api, [MESH])
    assert (status, answer["code"]) == (503, "ServiceUnavailableException")
    assert "the store was rolled back" in answer["message"]
    assert apply(api, [MESH], dryRun=True)[0] == 200
