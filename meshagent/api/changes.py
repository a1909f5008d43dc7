"""What a write does to configuration, decided before anything is written: records, changes, and App Mesh's rules about them.

Pure. `plan` takes documents as they should be, `plan_deletion` takes one resource away; both only say what would change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from meshagent.api.errors import BadRequestException, Fault, NotFoundException, ResourceInUseException
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Spec

# What must be there before what; deletions go the other way.
RANK = {
    Kind.MESH: 0,
    Kind.MESH_POLICY: 1,
    Kind.VIRTUAL_NODE: 2,
    Kind.VIRTUAL_NODE_POLICY: 3,
    Kind.VIRTUAL_ROUTER: 4,
    Kind.ROUTE: 5,
    Kind.VIRTUAL_SERVICE: 6,
    Kind.VIRTUAL_GATEWAY: 7,
    Kind.GATEWAY_ROUTE: 8,
}
# They govern a mesh and are no content of it: they do not keep it from being deleted, and go with it.
POLICIES = (Kind.MESH_POLICY, Kind.VIRTUAL_NODE_POLICY)
_USERS_SHOWN = 5


@dataclass(frozen=True)
class Metadata:
    """App Mesh's: times are seconds since 1970, `version` starts at 1 and grows by one with each update."""

    uid: str
    version: int
    created_at: float
    last_updated_at: float
    mesh_owner: str
    resource_owner: str


@dataclass(frozen=True)
class Record:
    """A resource as it is kept. `revision` is the store's at which it was last written."""

    spec: Spec
    metadata: Metadata
    tags: tuple[tuple[str, str], ...] = ()
    client_token: str = ""
    revision: int = 0

    @property
    def key(self) -> Key:
        return self.spec.key


class ChangeKind(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    NONE = "none"


@dataclass(frozen=True)
class Change:
    """`before` is None for what is new, `after` for what goes away."""

    key: Key
    kind: ChangeKind
    before: Spec | None
    after: Spec | None


def plan(current: Mapping[Key, Record], documents: Sequence[Spec]) -> tuple[Change, ...]:
    """One change a document, parents first. A parent may come in the same call.

    Raises NotFoundException with every document whose parent is nowhere, BadRequestException for one key twice. Other references
    may dangle: App Mesh accepts them."""
    given = {spec.key: spec for spec in documents}
    if len(given) < len(documents):
        raise BadRequestException.of(list(_given_twice(documents)))
    present = current.keys() | given.keys()
    if orphans := [fault for spec in documents if (fault := orphan(spec, present))]:
        raise NotFoundException.of(orphans)
    return tuple(_change(current.get(key), given[key]) for key in sorted(given, key=_order))


def orphan(spec: Spec, present: Collection[Key]) -> Fault | None:
    """What is wrong where the parent is not among those that are there."""
    parent = spec.key.parent_key
    if parent is None or parent in present:
        return None
    words = f"{parent} does not exist: create the {parent.kind} first"
    return Fault(spec.key.path, parent.kind.name_field, words, spec.source.file, spec.source.line)


def plan_deletion(current: Mapping[Key, Record], key: Key) -> tuple[Change, ...]:
    """The deletion, children first: a mesh's policies go with it. NotFoundException, ResourceInUseException."""
    if key not in current:
        raise NotFoundException(f"{key} does not exist")
    users = [f"{user} {how}" for user, how in uses(current, key)]
    if users:
        shown = "; ".join(users[:_USERS_SHOWN])
        more = f"; and {len(users) - _USERS_SHOWN} more" if len(users) > _USERS_SHOWN else ""
        raise ResourceInUseException(f"{key} is in use: {shown}{more}: delete or change what uses it first")
    governing = [
        other for other in current if key.kind is Kind.MESH and other.mesh == key.mesh and other.kind in POLICIES
    ]
    return tuple(Change(gone, ChangeKind.DELETE, current[gone].spec, None) for gone in (*sorted(governing), key))


def uses(current: Mapping[Key, Record], key: Key) -> Iterator[tuple[Key, str]]:
    """Who needs this resource, and how, by App Mesh's deletion rules. Being a node's backend keeps nothing from being deleted."""
    for other in sorted(current, key=_order):
        if other.mesh != key.mesh or other.kind in POLICIES or other == key:
            continue
        if key.kind is Kind.MESH or other.parent_key == key:
            yield other, "is in it"
        elif (key.kind, key.name) in _references(current[other].spec):
            yield other, "refers to it"


def _references(spec: Spec) -> set[tuple[Kind, str]]:
    """What this resource keeps from being deleted."""
    match spec.key.kind:
        case Kind.VIRTUAL_SERVICE if spec.body.provider is not None:
            provider = spec.body.provider
            if provider.virtual_node is not None:
                return {(Kind.VIRTUAL_NODE, provider.virtual_node.virtual_node_name)}
            return {(Kind.VIRTUAL_ROUTER, provider.virtual_router.virtual_router_name)}
        case Kind.ROUTE:
            routes = (spec.body.http_route, spec.body.http2_route, spec.body.grpc_route, spec.body.tcp_route)
            return {
                (Kind.VIRTUAL_NODE, target.virtual_node)
                for route in routes
                if route is not None
                for target in route.action.weighted_targets
            }
        case Kind.GATEWAY_ROUTE:
            gateway_routes = (spec.body.http_route, spec.body.http2_route, spec.body.grpc_route)
            return {
                (Kind.VIRTUAL_SERVICE, route.action.target.virtual_service.virtual_service_name)
                for route in gateway_routes
                if route is not None
            }
    return set()


def _change(before: Record | None, after: Spec) -> Change:
    if before is None:
        return Change(after.key, ChangeKind.CREATE, None, after)
    kind = ChangeKind.NONE if before.spec == after else ChangeKind.UPDATE
    return Change(after.key, kind, before.spec, after)


def _given_twice(documents: Sequence[Spec]) -> Iterator[Fault]:
    first: dict[Key, Spec] = {}
    for spec in documents:
        if spec.key in first:
            where = f" (first at {first[spec.key].source})" if str(first[spec.key].source) else ""
            words = f"is given twice in one call{where}: give it once"
            yield Fault(spec.key.path, "", words, spec.source.file, spec.source.line)
        first.setdefault(spec.key, spec)


def _order(key: Key) -> tuple[int, str]:
    return RANK[key.kind], key.path
