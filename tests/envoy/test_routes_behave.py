"""Routes as the real Envoy carries them out: one Envoy from a static configuration, backends that say which cluster they are."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshagent.envoy.gatewayroutes import gateway_route_config
from meshagent.envoy.memo import Digested
from meshagent.envoy.routes import direct_route_config, egress_route_config, ingress_route_config
from meshagent.specs.fields import PortProtocol
from meshagent.specs.gateways import GatewayRouteSpec
from meshagent.specs.keys import gateway_route_key, route_key, service_key
from meshagent.specs.listeners import Listener
from meshagent.specs.logs import Logging
from meshagent.specs.routes import RouteSpec
from meshagent.specs.spec import Spec
from tests.envoy.static import DEADLINE, ask, serving

pytestmark = pytest.mark.envoy

SERVICE = service_key("shop", "orders.local")
BACKENDS = ("a", "b", "c", "d", "e", "f")


def to(*targets: tuple[str, int]) -> dict[str, Any]:
    return {"weightedTargets": [{"virtualNode": node, "weight": weight} for node, weight in targets]}


# (name, priority, kind, match, targets, anything more)
Row = tuple[str, int | None, str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
RETRY_ONCE = {"maxRetries": 1, "perRetryTimeout": {"value": 5, "unit": "s"}, "httpRetryEvents": ["server-error"]}
NO_RETRY = {**RETRY_ONCE, "maxRetries": 0}
# The most that a document may say: Envoy must take it.
MOST = {
    "timeout": {"perRequest": {"value": 9223372035, "unit": "s"}, "idle": {"value": 9223372035, "unit": "s"}},
    "retryPolicy": {**RETRY_ONCE, "maxRetries": 2147483647, "perRetryTimeout": {"value": 9223372035, "unit": "s"}},
}
ROUTES: Sequence[Row] = (
    ("prefix", None, "httpRoute", {"prefix": "/m"}, to(("a", 1)), {}),
    ("longer", None, "httpRoute", {"prefix": "/m/long"}, to(("b", 1)), {}),
    ("exact", None, "httpRoute", {"path": {"exact": "/m/exact"}}, to(("c", 1)), {}),
    ("regex", None, "httpRoute", {"path": {"regex": "/m/[0-9]+"}}, to(("d", 1)), {}),
    ("method", None, "httpRoute", {"prefix": "/m", "method": "PUT"}, to(("e", 1)), {}),
    ("urgent", 0, "httpRoute", {"prefix": "/m", "headers": [{"name": "x-urgent"}]}, to(("f", 1)), {}),
    ("h-prefix", None, "httpRoute", {"prefix": "/h", "headers": [{"name": "x", "match": {"prefix": "pre"}}]}, to(("a", 1)), {}),
    ("h-suffix", None, "httpRoute", {"prefix": "/h", "headers": [{"name": "x", "match": {"suffix": "fix"}}]}, to(("b", 1)), {}),
    ("h-regex", None, "httpRoute", {"prefix": "/h", "headers": [{"name": "x", "match": {"regex": "r[0-9]"}}]}, to(("c", 1)), {}),
    (
        "h-range", None, "httpRoute",
        {"prefix": "/h", "headers": [{"name": "x", "match": {"range": {"start": 10, "end": 20}}}]}, to(("d", 1)), {},
    ),
    (
        "h-absent", None, "httpRoute",
        {"prefix": "/h", "headers": [{"name": "x", "invert": True}]}, to(("e", 1)), {},
    ),
    (
        "q", None, "httpRoute",
        {"prefix": "/q", "queryParameters": [{"name": "k", "match": {"exact": "1"}}, {"name": "p"}]}, to(("a", 1)), {},
    ),
    ("s-http", None, "httpRoute", {"prefix": "/s", "scheme": "http"}, to(("a", 1)), {}),
    ("s-https", None, "httpRoute", {"prefix": "/s", "scheme": "https"}, to(("b", 1)), {}),
    ("split", None, "httpRoute", {"prefix": "/w/split"}, to(("a", 90), ("b", 10)), {}),
    ("shifted", None, "httpRoute", {"prefix": "/w/shifted"}, to(("a", 0), ("b", 100)), {}),
    ("gone", None, "httpRoute", {"prefix": "/w/gone"}, to(("a", 50), ("gone", 50)), {"retryPolicy": NO_RETRY}),
    ("zero", None, "httpRoute", {"prefix": "/w/zero"}, to(("a", 0), ("b", 0)), {}),
    ("retry-default", None, "httpRoute", {"prefix": "/r/default"}, to(("a", 1)), {}),
    ("retry-once", None, "httpRoute", {"prefix": "/r/once"}, to(("a", 1)), {"retryPolicy": RETRY_ONCE}),
    ("retry-never", None, "httpRoute", {"prefix": "/r/never"}, to(("a", 1)), {"retryPolicy": NO_RETRY}),
    ("most", None, "httpRoute", {"prefix": "/most"}, to(("a", 1)), MOST),
    ("slow", None, "httpRoute", {"prefix": "/slow"}, to(("a", 1)), {"timeout": {"perRequest": {"value": 300, "unit": "ms"}}}),
)  # fmt: skip
GRPC_ROUTES: Sequence[Row] = (
    ("all", None, "grpcRoute", {}, to(("a", 1)), {}),
    ("service", None, "grpcRoute", {"serviceName": "shop.Orders"}, to(("b", 1)), {}),
    ("method", None, "grpcRoute", {"serviceName": "shop.Orders", "methodName": "Get"}, to(("c", 1)), {}),
    ("metadata", 0, "grpcRoute", {"metadata": [{"name": "tenant", "match": {"exact": "eu"}}]}, to(("d", 1)), {}),
)
GATEWAY_ROUTES: Sequence[tuple[str, int | None, Mapping[str, Any], str, Mapping[str, Any] | None]] = (
    ("chapter", None, {"prefix": "/chapter"}, "a", None),
    ("slashed", None, {"prefix": "/slashed/"}, "a", None),
    ("kept", None, {"prefix": "/kept"}, "a", {"prefix": {"defaultPrefix": "DISABLED"}}),
    ("host-kept", None, {"prefix": "/host-kept"}, "a", {"hostname": {"defaultTargetHostname": "DISABLED"}}),
    ("value", None, {"prefix": "/value"}, "a", {"prefix": {"value": "/book/"}}),
    ("path", None, {"path": {"exact": "/path/old"}}, "a", {"path": {"exact": "/path/new"}}),
    ("regex", None, {"path": {"regex": "/regex/.*"}}, "a", {"path": {"exact": "/regex/new"}}),
    ("host", None, {"prefix": "/", "hostname": {"exact": "a.example.com"}}, "b", None),
    ("suffix", None, {"prefix": "/", "hostname": {"suffix": ".example.com"}}, "c", None),
)


def routes_of(rows: Sequence[Row], protocol: PortProtocol) -> Any:
    specs = [
        Spec(
            route_key("shop", "orders", name),
            RouteSpec.model_validate(
                {
                    kind: {"match": match, "action": action, **more},
                    **({} if priority is None else {"priority": priority}),
                }
            ),
        )
        for name, priority, kind, match, action, more in rows
    ]
    return egress_route_config("r", SERVICE, 1, protocol, specs, lambda node, _: node if node in BACKENDS else None)[0]


def gateway_routes() -> Any:
    specs = []
    for name, priority, match, service, rewrite in GATEWAY_ROUTES:
        action = {
            "target": {"virtualService": {"virtualServiceName": service}},
            **({"rewrite": rewrite} if rewrite else {}),
        }
        body = {"httpRoute": {"match": match, "action": action}, **({} if priority is None else {"priority": priority})}
        specs.append(Spec(gateway_route_key("shop", "front", name), GatewayRouteSpec.model_validate(body)))
    return gateway_route_config("r", 1, specs, lambda service, _: service)[0]


def access_log(path: Path, name: str) -> Digested:
    """Of the http listener as text, of the others as JSON."""
    json_form = [{"key": "path", "value": "%REQ(:PATH)%"}, {"key": "route", "value": "%ROUTE_NAME%"}]
    form = {"text": "%REQ(:PATH)% took %ROUTE_NAME%"} if name == "http" else {"json": json_form}
    logging = Logging.model_validate({"accessLog": {"file": {"path": str(path / f"{name}.log"), "format": form}}})
    return Digested(name, logging)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mesh-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def envoy(envoy_binary: Path, directory: Path) -> Iterator[Mapping[str, int]]:
    """The ports of: a service's http routes, its grpc routes, a service that a node provides, a node's ingress, a gateway."""
    listener = Listener.model_validate(
        {
            "portMapping": {"port": 1, "protocol": "http"},
            "timeout": {"http": {"perRequest": {"value": 300, "unit": "ms"}}},
        }
    )
    configs = {
        "http": routes_of(ROUTES, PortProtocol.HTTP),
        "grpc": routes_of(GRPC_ROUTES, PortProtocol.GRPC),
        "direct": direct_route_config("r", SERVICE, "a", listener),
        "ingress": ingress_route_config("r", "a", listener),
        "gateway": gateway_routes(),
    }
    logged = {name: (config, access_log(directory, name)) for name, config in configs.items()}
    with serving(envoy_binary, directory, BACKENDS, logged) as where:
        yield where


@pytest.mark.parametrize(
    ("path", "method", "headers", "cluster"),
    [
        ("/m", "GET", {}, "a"),
        ("/moreover", "GET", {}, "a"),
        ("/m/long/one", "GET", {}, "b"),
        ("/m/exact", "GET", {}, "c"),
        ("/m/exact?q=1", "GET", {}, "c"),
        ("/m/exactly", "GET", {}, "a"),
        ("//m//exact", "GET", {}, "c"),
        ("/none/../m/exact", "GET", {}, "c"),
        ("/m/42", "GET", {}, "d"),
        ("/m/42x", "GET", {}, "a"),
        ("/m", "PUT", {}, "e"),
        ("/m/exact", "GET", {"x-urgent": "1"}, "f"),
        ("/h", "GET", {"x": "prelude"}, "a"),
        ("/h", "GET", {"x": "affix"}, "b"),
        ("/h", "GET", {"x": "r7"}, "c"),
        ("/h", "GET", {"x": "r77"}, None),
        ("/h", "GET", {"x": "10"}, "d"),
        ("/h", "GET", {"x": "19"}, "d"),
        ("/h", "GET", {"x": "20"}, None),
        ("/h", "GET", {}, "e"),
        ("/q?p&k=1", "GET", {}, "a"),
        ("/q?p=x&k=2", "GET", {}, None),
        ("/q?k=1", "GET", {}, None),
        ("/s", "GET", {}, "a"),
        ("/most", "GET", {}, "a"),
        ("/none", "GET", {}, None),
    ],
)
def test_http_requests(
    envoy: Mapping[str, int], path: str, method: str, headers: dict[str, str], cluster: str | None
) -> None:
    status, answer = ask(envoy["http"], path, method, **headers)
    assert (status, answer.get("cluster")) == ((404, None) if cluster is None else (200, cluster))


@pytest.mark.parametrize(
    ("path", "headers", "cluster"),
    [
        ("/shop.Orders/Get", {}, "c"),
        ("/shop.Orders/Put", {}, "b"),
        ("/shop.Other/Get", {}, "a"),
        ("/shop.Orders/Get", {"tenant": "eu"}, "d"),
    ],
)
def test_grpc_calls(envoy: Mapping[str, int], path: str, headers: dict[str, str], cluster: str) -> None:
    status, answer = ask(envoy["grpc"], path, "POST", **{"content-type": "application/grpc", **headers})
    assert (status, answer["cluster"]) == (200, cluster)


def test_what_is_not_grpc_takes_no_grpc_route(envoy: Mapping[str, int]) -> None:
    assert ask(envoy["grpc"], "/shop.Orders/Get", "POST") == (404, {})


def test_weights(envoy: Mapping[str, int]) -> None:
    counted = Counter(ask(envoy["http"], "/w/split")[1]["cluster"] for _ in range(600))
    # 540 are expected; six standard deviations are 44.
    assert set(counted) == {"a", "b"}
    assert abs(counted["a"] - 540) < 45
    assert {ask(envoy["http"], "/w/shifted")[1]["cluster"] for _ in range(50)} == {"b"}


def test_the_share_of_a_missing_target_fails_and_stays_its_share(envoy: Mapping[str, int]) -> None:
    counted = Counter(ask(envoy["http"], "/w/gone")[0] for _ in range(200))
    assert set(counted) == {200, 503}
    assert abs(counted[503] - 100) < 45
    assert {ask(envoy["http"], "/w/zero")[0] for _ in range(10)} == {503}


@pytest.mark.parametrize(
    ("path", "fail", "expected"),
    [
        ("/r/default/1", 2, (200, 3)),
        ("/r/default/2", 3, (503, 3)),
        ("/r/once/1", 1, (200, 2)),
        ("/r/once/2", 2, (503, 2)),
        ("/r/never/1", 1, (503, 1)),
    ],
)
def test_retries(envoy: Mapping[str, int], path: str, fail: int, expected: tuple[int, int]) -> None:
    status, answer = ask(envoy["http"], path, fail=str(fail))
    assert (status, answer["tries"]) == expected


def test_a_node_as_provider_retries_and_its_ingress_does_not(envoy: Mapping[str, int]) -> None:
    assert ask(envoy["direct"], "/r/direct", fail="2")[1]["tries"] == 3
    assert ask(envoy["ingress"], "/r/ingress", fail="1")[0] == 503


@pytest.mark.parametrize("listener", ["http", "direct", "ingress"])
def test_the_request_timeout(envoy: Mapping[str, int], listener: str) -> None:
    assert ask(envoy[listener], "/slow")[0] == 504


def test_callers_cannot_override_timeouts_and_retries(envoy: Mapping[str, int]) -> None:
    mine = {"x-envoy-upstream-rq-timeout-ms": "9000", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9"}
    assert ask(envoy["http"], "/slow", **mine)[0] == 504
    status, answer = ask(envoy["http"], "/r/never/2", fail="1", **mine)
    assert (status, answer["tries"]) == (503, 1)


def lines_with(file: Path, text: str) -> list[str]:
    """Envoy writes its logs a little later."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := [line for line in file.read_text().splitlines() if text in line]:
            return found
        time.sleep(0.02)
    return []


def test_access_logs(envoy: Mapping[str, int], directory: Path) -> None:
    ask(envoy["http"], "/m?logged")
    assert lines_with(directory / "http.log", "/m?logged") == ["/m?logged took prefix"]
    ask(envoy["gateway"], "/kept?logged")
    (line,) = lines_with(directory / "gateway.log", "/kept?logged")
    assert json.loads(line) == {"path": "/kept?logged", "route": "kept"}


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        ("/chapter/1", "x.org", ("a", "/1", "a")),
        ("/chapter", "x.org", ("a", "/", "a")),
        ("/chapter/1?page=2", "x.org", ("a", "/1?page=2", "a")),
        ("/chapter/chapter/1", "x.org", ("a", "/chapter/1", "a")),
        ("/slashed/1", "x.org", ("a", "/1", "a")),
        ("/kept/1", "x.org", ("a", "/kept/1", "a")),
        ("/host-kept/1", "x.org", ("a", "/1", "x.org")),
        ("/value/1", "x.org", ("a", "/book/1", "a")),
        ("/path/old?q=1", "x.org", ("a", "/path/new?q=1", "a")),
        ("/regex/any/thing?q=1", "x.org", ("a", "/regex/new?q=1", "a")),
        ("/1", "a.example.com", ("b", "/1", "b")),
        ("/1", "A.Example.com:8080", ("b", "/1", "b")),
        ("/1", "b.example.com", ("c", "/1", "c")),
        ("/1", "xa.example.com.org", None),
    ],
)
def test_gateway_requests(
    envoy: Mapping[str, int], path: str, host: str, expected: tuple[str, str, str] | None
) -> None:
    status, answer = ask(envoy["gateway"], path, host=host)
    if expected is None:
        assert status == 404
    else:
        assert (answer["cluster"], answer["path"], answer["host"]) == expected
