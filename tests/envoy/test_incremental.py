"""A compiler that saw every mesh on the way gives what one that sees only the last gives, whatever changed, whoever was compiled."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.envoy.compile import Compiled, Compiler
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import Endpoint, Health, Mode, Placement
from meshagent.specs.keys import (
    Key,
    Kind,
    gateway_key,
    gateway_route_key,
    mesh_key,
    node_key,
    route_key,
    router_key,
    service_key,
)
from meshagent.specs.spec import MODELS, Spec
from meshagent.xds.snapshot import LISTENER, ORDER, ROUTE
from tests.envoy.closed import missing_names

M = "shop"
PLAIN: dict[str, Any] = {
    "clientPolicy": {"tls": {"enforce": False, "validation": {"trust": {"file": {"certificateChain": "/ca.pem"}}}}}
}
LOGGED: dict[str, Any] = {"logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}}

V1, V2, PG = node_key(M, "v1"), node_key(M, "v2"), node_key(M, "pg")
SERVICES = ("api", "again", "db", "cache")


def spec(key: Key, body: Mapping[str, Any]) -> Spec:
    return Spec(key, MODELS[key.kind].model_validate(body))


def node(
    name: str, *backends: str | tuple[str, dict[str, Any]], port: int = 8080, protocol: str = "http", **more: Any
) -> Spec:
    called = [each if isinstance(each, tuple) else (each, {}) for each in backends]
    body = {
        "listeners": [{"portMapping": {"port": port, "protocol": protocol}}],
        "serviceDiscovery": {"dns": {"hostname": f"{name}.internal"}},
        "backends": [{"virtualService": {"virtualServiceName": service, **policy}} for service, policy in called],
        **more,
    }
    return spec(node_key(M, name), body)


def router(name: str, *ports: tuple[int, str]) -> Spec:
    listeners = [{"portMapping": {"port": port, "protocol": protocol}} for port, protocol in ports]
    return spec(router_key(M, name), {"listeners": listeners})


def route(name: str, kind: str = "httpRoute", **weights: int) -> Spec:
    targets = [{"virtualNode": target, "weight": weight} for target, weight in weights.items()]
    match = {} if kind == "tcpRoute" else {"match": {"prefix": "/"}}
    return spec(route_key(M, name, "r"), {kind: {**match, "action": {"weightedTargets": targets}}})


def by_router(name: str, named: str) -> Spec:
    return spec(service_key(M, name), {"provider": {"virtualRouter": {"virtualRouterName": named}}})


def by_node(name: str, named: str) -> Spec:
    return spec(service_key(M, name), {"provider": {"virtualNode": {"virtualNodeName": named}}})


def gateway(**more: Any) -> Spec:
    return spec(gateway_key(M, "edge"), {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], **more})


def gateway_route(service: str, prefix: str) -> Spec:
    target = {"virtualService": {"virtualServiceName": service}}
    body = {"httpRoute": {"match": {"prefix": prefix}, "action": {"target": target}}}
    return spec(gateway_route_key(M, "edge", service), body)


# What each resource may say; every one may also be away. Two services share a router and its nodes, so that names come from several
# backends; web and mixed differ in whether one policy counts for all of them.
CHOICES: tuple[tuple[Spec, ...], ...] = (
    (
        route("api", v1=1),
        route("api", v1=90, v2=10),
        route("api", v2=1),
        route("api", v2=1, gone=1),
        route("api", "http2Route", v1=1),
    ),
    (route("db", "tcpRoute", pg=1), route("db", "tcpRoute", pg=1, v2=2)),
    (router("api", (80, "http")), router("api", (80, "http"), (81, "http2")), router("api", (82, "http"))),
    (router("db", (5432, "tcp")), router("db", (5433, "tcp"))),
    (by_router("api", "api"), by_node("api", "v1")),
    (by_router("again", "api"), by_node("again", "v2")),
    (by_router("db", "db"), by_node("db", "pg")),
    (by_node("cache", "v2"), by_router("cache", "db")),
    (node("v1"), node("v1", port=9090), node("v1", **LOGGED)),
    (node("v2"), node("v2", protocol="http2")),
    (node("pg", port=5432, protocol="tcp"), node("pg", port=5434, protocol="tcp")),
    (
        node("web", "api", "again", "db", "cache"),
        node("web", "cache", "api", "api", **LOGGED),
        node("web", "api", "again", "db", backendDefaults=PLAIN),
    ),
    (node("mixed", "api", ("again", PLAIN), "db"), node("mixed", ("api", PLAIN), "again")),
    (gateway(), gateway(backendDefaults=PLAIN), gateway(**LOGGED)),
    (gateway_route("api", "/"), gateway_route("api", "/api/")),
    (gateway_route("cache", "/cache/"), gateway_route("cache", "/c/")),
    (spec(mesh_key(M), {}), spec(mesh_key(M), {"egressFilter": {"type": "DROP_ALL"}})),
    tuple(spec(Key(M, Kind.MESH_POLICY, M), {"mutualTls": mutual}) for mutual in ("STRICT", "PERMISSIVE")),
)
ENDPOINTS: tuple[tuple[Endpoint, ...], ...] = tuple(
    (Endpoint(key, address, health=health, leased=leased),)
    for key in (V1, V2, PG)
    for address, health, leased in (("10.0.0.7", Health.HEALTHY, True), ("10.0.0.8", Health.UNHEALTHY, False))
)
PLACEMENTS = tuple(
    Placement(f"{key.name}-{slot}-{mode.value}", "h", key, mode, slot, "10.0.0.1")
    for key in (node_key(M, "web"), node_key(M, "mixed"), V1, gateway_key(M, "edge"))
    for slot, mode in ((0, Mode.BIND), (0, Mode.REDIRECT), (3, Mode.REDIRECT))
)


def beginning() -> Mesh:
    """Everything but the gateway's policy of the mesh, and an address for all services but one."""
    indexes = {service_key(M, name): number for number, name in enumerate(SERVICES[:-1], start=1)}
    return Mesh.build([choice[0] for choice in CHOICES[:-1]], indexes=indexes, revision=1, lineage="l")


SPEC_EDITS = st.sampled_from(CHOICES).flatmap(
    lambda choice: st.tuples(st.just(choice[0].key), st.sampled_from((*choice, *choice, None)))
)
ENDPOINT_EDITS = st.sampled_from(ENDPOINTS).flatmap(
    lambda found: st.tuples(st.just(found[0].node), st.sampled_from((found, None)))
)
# Never the same for two services, as the store gives them.
INDEX_EDITS = st.sampled_from(
    [(service_key(M, name), number) for place, name in enumerate(SERVICES) for number in (place + 1, place + 11)]
)
STEPS = st.lists(
    st.tuples(
        st.lists(SPEC_EDITS, max_size=3).map(dict),
        st.lists(ENDPOINT_EDITS, max_size=1).map(dict),
        st.lists(INDEX_EDITS, max_size=1).map(dict),
        st.frozensets(st.sampled_from(PLACEMENTS), min_size=3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(STEPS)
def test_what_is_patched_equals_what_is_made_anew(steps: list[Any]) -> None:
    compiler, mesh = Compiler(), beginning()
    last = {placement: compiler.compile(mesh, placement, "td") for placement in PLACEMENTS}
    for revision, (specs, endpoints, indexes, compiled_now) in enumerate(steps, start=2):
        mesh, _ = mesh.replace(specs=specs, revision=revision)
        mesh, _ = mesh.replace(endpoints=endpoints, indexes=indexes, revision=revision)
        fresh = Compiler()
        for placement in sorted(compiled_now, key=lambda each: each.id):
            kept, anew = compiler.compile(mesh, placement, "td"), fresh.compile(mesh, placement, "td")
            assert kept == anew
            assert missing_names(kept.snapshot) == set()
            assert_shared(last[placement], kept)
            last[placement] = kept


def assert_shared(before: Compiled, after: Compiled) -> None:
    """What did not change is the very same object, by which others see that it did not."""
    for type_url in ORDER:
        old, new = before.snapshot.of(type_url), after.snapshot.of(type_url)
        assert old is new or old != new
    assert before.touched is after.touched or before.touched != after.touched


@pytest.mark.parametrize("mode", Mode)
def test_one_route_changes_one_type_and_collects_nothing(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, mesh = Compiler(), beginning()
    placement = Placement("p", "h", node_key(M, "web"), mode, 0, "10.0.0.1")
    mesh, _ = mesh.replace(specs={route_key(M, "api", "r"): route("api", v1=1, v2=1)}, revision=2)
    before = compiler.compile(mesh, placement, "td")
    mesh, _ = mesh.replace(specs={route_key(M, "api", "r"): route("api", v1=90, v2=10)}, revision=3)
    monkeypatch.setattr(compiler, "_anew", None)
    after = compiler.compile(mesh, placement, "td")
    assert {each for each in ORDER if before.snapshot.of(each) is not after.snapshot.of(each)} == {ROUTE}
    assert after.touched is before.touched
    assert after.snapshot.stamp.revision == 3


def test_a_change_of_tcp_targets_comes_into_the_joined_listener() -> None:
    compiler, mesh = Compiler(), beginning()
    placement = Placement("p", "h", node_key(M, "web"), Mode.REDIRECT, 0, "10.0.0.1")
    before = compiler.compile(mesh, placement, "td")
    mesh, _ = mesh.replace(specs={route_key(M, "db", "r"): route("db", "tcpRoute", pg=1, v2=2)}, revision=2)
    after = compiler.compile(mesh, placement, "td")
    assert after == Compiler().compile(mesh, placement, "td")
    assert after.snapshot.of(LISTENER) != before.snapshot.of(LISTENER)


def test_a_placement_that_is_another_now_is_made_anew() -> None:
    compiler, mesh = Compiler(), beginning()
    for address, domain in (("10.0.0.1", "td"), ("10.0.0.2", "td"), ("10.0.0.2", "other")):
        placement = Placement("p", "h", node_key(M, "web"), Mode.BIND, 0, address)
        assert compiler.compile(mesh, placement, domain) == Compiler().compile(mesh, placement, domain)


def test_what_is_forgotten_is_not_kept() -> None:
    compiler, mesh = Compiler(), beginning()
    kept = weakref.ref(compiler.compile(mesh, PLACEMENTS[0], "td"))
    gc.collect()
    assert kept() is not None
    compiler.forget(PLACEMENTS[0].id)
    gc.collect()
    assert kept() is None
