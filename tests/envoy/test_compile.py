"""What the compiler promises beside its output: shared bytes, exact dependencies, stamps, notices where nothing can be made."""

from __future__ import annotations

from typing import Any

from meshagent.envoy.compile import SPECIFIED, Compiled, Compiler
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import Endpoint, Health, Mode, Placement
from meshagent.specs.keys import Key, Kind, gateway_key, mesh_key, node_key, route_key, router_key, service_key
from meshagent.specs.spec import MODELS, Spec
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, Resource
from tests.envoy.closed import missing_names

M = "shop"


def spec(key: Key, body: dict[str, Any]) -> Spec:
    return Spec(key, MODELS[key.kind].model_validate(body))


def node(name: str, *backends: str, port: int = 8080, protocol: str = "http") -> Spec:
    return spec(
        node_key(M, name),
        {
            "listeners": [{"portMapping": {"port": port, "protocol": protocol}}],
            "serviceDiscovery": {"dns": {"hostname": f"{name}.internal"}},
            "backends": [{"virtualService": {"virtualServiceName": each}} for each in backends],
        },
    )


def service(name: str, node_name: str) -> Spec:
    return spec(service_key(M, name), {"provider": {"virtualNode": {"virtualNodeName": node_name}}})


def route(router: str, **weights: int) -> Spec:
    targets = [{"virtualNode": name, "weight": weight} for name, weight in weights.items()]
    return spec(
        route_key(M, router, "r"), {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": targets}}}
    )


def placed(name: str, slot: int = 0, mode: Mode = Mode.BIND) -> Placement:
    return Placement(f"p-{name}", f"h-{name}", node_key(M, name), mode, slot, "10.0.0.1")


def world() -> Mesh:
    return Mesh.build(
        [
            node("web", "api", "db"),
            node("shop", "api"),
            node("lonely"),
            node("v1"),
            node("v2"),
            node("pg", port=5432, protocol="tcp"),
            service("db", "pg"),
            spec(service_key(M, "api"), {"provider": {"virtualRouter": {"virtualRouterName": "api"}}}),
            spec(router_key(M, "api"), {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}),
            route("api", v1=1),
        ],
        revision=7,
        lineage="l",
    )


def resources(compiled: Compiled) -> dict[tuple[str, str], Resource]:
    return {(type_url, name): each for type_url in ORDER for name, each in compiled.snapshot.of(type_url).items()}


def test_proxies_share_the_same_objects() -> None:
    compiler, mesh = Compiler(), world()
    web, shop = (resources(compiler.compile(mesh, placed(name), "td")) for name in ("web", "shop"))
    shared = {key for key in web.keys() & shop.keys() if key[0] != LISTENER and "ingress" not in key[1]}
    assert {type_url for type_url, _ in shared} == {CLUSTER, ENDPOINT, ROUTE}
    assert all(web[key] is shop[key] for key in shared)
    # Slot 0 of any host: the same listener too.
    assert web[LISTENER, "lds_egress_127.64.0.1_80"] is shop[LISTENER, "lds_egress_127.64.0.1_80"]


def test_a_route_change_touches_its_callers_and_one_resource() -> None:
    compiler, mesh = Compiler(), world()
    before = {name: compiler.compile(mesh, placed(name), "td") for name in ("web", "shop", "lonely")}
    after_mesh, changed = mesh.replace(specs={route_key(M, "api", "r"): route("api", v1=90, v2=10)}, revision=8)
    concerned = {name for name, each in before.items() if not each.touched.isdisjoint(changed)}
    assert concerned == {"web", "shop"}
    after = compiler.compile(after_mesh, placed("web"), "td")
    old, new = resources(before["web"]), resources(after)
    assert {key for key in new if new[key] is not old.get(key)} == {
        (ROUTE, "rds_egress_shop_api_http_80"),
        (CLUSTER, "cds_egress_shop_v2_http_8080"),
        (ENDPOINT, "cds_egress_shop_v2_http_8080"),
    }
    assert after.snapshot.stamp.revision == 8
    assert missing_names(after.snapshot) == set()


def test_an_endpoint_change_makes_one_new_load_assignment() -> None:
    compiler, mesh = Compiler(), world()
    before = compiler.compile(mesh, placed("web"), "td")
    v1 = node_key(M, "v1")
    after_mesh, changed = mesh.replace(
        endpoints={v1: (Endpoint(v1, "10.0.0.7", health=Health.UNHEALTHY, leased=True),)}, revision=8
    )
    assert not before.touched.isdisjoint(changed)
    old, new = resources(before), resources(compiler.compile(after_mesh, placed("web"), "td"))
    assert {key for key in new if new[key] is not old.get(key)} == {(ENDPOINT, "cds_egress_shop_v1_http_8080")}


def test_what_comes_from_the_memo_equals_what_is_made_anew() -> None:
    compiler, mesh = Compiler(), world()
    steps: list[dict[Key, Spec | None]] = [
        {route_key(M, "api", "r"): route("api", v1=1, v2=1)},
        {node_key(M, "v2"): node("v2", port=9090)},
        {node_key(M, "v2"): None},
        {service_key(M, "api"): service("api", "v1")},
        {service_key(M, "api"): None},
        {Key(M, Kind.MESH_POLICY, M): spec(Key(M, Kind.MESH_POLICY, M), {"mutualTls": "STRICT"})},
    ]
    for mode in Mode:
        at = mesh
        for number, step in enumerate(steps):
            before = at
            at, changed = at.replace(specs=step, revision=8 + number)
            assert at.changes_since(before) == changed
            for name in ("web", "shop", "lonely"):
                kept = compiler.compile(at, placed(name, 3, mode), "td")
                fresh = Compiler().compile(at, placed(name, 3, mode), "td")
                assert (kept.snapshot, kept.notices) == (fresh.snapshot, fresh.notices)
                assert kept.touched == fresh.touched
                assert missing_names(kept.snapshot) == set()


def test_a_mesh_from_elsewhere_is_compiled_for_itself() -> None:
    """Not the next one of the last: built anew, or an older one again."""
    compiler, mesh = Compiler(), world()
    first = compiler.compile(mesh, placed("web"), "td")
    other = Mesh.build([node("web")], revision=9, lineage="l")
    assert len(resources(compiler.compile(other, placed("web"), "td"))) == 3
    assert resources(compiler.compile(mesh, placed("web"), "td")) == resources(first)
    again = world()
    assert resources(compiler.compile(again, placed("web"), "td")) == resources(first)


def test_stamps_say_whether_the_resource_is_defined() -> None:
    compiler, mesh = Compiler(), world()
    assert compiler.compile(mesh, placed("web"), "td").snapshot.stamp.reason == SPECIFIED
    gone = compiler.compile(mesh, placed("nobody"), "td")
    assert gone.snapshot.stamp.reason == ""
    assert resources(gone) == {}
    assert [each.resource.name for each in gone.notices] == ["nobody"]
    _, changed = mesh.replace(specs={node_key(M, "nobody"): node("nobody")}, revision=8)
    assert not gone.touched.isdisjoint(changed)


def test_a_backend_that_comes_to_be_later_is_a_touch() -> None:
    mesh = Mesh.build([node("web", "later")], revision=1, lineage="l")
    compiled = Compiler().compile(mesh, placed("web"), "td")
    assert "is not defined" in compiled.notices[0].message
    later, changed = mesh.replace(
        specs={service_key(M, "later"): service("later", "web")}, indexes={service_key(M, "later"): 5}, revision=2
    )
    assert not compiled.touched.isdisjoint(changed)
    assert "lds_egress_127.64.0.5_8080" in Compiler().compile(later, placed("web"), "td").snapshot.of(LISTENER)


def test_without_an_address_index_there_is_no_listener() -> None:
    mesh = Mesh.build([node("web", "api"), service("api", "web")], indexes={}, revision=1, lineage="l")
    compiled = Compiler().compile(mesh, placed("web"), "td")
    assert set(compiled.snapshot.of(LISTENER)) == {"lds_ingress_10.0.0.1_8080"}
    assert [each.message for each in compiled.notices] == ["has no address yet: it is not listened on"]


def test_backends_that_differ_in_policy_about_one_cluster_are_noticed() -> None:
    policy = {"tls": {"validation": {"trust": {"file": {"certificateChain": "ca.pem"}}}}}
    web = spec(
        node_key(M, "web"),
        {
            "backends": [
                {"virtualService": {"virtualServiceName": "one", "clientPolicy": policy}},
                {"virtualService": {"virtualServiceName": "two"}},
            ]
        },
    )
    mesh = Mesh.build([web, node("v1"), service("one", "v1"), service("two", "v1")], revision=1, lineage="l")
    compiled = Compiler().compile(mesh, placed("web"), "td")
    assert [each.path for each in compiled.notices] == ["spec.backends"]
    assert b"ca.pem" in compiled.snapshot.of(CLUSTER)["cds_egress_shop_v1_http_8080"].body


def test_a_gateway_without_routes_has_its_listener() -> None:
    gateway = spec(gateway_key(M, "edge"), {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]})
    placement = Placement("p", "h", gateway.key, Mode.REDIRECT, 0, "10.0.0.1")
    compiled = Compiler().compile(Mesh.build([gateway], revision=1, lineage="l"), placement, "td")
    assert set(compiled.snapshot.of(LISTENER)) == {"lds_ingress_0.0.0.0_port_80"}
    assert missing_names(compiled.snapshot) == set()


def test_cloud_map_is_not_asked_and_what_that_means_is_said() -> None:
    discovery = {"awsCloudMap": {"namespaceName": "shop.local", "serviceName": "cloud"}}
    cloud = spec(
        node_key(M, "cloud"),
        {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": discovery},
    )
    for source, words in (
        ("discovery", ["the node has no endpoints; give it the policy leases"]),
        ("both", ["the endpoints are those that have a lease"]),
        ("leases", []),
    ):
        policy = spec(Key(M, Kind.VIRTUAL_NODE_POLICY, "cloud"), {"endpoints": source})
        mesh = Mesh.build([cloud, policy, node("web", "cloud"), service("cloud", "cloud")])
        notices = Compiler().compile(mesh, placed("web"), "mesh.local").notices
        assert [each.message.partition(": ")[2] for each in notices if each.path.endswith("awsCloudMap")] == words


def test_nothing_listens_where_the_application_does() -> None:
    """Envoy would pass on what comes in to itself, in circles."""
    where = "10.0.0.1"
    for mode, listened in ((Mode.BIND, []), (Mode.REDIRECT, ["lds_ingress_0.0.0.0_15000"])):
        own = Placement("p", "h", node_key(M, "v1"), mode, 0, where, application=where)
        compiled = Compiler().compile(world(), own, "td")
        assert [name for name in compiled.snapshot.of(LISTENER) if "ingress" in name] == listened
        assert ["not compiled" in each.message for each in compiled.notices] == [True] * (mode is Mode.BIND)
        assert missing_names(compiled.snapshot) == set()


def test_a_preference_for_ipv6_that_the_application_is_not_called_by_is_said() -> None:
    web, mesh = node_key(M, "web"), mesh_key(M)
    whole = spec(mesh, {"serviceDiscovery": {"ipPreference": "IPv6_ONLY"}})

    def noticed(application: str, own: str | None, *others: Spec) -> list[tuple[Key, str]]:
        body = {
            "listeners": [{"portMapping": {"port": 80, "protocol": "http"}}],
            "serviceDiscovery": {"dns": {"hostname": "web.internal", **({"ipPreference": own} if own else {})}},
        }
        placement = Placement("p", "h", web, Mode.BIND, 0, "10.0.0.1", application=application)
        compiled = Compiler().compile(Mesh.build([spec(web, body), *others]), placement, "td")
        return [(each.resource, each.path) for each in compiled.notices if application in each.message]

    assert noticed("127.0.0.1", "IPv6_PREFERRED") == [(web, "spec.serviceDiscovery.dns.ipPreference")]
    assert noticed("127.0.0.1", None, whole) == [(mesh, "spec.serviceDiscovery.ipPreference")]
    assert noticed("127.0.0.1", "IPv4_ONLY", whole) == []
    assert noticed("127.0.0.1", None) == []
    assert noticed("::1", "IPv6_ONLY") == []
