"""Mesh and View: replacing equals building anew, and what changed is told exactly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.mesh.graph import AddressIndexError, Mesh, View, allocate_indexes
from meshagent.mesh.placement import Endpoint
from meshagent.specs.documents import parse_spec
from meshagent.specs.keys import Key, Kind, node_key, route_key, router_key, service_key
from meshagent.specs.spec import Source, Spec


def spec(key: Key, body: dict[str, Any], file: str = "") -> Spec:
    return parse_spec(key, body, Source(file))


def route(key: Key, node: str) -> Spec:
    return spec(key, {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": node, "weight": 1}]}}})


KEYS = [
    *(node_key(mesh, name) for mesh in "mn" for name in "ab"),
    *(router_key("m", name) for name in "rs"),
    *(route_key(mesh, router, name) for mesh in "mn" for router in "rs" for name in "xy"),
    service_key("m", "a"),
]
BODIES: dict[Kind, list[dict[str, Any]]] = {
    Kind.VIRTUAL_NODE: [{}, {"backends": [{"virtualService": {"virtualServiceName": "a"}}]}],
    Kind.VIRTUAL_ROUTER: [{}, {"listeners": [{"portMapping": {"port": 1, "protocol": "tcp"}}]}],
    Kind.VIRTUAL_SERVICE: [{}, {"provider": {"virtualNode": {"virtualNodeName": "a"}}}],
    Kind.ROUTE: [
        {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": node, "weight": 1}]}}} for node in ("a", "b")
    ],
}


@st.composite
def replacements(draw: st.DrawFn) -> dict[str, Any]:
    specs = {
        key: None if choice == 2 else spec(key, BODIES[key.kind][choice])
        for key, choice in draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2), max_size=4)).items()
    }
    node = node_key("m", "a")
    endpoints = draw(st.sampled_from([{}, {node: None}, {node: ()}, {node: (Endpoint(node, "10.0.0.1"),)}]))
    return {"specs": specs, "endpoints": endpoints, "indexes": draw(st.sampled_from([{}, {service_key("m", "a"): 3}]))}


def everything(reader: Mesh | View) -> list[object]:
    read: list[object] = [reader.spec(key) for key in KEYS]
    read += [reader.children(key) for key in KEYS if key.kind is Kind.VIRTUAL_ROUTER] + [
        reader.children(router_key("n", "r"))
    ]
    read += [reader.of_kind(mesh, kind) for mesh in "mn" for kind in Kind]
    read += [reader.endpoints(key) for key in KEYS if key.kind is Kind.VIRTUAL_NODE]
    return [*read, reader.index(service_key("m", "a"))]


@given(st.lists(replacements(), max_size=5))
def test_replacing_equals_building_anew(steps: list[dict[str, Any]]) -> None:
    mesh = Mesh.build((), indexes={})
    specs: dict[Key, Spec] = {}
    endpoints: dict[Key, tuple[Endpoint, ...]] = {}
    indexes: dict[Key, int] = {}
    for revision, step in enumerate(steps, start=1):
        before = mesh
        kept = everything(before)
        mesh, changed = mesh.replace(**step, revision=revision)
        for key, new in step["specs"].items():
            specs.pop(key, None)
            if new is not None:
                specs[key] = new
        endpoints |= {node: found or () for node, found in step["endpoints"].items()}
        indexes |= step["indexes"]
        anew = Mesh.build(specs.values(), endpoints=endpoints, indexes=indexes)
        assert everything(mesh) == everything(anew)
        assert (mesh.problems, mesh.meshes, mesh.revision) == (anew.problems, anew.meshes, revision)
        assert everything(before) == kept
        assert changed == differences(before, mesh)


@given(st.lists(replacements(), max_size=4))
def test_what_changed_since_is_known_of_any_two_meshes(steps: list[dict[str, Any]]) -> None:
    meshes = [Mesh.build((), indexes={})]
    for revision, step in enumerate(steps, start=1):
        meshes.append(meshes[-1].replace(**step, revision=revision)[0])
    meshes.append(meshes[-1].replace(revision=len(meshes))[0])
    for before in meshes:
        for after in meshes:
            assert after.changes_since(before) == differences(before, after)


def differences(before: Mesh, after: Mesh) -> set[object]:
    """What reads differently, found by reading everything that there could be."""
    found: set[object] = set()
    for what, keys in (
        ("spec", KEYS),
        ("children", [router_key(mesh, name) for mesh in "mn" for name in "rs"]),
        ("endpoints", KEYS),
        ("index", KEYS),
    ):
        found |= {(what, key) for key in keys if getattr(before, what)(key) != getattr(after, what)(key)}
    kinds = [(mesh, kind) for mesh in "mn" for kind in Kind]
    return found | {("kind", kind) for kind in kinds if before.of_kind(*kind) != after.of_kind(*kind)}


def test_a_view_remembers_what_it_was_asked_for_also_in_vain() -> None:
    router, x, y = router_key("m", "r"), route_key("m", "r", "x"), route_key("m", "r", "y")
    mesh = Mesh.build([spec(router, {}), route(x, "a")])
    view = View(mesh)
    assert view.children(router) == (x,)
    assert view.spec(node_key("m", "a")) is None

    def touched_by(**step: Any) -> bool:
        return view.touches(mesh.replace(revision=1, **step)[1])

    node = spec(node_key("m", "a"), {})
    assert touched_by(specs={node.key: node}), "what was not there has come"
    assert touched_by(specs={y: route(y, "a")}), "the router has another route"
    assert not touched_by(specs={x: route(x, "b")}), "that route itself was never read"
    assert not touched_by(endpoints={node.key: (Endpoint(node.key, "10.0.0.1"),)})
    assert not touched_by(specs={router: spec(router, {}, "elsewhere.yaml")}), "it says what it said"
    everything(view)
    assert touched_by(specs={x: route(x, "b")})
    assert touched_by(endpoints={node.key: (Endpoint(node.key, "10.0.0.1"),)})
    assert touched_by(indexes={service_key("m", "a"): 1})


def test_the_newest_source_is_kept_of_an_equal_spec() -> None:
    key = node_key("m", "a")
    mesh, changed = Mesh.build([spec(key, {}, "one.yaml")]).replace(specs={key: spec(key, {}, "two.yaml")}, revision=1)
    kept = mesh.spec(key)
    assert (kept is not None and str(kept.source), changed) == ("two.yaml", frozenset())


def test_indexes_are_given_in_order_and_never_again() -> None:
    a, b, c = (service_key("m", name) for name in "abc")
    assert Mesh.build([spec(b, {}), spec(a, {})]).indexes == {a: 1, b: 2}
    assert allocate_indexes([c, a], {b: 7}) == {a: 8, c: 9}
    assert allocate_indexes([b], {b: 7}) == {}
    assert allocate_indexes([a], {b: 65534}) == {a: 65535}
    with pytest.raises(AddressIndexError, match="mesh/m/virtualService/c"):
        allocate_indexes([a, c], {b: 65534})
    without, changed = Mesh.build([spec(a, {})]).replace(specs={a: None}, revision=1)
    assert (without.index(a), ("index", a) in changed) == (1, False)


def test_lineage_goes_on_unless_it_is_replaced() -> None:
    mesh = Mesh.build((), lineage="one", revision=1)
    assert mesh.replace(revision=2)[0].lineage == "one"
    assert mesh.replace(revision=2, lineage="two")[0].lineage == "two"
