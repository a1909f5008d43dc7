"""The compiler: one placement of a Mesh becomes the Snapshot of its Envoy.

Everything that more than one proxy may need is a piece of the memo, shared as the very same Resource; what a compile touched, shared
pieces included, is handed out, so that the caller compiles again only what a change concerns. No IO and no clock: equal meshes give equal
bytes on every server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshagent.envoy.assembly import Difference, Differences, all_touched, joined, patched
from meshagent.envoy.endpoints import every_address
from meshagent.envoy.gateways import gateway_part
from meshagent.envoy.intercepted import beyond_the_mesh
from meshagent.envoy.listeners import (
    Part,
    bound_backend,
    bound_ingress,
    redirect_egress_listener,
    redirected_backend,
    redirected_ingress,
)
from meshagent.envoy.memo import Digested, Memo, Piece, Reading
from meshagent.envoy.notices import Notice
from meshagent.envoy.static import static_form
from meshagent.envoy.tls import policy_notices
from meshagent.mesh.graph import Mesh, Touch
from meshagent.mesh.placement import Mode, Placement
from meshagent.specs.gateways import VirtualGatewaySpec
from meshagent.specs.keys import Key, Kind, mesh_key, service_key
from meshagent.specs.logs import Logging
from meshagent.specs.meshes import EgressFilterType
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.specs.tls import BackendDefaults, ClientPolicy
from meshagent.xds.snapshot import CLUSTER, ORDER, Resource, Snapshot, Stamp

__all__ = ["SPECIFIED", "Compiled", "Compiler", "Notice", "static_form"]

# The reason in the stamp of a snapshot whose resource is defined: what it lacks, its spec does not ask for.
SPECIFIED = "specified"
_EGRESS_FILTER = "spec.egressFilter"


@dataclass(frozen=True)
class Compiled:
    """`touched` is what was read: another mesh gives another result only if one of these reads differently there."""

    snapshot: Snapshot
    touched: frozenset[Touch]
    notices: tuple[Notice, ...]


@dataclass
class _Collected:
    """The parts of a proxy, the first first. For a node, `client` and `pieces` say where those with resources come from, but for the
    listener that all backends' chains are joined in."""

    parts: list[Part]
    client: Piece[_Client] | None = None
    pieces: list[Piece[Part]] = field(default_factory=list)


@dataclass(slots=True)
class _Known:
    """What a placement came to the last time."""

    placement: Placement
    trust_domain: str
    client: Piece[_Client] | None
    pieces: list[Piece[Part]]
    compiled: Compiled

    def patchable(self, placement: Placement, trust_domain: str) -> bool:
        """Whether nothing has changed but what the pieces hold."""
        return (
            self.client is not None
            and self.client.alive
            and self.client.value.of_one_mind
            and (self.placement is placement or self.placement == placement)
            and self.trust_domain == trust_domain
        )


class Compiler:
    """Holds the memo, and the last result of each placement until told to `forget` it; one per server process; not thread-safe. Cheapest
    when all placements of one mesh are compiled in a row.

    A result shares with the last one of its placement whatever mappings, and set of touches, are equal."""

    def __init__(self) -> None:
        self._memo = Memo()
        self._known: dict[str, _Known] = {}
        self._differences = Differences()
        self._mesh: Mesh | None = None
        self._stamp = Stamp()

    def compile(self, mesh: Mesh, placement: Placement, trust_domain: str) -> Compiled:
        """A placement whose resource is not defined gets an empty snapshot with no reason: agents keep what they have."""
        self._memo.advance(mesh)
        if mesh is not self._mesh:
            self._differences.clear()
            self._mesh, self._stamp = mesh, Stamp(mesh.lineage, mesh.revision, SPECIFIED)
        known = self._known.get(placement.id)
        if known is not None and known.patchable(placement, trust_domain):
            compiled = self._patched(known)
            if compiled is not None:
                return compiled
        return self._anew(placement, trust_domain, known)

    def forget(self, placement: str) -> None:
        """A placement that is no more, by its id."""
        self._known.pop(placement, None)

    def _patched(self, known: _Known) -> Compiled | None:
        """What is known, with the pieces that are no longer alive made anew; None when that changes more than their own resources."""
        assert self._mesh is not None and known.client is not None
        reading, turn = Reading(self._mesh, self._memo), self._memo.turn
        known.client.used = turn
        pieces = known.pieces.copy()
        differences: list[Difference] = []
        for place, old in enumerate(known.pieces):
            if old.alive:
                old.used = turn
                continue
            new = pieces[place] = reading.piece(old.build, *old.args)
            difference = self._differences.between(old, new)
            if difference.beside:
                return None
            differences.append(difference)
        before = known.compiled
        touched = before.touched
        if any(difference.touched for difference in differences):
            touched = all_touched(pieces, known.client.touched, touched)
        tables = patched(before.snapshot.resources, pieces, differences)
        known.pieces = pieces
        known.compiled = Compiled(Snapshot(tables, self._stamp), touched, before.notices)
        return known.compiled

    def _anew(self, placement: Placement, trust_domain: str, known: _Known | None) -> Compiled:
        assert self._mesh is not None
        before = known.compiled if known is not None else _NOTHING
        reading = Reading(self._mesh, self._memo)
        spec = reading.spec(placement.resource)
        if spec is None:
            missing = Notice(placement.resource, "", "is not defined: its proxy gets no configuration")
            found = _Collected([Part(notices=(missing,))])
            stamp = Stamp(self._stamp.lineage, self._stamp.revision)
        else:
            found = _COLLECT[placement.resource.kind](reading, placement, spec.body, trust_domain)
            stamp = self._stamp
        compiled = Compiled(
            Snapshot(joined(found.parts, before.snapshot.resources), stamp),
            all_touched((), frozenset(reading.touched), before.touched),
            tuple(dict.fromkeys(notice for part in found.parts for notice in part.notices)),
        )
        self._known[placement.id] = _Known(placement, trust_domain, found.client, found.pieces, compiled)
        return compiled


_NOTHING = Compiled(Snapshot(), frozenset(), ())


@dataclass(frozen=True)
class _Backend:
    """A backend as it is called: `policy` holds the ClientPolicyTls that counts for it, its own or the default."""

    service: Key
    policy: Digested | None


@dataclass(frozen=True)
class _Client:
    """What a node says of the services that it calls."""

    backends: tuple[_Backend, ...]
    notices: tuple[Notice, ...]

    @cached_property
    def of_one_mind(self) -> bool:
        """Whether all backends are called under one policy."""
        return len({each.policy for each in self.backends}) < 2


def client_of(reading: Reading, node: Key) -> _Client:
    spec = reading.spec(node)
    assert spec is not None, "the node that is compiled is there"
    body: VirtualNodeSpec = spec.body
    default = _policy(body.backend_defaults)
    notices = [
        *policy_notices(node, "spec.backendDefaults.clientPolicy", default.value if default else None),
        *_egress_filter_notices(reading, node.mesh),
    ]
    found: dict[Key, _Backend] = {}
    for position, backend in enumerate(body.backends):
        named = backend.virtual_service
        assert named is not None, "a backend has one member"
        path = f"spec.backends[{position}].virtualService"
        service = service_key(node.mesh, named.virtual_service_name)
        if service in found:
            message = f"{service.name} is a backend already: this one is left out"
            notices.append(Notice(node, f"{path}.virtualServiceName", message))
            continue
        policy = default
        if named.client_policy is not None:
            policy = _digested(named.client_policy)
            notices.extend(policy_notices(node, f"{path}.clientPolicy", policy.value if policy else None))
        found[service] = _Backend(service, policy)
    return _Client(tuple(found.values()), tuple(notices))


def _egress_filter_notices(reading: Reading, mesh: str) -> Iterator[Notice]:
    """bind and redirect touch no traffic but the mesh's own: ALLOW_ALL holds by itself."""
    spec = reading.spec(mesh_key(mesh))
    egress = spec.body.egress_filter if spec is not None else None
    if egress is not None and egress.type is EgressFilterType.DROP_ALL:
        message = (
            "DROP_ALL is enforced in the mode intercept alone: connections to what is no backend go their way untouched"
        )
        yield Notice(mesh_key(mesh), _EGRESS_FILTER, message)


def _virtual_node(reading: Reading, placement: Placement, body: VirtualNodeSpec, trust_domain: str) -> _Collected:
    node, slot = placement.resource, placement.slot
    logging = _logging(body.logging)
    bind = placement.mode is Mode.BIND
    ingress: Piece[Part]
    if bind:
        ingress = reading.piece(bound_ingress, node, placement.address, placement.application, logging, trust_domain)
    else:
        wildcard = every_address(placement.address)
        ingress = reading.piece(
            redirected_ingress, node, wildcard, placement.ingress_port, placement.application, logging, trust_domain
        )
    client = reading.piece(client_of, node)
    build = bound_backend if bind else redirected_backend
    backends = [
        reading.piece(build, each.service, slot, each.policy, logging, trust_domain) for each in client.value.backends
    ]
    pieces = [ingress, *backends]
    if placement.mode is Mode.INTERCEPT:
        pieces.append(reading.piece(beyond_the_mesh, node.mesh, placement.egress_port, placement.ipv6, logging))
    parts = [each.value for each in pieces]
    chains = [chain for part in parts for chain in part.chains]
    if chains:
        parts.append(Part((redirect_egress_listener(reading, placement.egress_port, chains),)))
    notices = client.value.notices
    if placement.mode is Mode.INTERCEPT:
        notices = tuple(each for each in notices if each.path != _EGRESS_FILTER)
    if not client.value.of_one_mind:
        notices = (*notices, *_contradictions(node, [each.value for each in backends]))
    parts.append(Part(notices=notices))
    return _Collected(parts, client, pieces)


def _contradictions(node: Key, parts: Iterable[Part]) -> Iterator[Notice]:
    """Clusters that backends with different client policies share."""
    known: dict[str, Resource] = {}
    for part in parts:
        for name, each in part.by_type[ORDER.index(CLUSTER)].items():
            if known.setdefault(name, each).version != each.version:
                message = f"backends with different client policies lead to {name}: that of the first holds for all"
                yield Notice(node, "spec.backends", message)


def _virtual_gateway(reading: Reading, placement: Placement, body: VirtualGatewaySpec, trust_domain: str) -> _Collected:
    gateway = placement.resource
    policy = _policy(body.backend_defaults)
    notices = policy_notices(gateway, "spec.backendDefaults.clientPolicy", policy.value if policy else None)
    logging = _logging(body.logging)
    part = reading.once(gateway_part, gateway, placement.mode, placement.address, policy, logging, trust_domain)
    return _Collected([Part(notices=notices), part])


_COLLECT: Mapping[Kind, Callable[[Reading, Placement, Any, str], _Collected]] = {
    Kind.VIRTUAL_NODE: _virtual_node,
    Kind.VIRTUAL_GATEWAY: _virtual_gateway,
}


def _policy(defaults: BackendDefaults | None) -> Digested | None:
    return _digested(defaults.client_policy) if defaults is not None and defaults.client_policy is not None else None


def _digested(policy: ClientPolicy) -> Digested | None:
    """A backend's policy replaces the default as a whole: one that says nothing of TLS stands for none."""
    return Digested(policy.tls.model_dump_json(), policy.tls) if policy.tls is not None else None


def _logging(spec: Logging | None) -> Digested | None:
    return Digested(spec.model_dump_json(), spec) if spec is not None else None
