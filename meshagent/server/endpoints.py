"""The endpoints of every virtual node, kept as leases, placements, policies and DNS answers change. Pure.

What each of them says comes in by the methods; `take_changed` gives the nodes whose endpoints read differently since.
Must not know the store or the clock, and compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshagent.discovery.brake import Brake
from meshagent.discovery.leases import Lookup, endpoints_of
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import Endpoint, Health
from meshagent.server.records import HostRecord
from meshagent.specs.fields import IpPreference
from meshagent.specs.keys import Key, Kind, mesh_key, service_key
from meshagent.specs.policies import EndpointSource, VirtualNodePolicySpec

# As Envoy's dns_lookup_family, but without a preference v4 goes first: a host whose lease names its v4 address must not come in a
# second time, in plaintext, by its v6 one.
_FAMILIES = {
    None: "46",
    IpPreference.IPV4_PREFERRED: "46",
    IpPreference.IPV6_PREFERRED: "64",
    IpPreference.IPV4_ONLY: "4",
    IpPreference.IPV6_ONLY: "6",
}


class EndpointBook:
    def __init__(self, brake: Brake) -> None:
        self.brake = brake
        self.leases: dict[str, Endpoint] = {}
        self.lookups: dict[Key, Lookup] = {}
        self._sources: dict[Key, EndpointSource] = {}
        self._resolved: dict[Lookup, tuple[str, ...]] = {}
        self._leases_of: dict[Key, dict[str, Endpoint]] = {}
        self._spoken: dict[Key, dict[str, str]] = {}
        self._node_of: dict[str, Key] = {}
        self._drained: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self._held: dict[str, Endpoint] = {}
        self._dirty: set[Key] = set()
        self._asked_anew = False

    def host(self, before: HostRecord | None, after: HostRecord | None) -> None:
        """What a host runs has changed; None for none. A placement that is gone takes its endpoint with it, unbraked."""
        old = {placement.id: placement for placement in before.placements} if before else {}
        new = {placement.id: placement for placement in after.placements} if after else {}
        for id_ in old.keys() - new.keys():
            node = self._node_of.pop(id_, None)
            if node is not None:
                self._spoken.get(node, {}).pop(id_, None)
                self._dirty.add(node)
            self._let_go(id_)
        self._drain(
            before.drained_placements if before else frozenset(), after.drained_placements if after else frozenset()
        )
        for id_, placement in new.items():
            if old.get(id_) == placement:
                continue
            node = Key.parse(placement.resource)
            self._node_of[id_] = node
            spoken = self._spoken.setdefault(node, {})
            if placement.leased:
                spoken[id_] = placement.address
            else:
                spoken.pop(id_, None)
            self._dirty.add(node)

    def _drain(self, before: frozenset[str], after: frozenset[str]) -> None:
        self._drained = (self._drained - before) | after
        self._dirty.update(node for id_ in before ^ after if (node := self._node_of.get(id_)) is not None)

    def lease(self, placement: str, endpoint: Endpoint | None, now: float) -> None:
        """What a lease vouches for, or None when it no longer does. Call after `host` for changes of one revision: that the
        placement is still there is how a lease's end is told from a removal."""
        before = self.leases.pop(placement, None)
        if before is not None:
            self._leases_of.get(before.node, {}).pop(placement, None)
            self._dirty.add(before.node)
        if endpoint is not None:
            self._let_go(placement)
            self.leases[placement] = endpoint
            self._leases_of.setdefault(endpoint.node, {})[placement] = endpoint
            self._dirty.add(endpoint.node)
        elif before is not None and placement in self._node_of:
            self._held[placement] = before
            self.brake.ended(before, now)

    def suspect(self, placement: str, endpoint: Endpoint, now: float) -> None:
        """The brake of a server before kept it against its lease's end. Call after `lease` for what is read at the same time."""
        if placement in self._node_of and placement not in self.leases and placement not in self._held:
            self._held[placement] = endpoint
            self._dirty.add(endpoint.node)
            self.brake.kept(endpoint, now)

    def resolved(self, lookup: Lookup, addresses: tuple[str, ...]) -> None:
        nodes = [node for node, wanted in self.lookups.items() if wanted == lookup]
        if nodes and self._resolved.get(lookup) != addresses:
            self._resolved[lookup] = addresses
            self._dirty.update(nodes)

    def specified(self, mesh: Mesh, node: Key) -> None:
        """The node's spec, its policy or its mesh's has changed."""
        source = _source(mesh, node)
        lookup = _lookup(mesh, node, source)
        if source is self._sources.get(node) and lookup == self.lookups.get(node):
            return
        self._dirty.add(node)
        if source is None:
            self._sources.pop(node, None)
        else:
            self._sources[node] = source
        if lookup is None:
            self.lookups.pop(node, None)
        else:
            self.lookups[node] = lookup
        self._asked_anew = True

    def take_changed(self, now: float) -> Mapping[Key, tuple[Endpoint, ...] | None]:
        """The endpoints of the nodes that anything was said of since the last call, and of those that the brake now keeps or lets go."""
        if self._asked_anew:
            # Only now: of one change, one node may give up the name that another takes up.
            asked = set(self.lookups.values())
            self._resolved = {lookup: found for lookup, found in self._resolved.items() if lookup in asked}
            self._asked_anew = False
        kept = self.brake.judge(len(self.leases), now)
        for placement in kept ^ self._kept:
            if placement in self._held:
                self._dirty.add(self._held[placement].node)
        self._kept = kept
        changed = {node: self._endpoints(node) or None for node in self._dirty}
        self._dirty.clear()
        return changed

    def next_deadline(self, now: float) -> float | None:
        """When `take_changed` should be called although nothing was said."""
        return self.brake.next_deadline(now)

    def _endpoints(self, node: Key) -> tuple[Endpoint, ...]:
        leased = dict(self._leases_of.get(node, {}))
        for placement in self._kept:
            held = self._held.get(placement)
            if held is not None and held.node == node:
                leased.setdefault(placement, held)
        for placement in self._drained & leased.keys():
            # What is no good anyway does not become better by being drained.
            if leased[placement].health is Health.HEALTHY:
                leased[placement] = replace(leased[placement], health=Health.DRAINING)
        lookup = self.lookups.get(node)
        return endpoints_of(
            node,
            self._sources.get(node, EndpointSource.BOTH),
            leased.values(),
            frozenset(self._spoken.get(node, {}).values()),
            self._resolved.get(lookup, ()) if lookup else (),
        )

    def _let_go(self, placement: str) -> None:
        self.brake.settled(placement)
        held = self._held.pop(placement, None)
        if held is not None:
            self._dirty.add(held.node)


def _source(mesh: Mesh, node: Key) -> EndpointSource | None:
    """None for a node that is not defined."""
    if mesh.spec(node) is None:
        return None
    policy = mesh.spec(Key(node.mesh, Kind.VIRTUAL_NODE_POLICY, node.name))
    return policy.body.endpoints if policy is not None else VirtualNodePolicySpec().endpoints


def _lookup(mesh: Mesh, node: Key, source: EndpointSource | None) -> Lookup | None:
    """What this server asks DNS for the node's sake. A node left to discovery is resolved by Envoy itself, but for a hostname that is also
    a virtual service's: Envoy reads /etc/hosts, would find the service's own address there and call itself in a loop."""
    spec = mesh.spec(node)
    if spec is None or source in (None, EndpointSource.LEASES):
        return None
    found = spec.body.service_discovery
    if found is None or found.dns is None:
        return None
    if source is EndpointSource.DISCOVERY and mesh.spec(service_key(node.mesh, found.dns.hostname)) is None:
        return None
    preference = found.dns.ip_preference
    whole = mesh.spec(mesh_key(node.mesh))
    if preference is None and whole is not None and whole.body.service_discovery is not None:
        preference = whole.body.service_discovery.ip_preference
    return Lookup(found.dns.hostname.rstrip(".").lower(), _FAMILIES[preference])
