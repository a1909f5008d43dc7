"""What one route becomes: matches, their order, weights, retries, timeouts. Without Envoy; test_routes_behave.py asks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from meshagent.envoy.accesslogs import access_logs
from meshagent.envoy.routes import (
    UNREACHABLE,
    clusters_named,
    direct_route_config,
    egress_route_config,
    ingress_route_config,
    tcp_idle_ms,
    tcp_targets,
)
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import route_key, service_key
from meshagent.specs.listeners import Listener
from meshagent.specs.logs import Logging
from meshagent.specs.routes import RouteSpec
from meshagent.specs.spec import Spec

SERVICE = service_key("shop", "orders.shop.local")
NODES = {("a", None): "to_a", ("a", 8080): "to_a", ("b", None): "to_b"}
TARGETS = {"weightedTargets": [{"virtualNode": "a", "weight": 1}]}


def spec_of(name: str, body: Mapping[str, Any]) -> Spec:
    return Spec(route_key("shop", "orders", name), RouteSpec.model_validate(body))


def http(name: str, match: Mapping[str, Any], priority: int | None = None, **more: Any) -> Spec:
    order = {} if priority is None else {"priority": priority}
    return spec_of(name, {"httpRoute": {"match": match, "action": TARGETS, **more}, **order})


def grpc(name: str, match: Mapping[str, Any], **more: Any) -> Spec:
    return spec_of(name, {"grpcRoute": {"match": match, "action": TARGETS, **more}})


def tcp(name: str, priority: int | None = None, **more: Any) -> Spec:
    order = {} if priority is None else {"priority": priority}
    return spec_of(name, {"tcpRoute": {"action": TARGETS, **more}, **order})


def compiled(
    *routes: Spec, port: int = 8080, protocol: PortProtocol = PortProtocol.HTTP
) -> tuple[list[Any], list[str]]:
    """The routes as Envoy's JSON, and the notices as text."""
    config, notices = egress_route_config(
        "rds", SERVICE, port, protocol, routes, lambda node, at: NODES.get((node, at))
    )
    host = MessageToDict(config, preserving_proto_field_name=True)["virtual_hosts"][0]
    assert host["domains"] == ["*"]
    return host.get("routes", []), [str(notice) for notice in notices]


def header(name: str, **matcher: Any) -> dict[str, Any]:
    return {"name": name, **matcher}


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"prefix": "/"}, {"prefix": "/"}),
        ({"prefix": "/foo"}, {"prefix": "/foo"}),
        ({}, {"prefix": "/"}),
        ({"port": 8080}, {"prefix": "/"}),
        ({"path": {"exact": "/a/b"}}, {"path": "/a/b"}),
        ({"path": {"regex": "/v[12]/.*"}}, {"safe_regex": {"regex": "/v[12]/.*"}}),
        (
            {"prefix": "/", "method": "PUT"},
            {"prefix": "/", "headers": [header(":method", string_match={"exact": "PUT"})]},
        ),
        (
            {"prefix": "/", "scheme": "https"},
            {"prefix": "/", "headers": [header(":scheme", string_match={"exact": "https"})]},
        ),
        (
            {
                "prefix": "/",
                "headers": [
                    {"name": "x-exact", "match": {"exact": "v"}},
                    {"name": "x-prefix", "match": {"prefix": "v"}},
                    {"name": "x-suffix", "match": {"suffix": "v"}, "invert": False},
                    {"name": "x-regex", "match": {"regex": "v.*[0-9]+"}, "invert": True},
                    {"name": "x-range", "match": {"range": {"start": -1, "end": 10}}},
                    {"name": "x-present"},
                    {"name": "x-absent", "invert": True},
                ],
            },
            {
                "prefix": "/",
                "headers": [
                    header("x-exact", string_match={"exact": "v"}),
                    header("x-prefix", string_match={"prefix": "v"}),
                    header("x-suffix", string_match={"suffix": "v"}),
                    header("x-regex", string_match={"safe_regex": {"regex": "v.*[0-9]+"}}, invert_match=True),
                    header("x-range", range_match={"start": "-1", "end": "10"}),
                    header("x-present", present_match=True),
                    header("x-absent", present_match=True, invert_match=True),
                ],
            },
        ),
        (
            {"prefix": "/", "queryParameters": [{"name": "q", "match": {"exact": "1"}}, {"name": "p"}, {"name": "r", "match": {}}]},
            {
                "prefix": "/",
                "query_parameters": [
                    {"name": "q", "string_match": {"exact": "1"}},
                    {"name": "p", "present_match": True},
                    {"name": "r", "present_match": True},
                ],
            },
        ),
    ],
)  # fmt: skip
def test_http_matches(match: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    routes, notices = compiled(http("only", match))
    assert routes[0]["match"] == expected
    assert notices == []


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, {"prefix": "/", "grpc": {}}),
        ({"serviceName": "shop.Orders"}, {"prefix": "/shop.Orders/", "grpc": {}}),
        ({"serviceName": "shop.Orders", "methodName": "Get"}, {"path": "/shop.Orders/Get", "grpc": {}}),
        (
            {"metadata": [{"name": "tenant", "match": {"prefix": "eu-"}, "invert": True}]},
            {
                "prefix": "/",
                "grpc": {},
                "headers": [header("tenant", string_match={"prefix": "eu-"}, invert_match=True)],
            },
        ),
    ],
)
def test_grpc_matches(match: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert compiled(grpc("only", match), protocol=PortProtocol.GRPC)[0][0]["match"] == expected


def test_numbers_beyond_what_envoy_reads_are_bounded() -> None:
    route = http(
        "only", {"prefix": "/", "headers": [{"name": "n", "match": {"range": {"start": -(2**70), "end": 2**70}}}]}
    )
    bounds = {"start": str(-(2**63)), "end": str(2**63 - 1)}
    assert compiled(route)[0][0]["match"]["headers"] == [header("n", range_match=bounds)]


def test_routes_for_another_port_or_protocol_are_passed_over() -> None:
    routes, _ = compiled(
        http("here", {"prefix": "/", "port": 8080}), http("there", {"prefix": "/", "port": 81}), grpc("g", {})
    )
    assert [route["name"] for route in routes] == ["here"]


def test_the_best_route_comes_first() -> None:
    routes = [
        http("any", {"prefix": "/"}),
        http("b-equal", {"prefix": "/long"}),
        http("a-equal", {"prefix": "/long"}),
        http("longer", {"prefix": "/long/er"}),
        http("narrower", {"prefix": "/long", "method": "GET"}),
        http("narrowest", {"prefix": "/long", "method": "GET", "headers": [{"name": "x"}]}),
        http("regex", {"path": {"regex": "/long.*"}}),
        http("exact", {"path": {"exact": "/long"}}),
        http("last-with-priority", {"prefix": "/"}, priority=1000),
        http("first", {"prefix": "/"}, priority=0),
    ]
    expected = [
        "first", "last-with-priority", "exact", "regex", "longer", "narrowest", "narrower", "a-equal", "b-equal", "any",
    ]  # fmt: skip
    for order in (routes, routes[::-1]):
        assert [route["name"] for route in compiled(*order)[0]] == expected


def test_grpc_methods_come_before_services_before_all() -> None:
    routes = [
        grpc("all", {}),
        grpc("service", {"serviceName": "s"}),
        grpc("method", {"serviceName": "s", "methodName": "m"}),
    ]
    names = [route["name"] for route in compiled(*routes, protocol=PortProtocol.GRPC)[0]]
    assert names == ["method", "service", "all"]


def weighted(*targets: tuple[str, int, int | None]) -> Spec:
    named = [{"virtualNode": n, "weight": w, **({"port": p} if p else {})} for n, w, p in targets]
    return spec_of("only", {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": named}}})


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([("a", 1, None)], {"to_a": None}),
        ([("a", 90, None), ("b", 10, None)], {"to_a": 90, "to_b": 10}),
        ([("a", 100, 8080), ("b", 0, None)], {"to_a": 100, "to_b": 0}),
        ([("a", 1, 8080), ("a", 2, None)], {"to_a": None}),
        ([("a", 9, None), ("gone", 1, None)], {"to_a": 9, UNREACHABLE: 1}),
        ([("a", 9, None), ("b", 1, 81)], {"to_a": 9, UNREACHABLE: 1}),
        ([("a", 0, None), ("b", 0, None)], {UNREACHABLE: None}),
        ([("a", 0, None)], {UNREACHABLE: None}),
    ],
)
def test_weights(targets: list[tuple[str, int, int | None]], expected: dict[str, int | None]) -> None:
    routes, notices = compiled(weighted(*targets))
    action = routes[0]["route"]
    if "cluster" in action:
        found = {action["cluster"]: None}
    else:
        found = {each["name"]: each["weight"] for each in action["weighted_clusters"]["clusters"]}
    assert found == expected
    assert bool(notices) == (UNREACHABLE in expected)


def test_a_missing_target_is_named_with_its_path() -> None:
    _, notices = compiled(weighted(("a", 1, None), ("gone", 1, 81)))
    assert notices == [
        "mesh/shop/virtualRouter/orders/route/only: spec.httpRoute.action.weightedTargets[1].virtualNode: "
        "the virtual node gone has no listener on port 81, or is not defined: its share of requests fails"
    ]


def test_the_clusters_of_a_configuration() -> None:
    routes = [weighted(("a", 1, None), ("gone", 1, None)), http("b", {"prefix": "/b"})]
    config, _ = egress_route_config("r", SERVICE, 1, PortProtocol.HTTP, routes, lambda node, at: NODES.get((node, at)))
    assert clusters_named(config) == {"to_a", UNREACHABLE}


PREDICATES = [
    {
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        },
    }
]
DEFAULT_RETRY = {
    "retry_on": "unavailable,connect-failure,refused-stream,retriable-status-codes",
    "num_retries": 2,
    "retriable_status_codes": [503],
    "host_selection_retry_max_attempts": "5",
    "retry_host_predicate": PREDICATES,
}


def test_a_route_that_says_nothing_has_the_hidden_default() -> None:
    assert compiled(http("only", {"prefix": "/"}))[0][0]["route"]["retry_policy"] == DEFAULT_RETRY


TWO_SECONDS = {"value": 2, "unit": "s"}


@pytest.mark.parametrize(
    ("protocol", "policy", "retry_on", "notices"),
    [
        ("http", {"httpRetryEvents": ["server-error"]}, "5xx", 0),
        ("http", {"httpRetryEvents": ["gateway-error", "client-error"]}, "gateway-error,retriable-4xx", 0),
        ("http", {"httpRetryEvents": ["stream-error"], "tcpRetryEvents": ["connection-error"]}, "refused-stream,connect-failure", 0),
        ("http", {"httpRetryEvents": ["server-error", "teapot"]}, "5xx", 1),
        (
            "grpc",
            {"grpcRetryEvents": ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]},
            "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable",
            0,
        ),
    ],
)  # fmt: skip
def test_retry_events(protocol: str, policy: Mapping[str, Any], retry_on: str, notices: int) -> None:
    policy = {"maxRetries": 3, "perRetryTimeout": TWO_SECONDS, **policy}
    make = http if protocol == "http" else grpc
    match = {"prefix": "/"} if protocol == "http" else {}
    routes, found = compiled(make("only", match, retryPolicy=policy), protocol=PortProtocol(protocol))
    assert routes[0]["route"]["retry_policy"] == {
        "retry_on": retry_on,
        "num_retries": 3,
        "per_try_timeout": "2s",
        "host_selection_retry_max_attempts": "5",
        "retry_host_predicate": PREDICATES,
    }
    assert len(found) == notices


@pytest.mark.parametrize(
    ("policy", "notices"),
    [
        ({"maxRetries": 0, "httpRetryEvents": ["server-error"]}, []),
        ({"maxRetries": 2}, ["spec.httpRoute.retryPolicy: names no event that Envoy knows, so nothing is retried"]),
    ],
)
def test_no_retries(policy: Mapping[str, Any], notices: list[str]) -> None:
    route = http("only", {"prefix": "/"}, retryPolicy={"perRetryTimeout": TWO_SECONDS, **policy})
    routes, found = compiled(route)
    assert "retry_policy" not in routes[0]["route"]
    assert [text.partition(": ")[2] for text in found] == notices


def test_a_limit_of_0_for_each_retry_is_none() -> None:
    policy = {"maxRetries": 1, "httpRetryEvents": ["server-error"], "perRetryTimeout": {"value": 0}}
    retry = compiled(http("only", {"prefix": "/"}, retryPolicy=policy))[0][0]["route"]["retry_policy"]
    assert "per_try_timeout" not in retry


@pytest.mark.parametrize(
    ("timeout", "request_", "idle"),
    [
        (None, "15s", "300s"),
        ({}, "15s", "300s"),
        ({"perRequest": {"value": 1500, "unit": "ms"}}, "1.500s", "300s"),
        ({"idle": {"value": 20, "unit": "s"}}, "15s", "20s"),
        ({"perRequest": {"value": 0, "unit": "s"}, "idle": {"value": 0, "unit": "ms"}}, "0s", "0s"),
    ],
)
def test_timeouts(timeout: Mapping[str, Any] | None, request_: str, idle: str) -> None:
    more = {} if timeout is None else {"timeout": timeout}
    action = compiled(http("only", {"prefix": "/"}, **more))[0][0]["route"]
    assert (action["timeout"], action["idle_timeout"]) == (request_, idle)
    given = {} if timeout is None else {"timeout": {"http": timeout}}
    listener = Listener.model_validate({"portMapping": {"port": 8080, "protocol": "http"}, **given})
    for config in (direct_route_config("r", SERVICE, "to_a", listener), ingress_route_config("r", "local", listener)):
        action = MessageToDict(config, preserving_proto_field_name=True)["virtual_hosts"][0]["routes"][0]["route"]
        assert (action["timeout"], action["idle_timeout"]) == (request_, idle)


def test_a_node_as_provider_has_default_retries_and_its_ingress_none() -> None:
    listener = Listener.model_validate({"portMapping": {"port": 8080, "protocol": "grpc"}})
    direct = MessageToDict(direct_route_config("r", SERVICE, "to_a", listener), preserving_proto_field_name=True)
    assert direct == {
        "name": "r",
        "virtual_hosts": [
            {
                "name": "orders.shop.local",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {
                            "cluster": "to_a",
                            "timeout": "15s",
                            "idle_timeout": "300s",
                            "retry_policy": DEFAULT_RETRY,
                        },
                    }
                ],
            }
        ],
    }
    ingress = MessageToDict(ingress_route_config("r", "local", listener), preserving_proto_field_name=True)
    assert "retry_policy" not in ingress["virtual_hosts"][0]["routes"][0]["route"]


@pytest.mark.parametrize(
    ("match", "where"),
    [
        ({"prefix": "/", "queryParameters": [{"name": ""}]}, "queryParameters[0].name"),
        ({"prefix": "/", "queryParameters": [{"name": "q" * 1025}]}, "queryParameters[0].name"),
        ({"prefix": "/", "headers": [{"name": "ok"}, {"name": "a\nb"}]}, "headers[1].name"),
    ],
)
def test_a_match_that_envoy_would_refuse_leaves_out_its_route_only(match: Mapping[str, Any], where: str) -> None:
    routes, notices = compiled(http("bad", match), http("good", {"prefix": "/good"}))
    assert [route["name"] for route in routes] == ["good"]
    assert len(notices) == 1
    assert f"spec.httpRoute.match.{where}: " in notices[0]


def test_connect_is_named() -> None:
    routes, notices = compiled(http("only", {"prefix": "/", "method": "CONNECT"}))
    assert len(routes) == 1
    assert "spec.httpRoute.match.method" in notices[0]


def tcp_of(*routes: Spec, port: int = 5432) -> tuple[Any, list[str]]:
    targets, notices = tcp_targets(routes, port, lambda node, at: NODES.get((node, at)))
    return targets, [str(notice) for notice in notices]


def test_tcp_targets() -> None:
    action = {
        "weightedTargets": [
            {"virtualNode": "a", "weight": 3},
            {"virtualNode": "b", "weight": 0},
            {"virtualNode": "gone", "weight": 1},
        ]
    }
    targets, notices = tcp_of(tcp("only", action=action))
    # tcp_proxy takes no weight of 0.
    assert targets.weighted == (("to_a", 3), (UNREACHABLE, 1))
    assert targets.idle_ms == 300_000
    assert len(notices) == 1


def test_of_several_tcp_routes_one_is_used() -> None:
    timeout = {"idle": {"value": 7, "unit": "s"}}
    routes = [tcp("any"), tcp("here", match={"port": 5432}, timeout=timeout), tcp("there", match={"port": 1})]
    targets, notices = tcp_of(*routes)
    assert targets.idle_ms == 7000
    assert notices == [
        "mesh/shop/virtualRouter/orders/route/any: spec.tcpRoute: never used: connections to port 5432 take the route here"
    ]
    assert tcp_of(*routes, tcp("urgent", priority=0, timeout={"idle": {"value": 0}}))[0].idle_ms == 0
    assert tcp_of(http("h", {"prefix": "/"})) == (None, [])


def test_a_tcp_listeners_idle_timeout() -> None:
    def idle(**more: Any) -> int:
        return tcp_idle_ms(Listener.model_validate({"portMapping": {"port": 1, "protocol": "tcp"}, **more}))

    assert idle() == 300_000
    assert idle(timeout={"tcp": {"idle": {"value": 4, "unit": "s"}}}) == 4000


def log_of(format_: Mapping[str, Any] | None) -> Any:
    file = {"path": "/dev/stdout", **({"format": format_} if format_ else {})}
    made = access_logs(Logging.model_validate({"accessLog": {"file": file}}))
    assert len(made) == 1
    return MessageToDict(made[0], preserving_proto_field_name=True)["typed_config"]


def test_access_logs() -> None:
    assert access_logs(None) == []
    assert access_logs(Logging()) == []
    kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    assert log_of(None) == {"@type": kind, "path": "/dev/stdout"}
    assert log_of({"text": "%PROTOCOL%"})["log_format"] == {"text_format_source": {"inline_string": "%PROTOCOL%\n"}}
    assert log_of({"json": [{"key": "path", "value": "%REQ(:PATH)%"}]})["log_format"] == {
        "json_format": {"path": "%REQ(:PATH)%"}
    }
