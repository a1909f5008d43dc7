"""What the store says becomes a Mesh, and the Mesh a snapshot for each proxy; only what a change touches is compiled again.

Pure but for the compiler's memo: changes come in, ids of proxies come out, and `snapshot` is what is to be served. Must
not know the store, gRPC, or the clock: `now` is an argument.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshagent.discovery.brake import Brake
from meshagent.discovery.leases import Lookup
from meshagent.envoy.compile import Compiled, Compiler
from meshagent.envoy.notices import Notice
from meshagent.mesh.graph import Mesh, Touch
from meshagent.mesh.placement import Placement
from meshagent.server.endpoints import EndpointBook
from meshagent.server.events import Changes
from meshagent.server.records import HostRecord, LineageRecord, RolledBack
from meshagent.server.rollout import Policy, Release, Scope
from meshagent.specs.keys import Key, Kind, mesh_key, node_key
from meshagent.xds.snapshot import Snapshot, Stamp

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """What a change came to: proxies whose snapshots are new, proxies that are no more, what in the mesh reads differently, hosts whose
    records changed, and whether something that concerns every host did (lineage, a rolled back store). `envoys` where policies or releases
    of Envoy changed."""

    recompiled: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    touched: frozenset[Touch] = frozenset()
    hosts: frozenset[str] = frozenset()
    everyone: bool = False
    policies: bool = False

    def __bool__(self) -> bool:
        return bool(self.recompiled or self.removed or self.touched or self.hosts or self.everyone or self.policies)


class Reconciler:
    """Holds everything that was told so far; one for each server."""

    def __init__(self, compiler: Compiler, trust_domain: str, brake: Brake | None = None) -> None:
        self.mesh = Mesh.build(())
        self.lineage = LineageRecord("")
        self.rolled_back: RolledBack | None = None
        self.hosts: dict[str, HostRecord] = {}
        self.placements: dict[str, Placement] = {}
        self.book = EndpointBook(brake or Brake())
        self.failures: dict[str, str] = {}
        self.releases: dict[str, Release] = {}
        self.policies: dict[Scope, Policy] = {}
        self._compiler, self._trust_domain = compiler, trust_domain
        self._deleted: set[Key] = set()
        self._compiled: dict[str, Compiled] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._readers: dict[Touch, set[str]] = {}

    # --- what there is ---

    def snapshot(self, placement: str) -> Snapshot | None:
        return self._snapshots.get(placement)

    def notices(self, placement: str) -> tuple[Notice, ...]:
        """What of the proxy's specs is not compiled, as its last compilation said."""
        compiled = self._compiled.get(placement)
        return compiled.notices if compiled else ()

    @property
    def stamp(self) -> Stamp:
        """Of what is compiled now. While the store is known to be rolled back, no later than the revision at which that was found."""
        revision = self.mesh.revision
        if self.rolled_back is not None:
            revision = min(revision, self.rolled_back.revision)
        return Stamp(self.lineage.id, revision)

    @property
    def lookups(self) -> frozenset[Lookup]:
        """What DNS is to be asked for."""
        return frozenset(self.book.lookups.values())

    def next_deadline(self, now: float) -> float | None:
        """When to call `apply` although nothing changed."""
        return self.book.next_deadline(now)

    def readers(self, touched: Iterable[Touch]) -> set[str]:
        """The proxies whose compilation read any of this."""
        found: set[str] = set()
        for touch in touched:
            found |= self._readers.get(touch, set())
        return found

    # --- what changes ---

    def apply(self, changes: Changes, now: float = 0.0) -> Applied:
        everyone = self._take_lineage(changes)
        touched = self._take_specs(changes)
        fresh, removed, hosts = self._take_hosts(changes.hosts)
        touched |= self._take_endpoints(changes, touched, now)
        stale = (self.readers(touched) | fresh) - removed
        for placement in sorted(stale):
            self._compile(placement)
        if everyone:
            for placement in self._compiled.keys() - stale:
                self._stamp(placement)
            stale = set(self._compiled)
        return Applied(frozenset(stale), removed, touched, hosts, everyone, self._take_policies(changes))

    def _take_lineage(self, changes: Changes) -> bool:
        before = (self.lineage, self.rolled_back)
        if changes.lineage is not None:
            self.lineage = changes.lineage
        for found in changes.rolled_back:
            self.rolled_back = found
        return before != (self.lineage, self.rolled_back)

    def _take_policies(self, changes: Changes) -> bool:
        before = (dict(self.releases), dict(self.policies))
        for version, release in changes.releases.items():
            self.releases.pop(version, None)
            if release is not None:
                self.releases[version] = release
        for scope, policy in changes.policies.items():
            self.policies.pop(scope, None)
            if policy is not None:
                self.policies[scope] = policy
        return before != (self.releases, self.policies)

    def _take_specs(self, changes: Changes) -> frozenset[Touch]:
        for key, stands in changes.deleted.items():
            (self._deleted.add if stands else self._deleted.discard)(key)
        self.mesh, touched = self.mesh.replace(
            specs=changes.specs,
            indexes=changes.indexes,
            revision=max(changes.revision, self.mesh.revision),
            lineage=self.lineage.id,
        )
        return touched

    def _take_hosts(self, hosts: Mapping[str, HostRecord | None]) -> tuple[set[str], frozenset[str], frozenset[str]]:
        fresh: set[str] = set()
        removed: set[str] = set()
        changed: set[str] = set()
        for name, after in hosts.items():
            before = self.hosts.get(name)
            if before == after:
                continue
            changed.add(name)
            self.book.host(before, after)
            if after is None:
                del self.hosts[name]
            else:
                self.hosts[name] = after
            wanted = {one.id: one.placement(name) for one in after.placements} if after else {}
            for gone in {one.id for one in before.placements} - wanted.keys() if before else ():
                removed.add(gone)
            for id_, placement in wanted.items():
                if self.placements.get(id_) != placement:
                    self.placements[id_] = placement
                    fresh.add(id_)
        removed -= fresh
        for id_ in removed:
            self._forget(id_)
        return fresh, frozenset(removed), frozenset(changed)

    def _take_endpoints(self, changes: Changes, touched: frozenset[Touch], now: float) -> frozenset[Touch]:
        for node in self._respecified(touched):
            self.book.specified(self.mesh, node)
        for placement, endpoint in changes.leases.items():
            self.book.lease(placement, endpoint, now)
        for placement, endpoint in changes.suspects.items():
            self.book.suspect(placement, endpoint, now)
        for lookup, addresses in changes.resolved.items():
            self.book.resolved(lookup, addresses)
        endpoints = self.book.take_changed(now)
        if not endpoints:
            return frozenset()
        self.mesh, more = self.mesh.replace(endpoints=endpoints, revision=self.mesh.revision)
        return more

    def _respecified(self, touched: frozenset[Touch]) -> set[Key]:
        """The nodes of which it may now hold differently where their endpoints come from."""
        nodes: set[Key] = set()
        for what, key in touched:
            if what != "spec" or not isinstance(key, Key):
                continue
            if key.kind in (Kind.VIRTUAL_NODE, Kind.VIRTUAL_NODE_POLICY):
                nodes.add(node_key(key.mesh, key.name))
            elif key.kind is Kind.MESH:
                nodes.update(self.mesh.of_kind(key.mesh, Kind.VIRTUAL_NODE))
            elif key.kind is Kind.VIRTUAL_SERVICE:
                # Its name came or went, perhaps: a node that is left to discovery under this name is resolved elsewhere now.
                policies = self.mesh.of_kind(key.mesh, Kind.VIRTUAL_NODE_POLICY)
                nodes.update(node_key(policy.mesh, policy.name) for policy in policies)
        return nodes

    def _compile(self, id_: str) -> None:
        placement = self.placements[id_]
        try:
            compiled = self._compiler.compile(self.mesh, placement, self._trust_domain)
        except Exception as error:
            # A defect of the compiler's must not stop the other proxies: this one keeps what it has, and status says so.
            _log.exception("%s on %s could not be compiled: it keeps what it has", placement.resource, placement.host)
            self.failures[id_] = f"{placement.resource} could not be compiled: {error!r}"
            return
        self.failures.pop(id_, None)
        before = self._compiled.get(id_)
        old = before.touched if before else frozenset()
        self._compiled[id_] = compiled
        if compiled.touched is not old:
            for touch in old - compiled.touched:
                readers = self._readers[touch]
                readers.discard(id_)
                if not readers:
                    del self._readers[touch]
            for touch in compiled.touched - old:
                self._readers.setdefault(touch, set()).add(id_)
        self._stamp(id_)

    def _stamp(self, id_: str) -> None:
        snapshot = self._compiled[id_].snapshot
        resource = self.placements[id_].resource
        reason = snapshot.stamp.reason
        if not reason:
            gone = next((key for key in (resource, mesh_key(resource.mesh)) if key in self._deleted), None)
            reason = f"deleted {gone}" if gone else ""
        stamp = self.stamp
        self._snapshots[id_] = Snapshot(snapshot.resources, Stamp(stamp.lineage, stamp.revision, reason))

    def _forget(self, id_: str) -> None:
        self.placements.pop(id_, None)
        self.failures.pop(id_, None)
        self._compiler.forget(id_)
        self._snapshots.pop(id_, None)
        compiled = self._compiled.pop(id_, None)
        for touch in compiled.touched if compiled else ():
            readers = self._readers[touch]
            readers.discard(id_)
            if not readers:
                del self._readers[touch]
