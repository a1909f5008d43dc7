"""The memo: one object for one question, forgotten when what it read changes, bounded."""

from __future__ import annotations

from meshagent.envoy.memo import Digested, Memo, Reading
from meshagent.mesh.graph import Mesh
from meshagent.specs.keys import Key, node_key
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.specs.spec import Spec

A, B = node_key("m", "a"), node_key("m", "b")


def names_of(reading: Reading, *keys: Key) -> list[str]:
    return [key.name for key in keys if reading.spec(key) is not None]


def outer(reading: Reading, first: Key, second: Key) -> list[list[str]]:
    return [reading.once(names_of, first), reading.once(names_of, second)]


def mesh_of(*keys: Key, revision: int = 1) -> Mesh:
    return Mesh.build([Spec(key, VirtualNodeSpec()) for key in keys], revision=revision)


def test_a_hit_is_the_same_object_and_the_same_touches() -> None:
    memo, mesh = Memo(), mesh_of(A)
    memo.advance(mesh)
    first, second = Reading(mesh, memo), Reading(mesh, memo)
    assert first.once(outer, A, B) is second.once(outer, A, B)
    assert first.touched == second.touched == {("spec", A), ("spec", B)}


def test_only_what_read_the_change_is_made_anew() -> None:
    memo, mesh = Memo(), mesh_of(A)
    memo.advance(mesh)
    old = Reading(mesh, memo).once(outer, A, B)
    following, _ = mesh.replace(specs={B: Spec(B, VirtualNodeSpec())}, revision=2)
    memo.advance(following)
    new = Reading(following, memo).once(outer, A, B)
    assert new == [["a"], ["b"]]
    assert new[0] is old[0]


def test_it_does_not_grow_without_bound() -> None:
    memo, mesh = Memo(limit=10), mesh_of(A)
    kept = None
    for turn in range(100):
        memo.advance(mesh)
        reading = Reading(mesh, memo)
        reading.once(names_of, node_key("m", f"n{turn}"))
        found = reading.once(names_of, A)
        assert kept is None or found is kept
        kept = found
        assert len(memo) <= 12


def test_digested_values_are_told_apart_by_their_digest_alone() -> None:
    assert Digested("x", [1]) == Digested("x", [2])
    assert hash(Digested("x", [1])) == hash(Digested("x", [2]))
    assert Digested("x", 1) != Digested("y", 1)
