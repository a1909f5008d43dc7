"""What one gateway route becomes: hosts, rewrites, targets, their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from meshagent.envoy.gatewayroutes import gateway_route_config
from meshagent.envoy.routes import UNREACHABLE
from meshagent.specs.gateways import GatewayRouteSpec
from meshagent.specs.keys import gateway_route_key
from meshagent.specs.spec import Spec

SERVICES = {("orders.local", None): "to_orders", ("orders.local", 8081): "to_orders_8081"}
TARGET = {"virtualService": {"virtualServiceName": "orders.local"}}
BY_NAME = {"host_rewrite_literal": "orders.local"}


def route(
    name: str, match: Mapping[str, Any], kind: str = "httpRoute", priority: int | None = None, **action: Any
) -> Spec:
    order = {} if priority is None else {"priority": priority}
    body = {kind: {"match": match, "action": {"target": TARGET, **action}}, **order}
    return Spec(gateway_route_key("shop", "front", name), GatewayRouteSpec.model_validate(body))


def compiled(*routes: Spec, port: int = 80) -> tuple[list[Any], list[str]]:
    config, notices = gateway_route_config("rds", port, routes, lambda service, at: SERVICES.get((service, at)))
    host = MessageToDict(config, preserving_proto_field_name=True)["virtual_hosts"][0]
    assert host["domains"] == ["*"]
    return host.get("routes", []), [str(notice) for notice in notices]


def replaced(pattern: str, by: str) -> dict[str, Any]:
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": by}}


KEEP_HOST = {"hostname": {"defaultTargetHostname": "DISABLED"}}
KEEP_PREFIX = {"prefix": {"defaultPrefix": "DISABLED"}}


@pytest.mark.parametrize(
    ("match", "rewrite", "expected"),
    [
        ({"prefix": "/"}, None, BY_NAME),
        ({"port": 80}, None, BY_NAME),
        ({"prefix": "/chapter/"}, None, {**BY_NAME, "prefix_rewrite": "/"}),
        ({"prefix": "/chapter"}, None, {**BY_NAME, **replaced("^/chapter/?", "/")}),
        ({"prefix": "/a.b"}, {}, {**BY_NAME, **replaced(r"^/a\.b/?", "/")}),
        ({"prefix": "/chapter"}, KEEP_PREFIX, BY_NAME),
        ({"prefix": "/chapter"}, KEEP_HOST | KEEP_PREFIX, {}),
        ({"prefix": "/chapter/"}, KEEP_HOST, {"prefix_rewrite": "/"}),
        ({"prefix": "/chapter/"}, {"prefix": {"defaultPrefix": "ENABLED"}}, {**BY_NAME, "prefix_rewrite": "/"}),
        ({"prefix": "/chapter/"}, {"prefix": {"value": "/book/"}}, {**BY_NAME, "prefix_rewrite": "/book/"}),
        ({"prefix": "/chapter"}, {"prefix": {"value": "/book/"}}, {**BY_NAME, **replaced("^/chapter/?", "/book/")}),
        ({"prefix": "/"}, {"prefix": {"value": r"/\1/"}}, {**BY_NAME, "prefix_rewrite": r"/\1/"}),
        ({"prefix": "/c"}, {"prefix": {"value": r"/\1/"}}, {**BY_NAME, **replaced("^/c/?", r"/\\1/")}),
        ({"path": {"exact": "/a"}}, None, BY_NAME),
        ({"path": {"exact": "/a"}}, {"path": {"exact": "/b"}}, {**BY_NAME, "prefix_rewrite": "/b"}),
        ({"path": {"regex": "/a.*"}}, {"path": {"exact": "/b"}}, {**BY_NAME, "prefix_rewrite": "/b"}),
        ({"prefix": "/a"}, {"path": {"exact": "/b"}}, {**BY_NAME, **replaced("^/.*", "/b")}),
    ],
)
def test_rewrites(match: Mapping[str, Any], rewrite: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> None:
    more = {} if rewrite is None else {"rewrite": rewrite}
    routes, notices = compiled(route("only", match, **more))
    # The service's own routes, further on, are what times out and retries.
    assert routes[0]["route"] == {"cluster": "to_orders", "timeout": "0s", "idle_timeout": "0s", **expected}
    assert notices == []


def test_a_prefix_rewrite_of_a_whole_path_is_named() -> None:
    _, notices = compiled(route("only", {"path": {"exact": "/a"}}, rewrite={"prefix": {"value": "/b/"}}))
    assert len(notices) == 1
    assert "mesh/shop/virtualGateway/front/gatewayRoute/only: spec.httpRoute.action.rewrite.prefix: " in notices[0]


@pytest.mark.parametrize(
    ("hostname", "pattern"),
    [
        ({"exact": "a.example.com"}, r"(?i)a\.example\.com(:[0-9]+)?"),
        ({"suffix": ".example.com"}, r"(?i).*\.example\.com(:[0-9]+)?"),
    ],
)
@pytest.mark.parametrize("kind", ["httpRoute", "http2Route", "grpcRoute"])
def test_hostnames(kind: str, hostname: Mapping[str, str], pattern: str) -> None:
    match = compiled(route("only", {"hostname": hostname}, kind))[0][0]["match"]
    assert match["prefix"] == "/"
    assert ("grpc" in match) == (kind == "grpcRoute")
    assert match["headers"] == [{"name": ":authority", "string_match": {"safe_regex": {"regex": pattern}}}]


def test_grpc_services() -> None:
    routes, _ = compiled(
        route("only", {"serviceName": "s.V1", "metadata": [{"name": "m"}]}, "grpcRoute", rewrite=KEEP_HOST)
    )
    assert routes[0]["match"] == {"prefix": "/s.V1/", "grpc": {}, "headers": [{"name": "m", "present_match": True}]}
    assert "host_rewrite_literal" not in routes[0]["route"]


def test_the_best_route_comes_first() -> None:
    routes = [
        route("any", {"prefix": "/"}),
        route("long", {"prefix": "/long"}),
        route("suffix", {"prefix": "/", "hostname": {"suffix": ".com"}}),
        route("longer-suffix", {"prefix": "/", "hostname": {"suffix": ".example.com"}}),
        route("host", {"prefix": "/", "hostname": {"exact": "a.example.com"}}),
        route("host-long", {"prefix": "/long", "hostname": {"exact": "a.example.com"}}),
        route("urgent", {"prefix": "/"}, priority=5),
    ]
    expected = ["urgent", "host-long", "host", "longer-suffix", "suffix", "long", "any"]
    for order in (routes, routes[::-1]):
        assert [each["name"] for each in compiled(*order)[0]] == expected


def test_ports_and_targets() -> None:
    routes = [
        route("here", {"prefix": "/a/", "port": 80}, target={**TARGET, "port": 8081}),
        route("there", {"prefix": "/b/", "port": 81}),
        route("nowhere", {"prefix": "/c/"}, target={"virtualService": {"virtualServiceName": "gone.local"}}),
    ]
    made, notices = compiled(*routes)
    assert {each["name"]: each["route"]["cluster"] for each in made} == {
        "here": "to_orders_8081",
        "nowhere": UNREACHABLE,
    }
    assert len(notices) == 1
    assert (
        "gatewayRoute/nowhere: spec.httpRoute.action.target: the virtual service gone.local is not defined"
        in notices[0]
    )
