"""The pure core: what a change recompiles, what it stamps, where endpoints come from."""

from __future__ import annotations

from typing import Any

import pytest

from meshagent.discovery.brake import Brake, Limits
from meshagent.discovery.leases import Lookup
from meshagent.envoy.compile import Compiled, Compiler
from meshagent.mesh.placement import Health
from meshagent.server.events import Changes
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import LineageRecord, RolledBack
from meshagent.specs.keys import Key, mesh_key, node_key
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, ROUTE, Stamp
from tests.server.meshes import CATALOG, SHOP, WEB, host, lease, shop, specs

WEB_HOST, CATALOG_HOST = host("a", WEB), host("b", CATALOG, address="10.0.0.2")
WEB_ID, CATALOG_ID = WEB_HOST.placements[0].id, CATALOG_HOST.placements[0].id
CATALOG_NODE = node_key("shop", "catalog")


@pytest.fixture
def reconciler() -> Reconciler:
    made = Reconciler(Compiler(), "mesh.local", Brake(Limits(grace=2.0)))
    made.apply(shop(WEB_HOST, CATALOG_HOST))
    return made


def changed(text: str, revision: int = 11) -> Changes:
    return Changes(revision=revision, specs=dict(specs(text)))


def stamp_of(reconciler: Reconciler, placement: str) -> Stamp:
    snapshot = reconciler.snapshot(placement)
    assert snapshot is not None
    return snapshot.stamp


def addresses(reconciler: Reconciler, node: Key = CATALOG_NODE) -> dict[str, str]:
    return {
        one.address: ("leased " if one.leased else "") + one.health.value for one in reconciler.mesh.endpoints(node)
    }


def test_at_first_everything_is_compiled(reconciler: Reconciler) -> None:
    assert set(reconciler.placements) == {WEB_ID, CATALOG_ID}
    snapshot = reconciler.snapshot(WEB_ID)
    assert snapshot is not None
    assert snapshot.stamp == Stamp("ours", 10, "specified")
    assert "cds_egress_shop_catalog_http_8080" in snapshot.of(CLUSTER)


def test_a_route_recompiles_only_who_calls_its_service(reconciler: Reconciler) -> None:
    before = reconciler.snapshot(CATALOG_ID)
    applied = reconciler.apply(changed(SHOP.replace("prefix: /", "prefix: /v2")))
    assert applied.recompiled == {WEB_ID}
    assert reconciler.snapshot(CATALOG_ID) is before
    assert stamp_of(reconciler, WEB_ID).revision == 11


def test_the_same_spec_again_recompiles_nothing(reconciler: Reconciler) -> None:
    assert not reconciler.apply(changed(SHOP)).recompiled


def test_what_was_missing_is_read_when_it_comes(reconciler: Reconciler) -> None:
    text = SHOP.replace("virtualNode: catalog, weight: 1", "virtualNode: fresh, weight: 1")
    reconciler.apply(changed(text))
    node = """
kind: VirtualNode
meshName: shop
virtualNodeName: fresh
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}], serviceDiscovery: {dns: {hostname: fresh.shop.internal}}}
"""
    assert reconciler.apply(changed(node, 12)).recompiled == {WEB_ID}


def test_a_host_that_comes_and_goes(reconciler: Reconciler) -> None:
    fresh = host("c", WEB, address="10.0.0.3")
    applied = reconciler.apply(Changes(revision=11, hosts={"c": fresh}))
    assert applied.recompiled == {fresh.placements[0].id}
    assert applied.hosts == {"c"}
    applied = reconciler.apply(Changes(revision=12, hosts={"c": None}))
    assert applied.removed == {fresh.placements[0].id}
    assert reconciler.snapshot(fresh.placements[0].id) is None


def test_the_compiler_forgets_proxies_that_are_gone(reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(reconciler._compiler, "forget", forgotten.append)
    reconciler.apply(Changes(revision=11, hosts={WEB_HOST.host: None}))
    assert forgotten == [WEB_ID]


def test_a_deletion_is_named_as_the_reason_and_a_loss_is_not(reconciler: Reconciler) -> None:
    key = node_key("shop", "web")
    reconciler.apply(Changes(revision=11, specs={key: None}))
    assert stamp_of(reconciler, WEB_ID) == Stamp("ours", 11, "")
    reconciler.apply(changed(SHOP, 12))
    reconciler.apply(Changes(revision=13, specs={key: None}, deleted={key: True}))
    assert stamp_of(reconciler, WEB_ID) == Stamp("ours", 13, f"deleted {WEB}")
    reconciler.apply(Changes(revision=14, specs=dict(specs()), deleted={key: False}))
    assert stamp_of(reconciler, WEB_ID).reason == "specified"


def test_the_meshs_deletion_is_a_reason_too(reconciler: Reconciler) -> None:
    gone: dict[Key, Any] = dict.fromkeys(specs())
    reconciler.apply(Changes(revision=11, specs=gone, deleted={mesh_key("shop"): True}))
    assert stamp_of(reconciler, WEB_ID).reason == "deleted mesh/shop"


def test_another_lineage_is_stamped_on_all_without_compiling(reconciler: Reconciler) -> None:
    before = reconciler.snapshot(WEB_ID)
    applied = reconciler.apply(Changes(revision=11, lineage=LineageRecord("next", ("ours",))))
    assert applied.everyone
    assert applied.recompiled == {WEB_ID, CATALOG_ID}
    after = reconciler.snapshot(WEB_ID)
    assert before is not None
    assert after is not None
    assert after.resources is before.resources
    assert after.stamp == Stamp("next", 11, "specified")


def test_while_rolled_back_no_stamp_goes_beyond_the_revision_at_which_it_was_found(reconciler: Reconciler) -> None:
    reconciler.apply(Changes(revision=11, rolled_back=[RolledBack(10, "a", 99)]))
    reconciler.apply(changed(SHOP.replace("prefix: /", "prefix: /v2"), 120))
    assert stamp_of(reconciler, WEB_ID).revision == 10
    assert reconciler.stamp.revision == 10
    reconciler.apply(Changes(revision=121, rolled_back=[None], lineage=LineageRecord("next", ("ours",))))
    assert stamp_of(reconciler, WEB_ID) == Stamp("next", 121, "specified")


def test_a_proxy_that_cannot_be_compiled_keeps_what_it_has_and_stops_nobody(reconciler: Reconciler) -> None:
    compiler = reconciler._compiler

    class Broken(Compiler):
        def compile(self, mesh: Any, placement: Any, trust_domain: str) -> Compiled:
            if placement.id == WEB_ID:
                raise RuntimeError("a defect")
            return compiler.compile(mesh, placement, trust_domain)

    before = reconciler.snapshot(WEB_ID)
    reconciler._compiler = Broken()
    text = SHOP.replace("port: 8080", "port: 9090")
    applied = reconciler.apply(changed(text))
    assert CATALOG_ID in applied.recompiled
    assert reconciler.snapshot(WEB_ID) is before
    assert "a defect" in reconciler.failures[WEB_ID]
    reconciler._compiler = compiler
    reconciler.apply(changed(text.replace("prefix: /", "prefix: /v2"), 12))
    assert not reconciler.failures


# --- endpoints ---


def test_a_lease_makes_an_endpoint_and_its_health_is_told(reconciler: Reconciler) -> None:
    applied = reconciler.apply(Changes(revision=11, leases={CATALOG_ID: lease(CATALOG_HOST)}))
    assert applied.recompiled == {WEB_ID}
    assert addresses(reconciler) == {"10.0.0.2": "leased healthy"}
    snapshot = reconciler.snapshot(WEB_ID)
    assert snapshot is not None
    assert b"10.0.0.2" in snapshot.of(ENDPOINT)["cds_egress_shop_catalog_http_8080"].body
    reconciler.apply(Changes(revision=12, leases={CATALOG_ID: lease(CATALOG_HOST, Health.UNHEALTHY)}))
    assert addresses(reconciler) == {"10.0.0.2": "leased unhealthy"}


def test_a_lease_that_ends_takes_effect_after_the_grace(reconciler: Reconciler) -> None:
    reconciler.apply(Changes(revision=11, leases={CATALOG_ID: lease(CATALOG_HOST)}), 100.0)
    assert not reconciler.apply(Changes(revision=12, leases={CATALOG_ID: None}), 200.0).recompiled
    assert reconciler.next_deadline(200.0) == 202.0
    assert reconciler.apply(Changes(), 202.0).recompiled == {WEB_ID}
    assert addresses(reconciler) == {}


def test_a_lease_that_returns_in_time_is_never_missed(reconciler: Reconciler) -> None:
    reconciler.apply(Changes(revision=11, leases={CATALOG_ID: lease(CATALOG_HOST)}), 100.0)
    reconciler.apply(Changes(revision=12, leases={CATALOG_ID: None}), 200.0)
    assert not reconciler.apply(Changes(revision=13, leases={CATALOG_ID: lease(CATALOG_HOST)}), 201.0).recompiled
    assert not reconciler.apply(Changes(), 300.0).recompiled
    assert addresses(reconciler) == {"10.0.0.2": "leased healthy"}


def test_a_removed_placement_goes_at_once(reconciler: Reconciler) -> None:
    reconciler.apply(Changes(revision=11, leases={CATALOG_ID: lease(CATALOG_HOST)}), 100.0)
    reconciler.apply(Changes(revision=12, hosts={"b": None}, leases={CATALOG_ID: None}), 100.0)
    assert addresses(reconciler) == {}


def test_d3_mass_expiries_are_kept_as_suspects_and_a_removal_is_not_braked(reconciler: Reconciler) -> None:
    hosts = [host(f"n{number}", CATALOG, address=f"10.1.0.{number}") for number in range(10)]
    ids = [one.placements[0].id for one in hosts]
    reconciler.apply(
        Changes(
            revision=11,
            hosts={one.host: one for one in hosts},
            leases={id_: lease(one) for id_, one in zip(ids, hosts, strict=True)},
        ),
        100.0,
    )
    reconciler.apply(Changes(revision=12, leases=dict.fromkeys(ids[:6])), 200.0)
    reconciler.apply(Changes(), 203.0)
    assert len(addresses(reconciler)) == 10
    assert len(reconciler.book.brake.suspects) == 6
    reconciler.apply(Changes(revision=13, hosts={"n0": None}), 204.0)
    assert len(addresses(reconciler)) == 9


def test_names_are_resolved_for_both_and_the_lease_speaks_for_its_own_address(reconciler: Reconciler) -> None:
    lookup = Lookup("catalog-nodes.shop.internal")
    assert lookup in reconciler.lookups
    answer = ("10.0.0.2", "10.0.0.7")
    bare = host("b", CATALOG, address="10.0.0.2", leased=False)
    reconciler.apply(Changes(revision=11, hosts={"b": bare}, resolved={lookup: answer}))
    # Its agent is there, but no lease has spoken for it yet: the name still does.
    assert addresses(reconciler) == {"10.0.0.2": "healthy", "10.0.0.7": "healthy"}
    reconciler.apply(Changes(revision=12, hosts={"b": CATALOG_HOST}, leases={CATALOG_ID: lease(CATALOG_HOST)}), 100.0)
    assert addresses(reconciler) == {"10.0.0.2": "leased healthy", "10.0.0.7": "healthy"}
    reconciler.apply(Changes(revision=13, leases={CATALOG_ID: None}), 200.0)
    reconciler.apply(Changes(), 203.0)
    assert addresses(reconciler) == {"10.0.0.7": "healthy"}
    # The placement is removed: the name's word counts again.
    reconciler.apply(Changes(revision=14, hosts={"b": None}), 300.0)
    assert addresses(reconciler) == {"10.0.0.2": "healthy", "10.0.0.7": "healthy"}


POLICY = "kind: VirtualNodePolicy\nmeshName: shop\nvirtualNodeName: catalog\nspec: {endpoints: %s}\n"


def test_policies_choose_where_endpoints_come_from(reconciler: Reconciler) -> None:
    lookup = Lookup("catalog-nodes.shop.internal")
    reconciler.apply(Changes(revision=11, resolved={lookup: ("10.0.0.7",)}, leases={CATALOG_ID: lease(CATALOG_HOST)}))
    reconciler.apply(changed(POLICY % "leases", 12))
    assert addresses(reconciler) == {"10.0.0.2": "leased healthy"}
    assert lookup not in reconciler.lookups
    # Left to discovery, Envoy resolves by itself: nothing is asked here, nothing goes by EDS.
    reconciler.apply(changed(POLICY % "discovery", 13))
    assert addresses(reconciler) == {}
    assert lookup not in reconciler.lookups


def test_a_hostname_that_is_a_virtual_services_is_resolved_here_also_for_discovery(reconciler: Reconciler) -> None:
    reconciler.apply(changed(POLICY % "discovery", 11))
    service = "\n---\nkind: VirtualService\nmeshName: shop\nvirtualServiceName: catalog-nodes.shop.internal\nspec: {}\n"
    reconciler.apply(changed(SHOP + service, 12))
    assert Lookup("catalog-nodes.shop.internal") in reconciler.lookups


def test_routes_are_shared_by_all_callers(reconciler: Reconciler) -> None:
    other = host("d", WEB, address="10.0.0.4")
    reconciler.apply(Changes(revision=11, hosts={"d": other}))
    one, two = reconciler.snapshot(WEB_ID), reconciler.snapshot(other.placements[0].id)
    assert one is not None
    assert two is not None
    name = next(name for name in one.of(ROUTE) if "egress" in name)
    assert one.of(ROUTE)[name] is two.of(ROUTE)[name]
