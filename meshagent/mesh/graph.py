"""Mesh: all that is defined, in all meshes, at one revision; View, through which one reads it and leaves a trace.

Nothing here is resolved ahead: a reference is followed when it is read, so that replacing one spec costs a few dict
copies and no walk over the graph. A reference to what is not there reads as None, never as an error: App Mesh accepts
those, and meshagent.mesh.problems names them. Must not know Envoy, the store, or where endpoints come from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from meshagent.errors import MeshagentError
from meshagent.mesh.placement import SERVICES_PER_SLOT, Endpoint
from meshagent.mesh.problems import Problem, problems_of
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Spec

# One thing that can be read from a Mesh: a spec; which children a router or gateway has; a node's endpoints; a
# service's address index; which resources of a kind a mesh has. What was not found is a touch like any other.
Touch = (
    tuple[Literal["spec"], Key]
    | tuple[Literal["children"], Key]
    | tuple[Literal["endpoints"], Key]
    | tuple[Literal["index"], Key]
    | tuple[Literal["kind"], tuple[str, Kind]]
)

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class AddressIndexError(MeshagentError):
    """There are more virtual services than a host has addresses for."""


class Mesh:
    """Immutable. Make one with `build`, the next one with `replace`."""

    __slots__ = (
        "_before",
        "_by_kind",
        "_changed",
        "_children",
        "_content",
        "_endpoints",
        "_indexes",
        "_problems",
        "_specs",
        "lineage",
        "revision",
    )

    def __init__(
        self,
        specs: dict[Key, Spec],
        children: dict[Key, tuple[Key, ...]],
        by_kind: dict[tuple[str, Kind], tuple[Key, ...]],
        endpoints: dict[Key, tuple[Endpoint, ...]],
        indexes: dict[Key, int],
        revision: int,
        lineage: str,
    ) -> None:
        """Takes the dicts as its own; callers use `build` and `replace`."""
        self._specs, self._children, self._by_kind = specs, children, by_kind
        self._endpoints, self._indexes = endpoints, indexes
        self._problems: tuple[Problem, ...] | None = None
        self.revision, self.lineage = revision, lineage
        # What this mesh says, and what it was made from by `_changed`: stand-ins, so that no mesh keeps its predecessors alive.
        self._content, self._before = object(), object()
        self._changed: frozenset[Touch] = frozenset()

    @classmethod
    def build(
        cls,
        specs: Iterable[Spec],
        *,
        endpoints: Mapping[Key, tuple[Endpoint, ...]] = _EMPTY,
        indexes: Mapping[Key, int] | None = None,
        revision: int = 0,
        lineage: str = "",
    ) -> Mesh:
        """`indexes` are the address indexes of virtual services, as the store allocated them; None allocates them here,
        in the order of the services' keys. Of two specs with one key the last counts."""
        by_key = {spec.key: spec for spec in specs}
        children: dict[Key, list[Key]] = {}
        by_kind: dict[tuple[str, Kind], list[Key]] = {}
        for key in sorted(by_key, key=_order):
            by_kind.setdefault((key.mesh, key.kind), []).append(key)
            if key.kind.parent is not None and (parent := key.parent_key) is not None:
                children.setdefault(parent, []).append(key)
        if indexes is None:
            indexes = allocate_indexes((key for key in by_key if key.kind is Kind.VIRTUAL_SERVICE), {})
        return cls(
            by_key,
            {parent: tuple(keys) for parent, keys in children.items()},
            {kind: tuple(keys) for kind, keys in by_kind.items()},
            {node: tuple(found) for node, found in endpoints.items() if found},
            dict(indexes),
            revision,
            lineage,
        )

    def replace(
        self,
        *,
        specs: Mapping[Key, Spec | None] = _EMPTY,
        endpoints: Mapping[Key, tuple[Endpoint, ...] | None] = _EMPTY,
        indexes: Mapping[Key, int] = _EMPTY,
        revision: int,
        lineage: str | None = None,
    ) -> tuple[Mesh, frozenset[Touch]]:
        """The next Mesh, and what in it reads differently from this one; None takes a spec or a node's endpoints away.

        The touches are exact: a spec that says what it said before is none, and neither are the same endpoints.
        A view is affected when `view.touches(changed)`."""
        changed: set[Touch] = set()
        new_specs, children, by_kind = self._specs, self._children, self._by_kind
        if specs:
            new_specs = dict(new_specs)
        if any((spec is None) == (key in new_specs) for key, spec in specs.items()):
            children, by_kind = dict(children), dict(by_kind)
        for key, spec in specs.items():
            before = new_specs.get(key)
            if spec is None:
                new_specs.pop(key, None)
            else:
                # An equal spec may come from another file: the newest source is kept, and nothing is touched.
                new_specs[key] = spec
            if before != spec:
                changed.add(("spec", key))
            if (before is None) == (spec is None):
                continue
            edit = _with if before is None else _without
            edit(by_kind, (key.mesh, key.kind), key)
            changed.add(("kind", (key.mesh, key.kind)))
            if key.kind.parent is not None and (parent := key.parent_key) is not None:
                edit(children, parent, key)
                changed.add(("children", parent))
        new_endpoints = dict(self._endpoints) if endpoints else self._endpoints
        for node, found in endpoints.items():
            if new_endpoints.get(node, ()) == tuple(found or ()):
                continue
            changed.add(("endpoints", node))
            if found:
                new_endpoints[node] = tuple(found)
            else:
                del new_endpoints[node]
        new_indexes = self._indexes
        differing = {key: index for key, index in indexes.items() if new_indexes.get(key) != index}
        if differing:
            new_indexes = {**new_indexes, **differing}
            changed.update(("index", key) for key in differing)
        mesh = Mesh(
            new_specs,
            children,
            by_kind,
            new_endpoints,
            new_indexes,
            revision,
            self.lineage if lineage is None else lineage,
        )
        if new_specs is self._specs:
            mesh._problems = self._problems
        if changed:
            mesh._before, mesh._changed = self._content, frozenset(changed)
        else:
            mesh._content, mesh._before, mesh._changed = self._content, self._before, self._changed
        return mesh, frozenset(changed)

    def changes_since(self, before: Mesh) -> frozenset[Touch]:
        """What reads differently in this mesh than in `before`, which need not be the one that it was made from.

        Of the mesh that it was made from, `replace` left the answer; others made from each other share what did not change, so that
        this looks at differences only."""
        if self._content is before._content:
            return frozenset()
        if self._before is before._content:
            return self._changed
        specs = _differing(before._specs, self._specs)
        changed: set[Touch] = {("spec", key) for key in specs}
        for key in specs:
            if key in before._specs and key in self._specs:
                continue
            changed.add(("kind", (key.mesh, key.kind)))
            if key.kind.parent is not None and (parent := key.parent_key) is not None:
                changed.add(("children", parent))
        changed.update(("endpoints", node) for node in _differing(before._endpoints, self._endpoints))
        changed.update(("index", key) for key in _differing(before._indexes, self._indexes))
        return frozenset(changed)

    def spec(self, key: Key) -> Spec | None:
        return self._specs.get(key)

    def of_kind(self, mesh: str, kind: Kind) -> tuple[Key, ...]:
        """Sorted by name; routes and gateway routes by their parent's name first."""
        return self._by_kind.get((mesh, kind), ())

    def children(self, key: Key) -> tuple[Key, ...]:
        """The routes of a router or gateway routes of a gateway, by name; also of a parent that is not defined."""
        return self._children.get(key, ())

    def endpoints(self, node: Key) -> tuple[Endpoint, ...]:
        return self._endpoints.get(node, ())

    def index(self, service: Key) -> int | None:
        """The virtual service's address index, 1 to 65535; it outlives the service's spec, never given to another."""
        return self._indexes.get(service)

    @property
    def specs(self) -> Mapping[Key, Spec]:
        """Everything that is defined, in no particular order."""
        return MappingProxyType(self._specs)

    @property
    def meshes(self) -> tuple[str, ...]:
        """The names of all meshes of which anything is defined, sorted."""
        return tuple(sorted({mesh for mesh, _ in self._by_kind}))

    @property
    def indexes(self) -> Mapping[Key, int]:
        return MappingProxyType(self._indexes)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is defined and cannot work as it stands, sorted by resource; computed at the first call."""
        if self._problems is None:
            self._problems = problems_of(self)
        return self._problems


class View:
    """Reads a Mesh and remembers everything it was asked for. One view per thing compiled."""

    __slots__ = ("mesh", "touched")

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.touched: set[Touch] = set()

    def spec(self, key: Key) -> Spec | None:
        self.touched.add(("spec", key))
        return self.mesh._specs.get(key)

    def of_kind(self, mesh: str, kind: Kind) -> tuple[Key, ...]:
        self.touched.add(("kind", (mesh, kind)))
        return self.mesh.of_kind(mesh, kind)

    def children(self, key: Key) -> tuple[Key, ...]:
        self.touched.add(("children", key))
        return self.mesh._children.get(key, ())

    def endpoints(self, node: Key) -> tuple[Endpoint, ...]:
        self.touched.add(("endpoints", node))
        return self.mesh._endpoints.get(node, ())

    def index(self, service: Key) -> int | None:
        self.touched.add(("index", service))
        return self.mesh._indexes.get(service)

    def touches(self, changed: Iterable[Touch]) -> bool:
        """Whether what was read through this view may read differently now."""
        return not self.touched.isdisjoint(changed)


def allocate_indexes(services: Iterable[Key], taken: Mapping[Key, int]) -> dict[Key, int]:
    """Indexes for those of `services` that have none in `taken`, in the order of their keys.

    They lie above every index ever given, since none is reused: `taken` holds those of deleted services too. They are
    unique over all meshes, because placements of several meshes may share a host."""
    last = max(taken.values(), default=0)
    fresh = sorted({key for key in services if key not in taken}, key=_order)
    if last + len(fresh) >= SERVICES_PER_SLOT:
        raise AddressIndexError(
            f"{fresh[-1]}: this virtual service gets no address index: {last} of {SERVICES_PER_SLOT - 1} are given"
        )
    return {key: last + place for place, key in enumerate(fresh, start=1)}


def _order(key: Key) -> tuple[str, str, str, str]:
    return (key.mesh, key.kind.value, key.parent or "", key.name)


def _differing(before: dict[Key, Any], after: dict[Key, Any]) -> list[Key]:
    """The keys that only one of the two has, or whose values are not equal. Dicts copied from each other keep their order, so
    that most entries are compared by identity, in pairs."""
    if before is after:
        return []
    if len(before) == len(after):
        pairs = zip(before.items(), after.items(), strict=True)
        suspects = [key for (old, was), (new, now) in pairs if was is not now or old is not new for key in (old, new)]
    else:
        suspects = [*before, *after]
    missing = object()
    return [key for key in dict.fromkeys(suspects) if before.get(key, missing) != after.get(key, missing)]


def _with(index: dict[Any, tuple[Key, ...]], at: Any, key: Key) -> None:
    keys = index.get(at, ())
    place = bisect_left(keys, _order(key), key=_order)
    index[at] = (*keys[:place], key, *keys[place:])


def _without(index: dict[Any, tuple[Key, ...]], at: Any, key: Key) -> None:
    left = tuple(other for other in index.get(at, ()) if other != key)
    if left:
        index[at] = left
    else:
        index.pop(at, None)
