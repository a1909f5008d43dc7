"""What hosts' streams write into the store: their records, their one lease each, the endpoints that it vouches for.

Every write is one commit by compare-and-swap on the host's record. A renewal touches memory only; health makes a revision
when it changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from meshagent.identity import tokens
from meshagent.mesh.placement import Endpoint, Health
from meshagent.protocol import host_pb2
from meshagent.server.records import (
    ENDPOINTS,
    HOSTS,
    HostRecord,
    decode_endpoint,
    encode_endpoint,
    endpoint_key,
    host_key,
    placement_of,
)
from meshagent.specs.keys import Key, Kind
from meshagent.store.base import Change, Conflict, Delete, LeaseGone, Put, Store, StoreError

_ATTEMPTS = 10
HEALTH = {
    host_pb2.HEALTHY: Health.HEALTHY,
    host_pb2.UNHEALTHY: Health.UNHEALTHY,
    host_pb2.DRAINING: Health.DRAINING,
}

_log = logging.getLogger(__name__)

Edit = Callable[[HostRecord], HostRecord]


class HostGone(StoreError):
    """The host was removed while it was connected: nothing more is written for it."""


async def read_host(store: Store, host: str) -> HostRecord | None:
    entry = await store.get(host_key(host))
    return HostRecord.decode(entry) if entry else None


async def list_hosts(store: Store) -> list[HostRecord]:
    entries, _ = await store.list(HOSTS)
    return [HostRecord.decode(entry) for entry in entries]


async def edit_host(store: Store, host: str, edit: Edit, create: bool = False) -> tuple[HostRecord, int] | None:
    """The record as `edit` leaves it, and the revision at which it stands. Endpoints of placements that it no longer has go in the same
    commit: that is how a removal is told from a lease's end. None when there is no such host, unless it may be created."""
    key = host_key(host)
    for _ in range(_ATTEMPTS):
        entry = await store.get(key)
        if entry is None and not create:
            return None
        before = HostRecord.decode(entry) if entry else HostRecord(host)
        after = edit(before)
        if entry is not None and after == before:
            return after, entry.revision
        gone = {one.id for one in before.placements} - {one.id for one in after.placements}
        changes: list[Change] = [Put(key, after.encode()), *(Delete(endpoint_key(host, id_)) for id_ in sorted(gone))]
        try:
            return after, await store.commit(changes, expect={key: entry.revision if entry else 0})
        except Conflict:
            continue
    raise StoreError(f"{key}: keeps changing under it: try again")


async def delete_host(store: Store, host: str) -> HostRecord | None:
    """Takes a host away, its endpoints, its lease and the tokens that it used with it: a deliberate removal. None when there is no such
    host."""
    key = host_key(host)
    for _ in range(_ATTEMPTS):
        entry = await store.get(key)
        if entry is None:
            return None
        record = HostRecord.decode(entry)
        entries, _revision = await store.list(endpoint_key(host, ""))
        # A used token would let its key in again until the token ends.
        used = await tokens.used_by(store, host)
        gone = [Delete(key), *(Delete(one.key) for one in entries), *(Delete(one) for one in used)]
        try:
            await store.commit(gone, expect={key: entry.revision})
        except Conflict:
            continue
        if record.lease:
            await store.revoke(record.lease)
        return record
    raise StoreError(f"{key}: keeps changing under it: try again")


class Vouching:
    """One connected host's lease, and what is registered on it. Made anew for each stream; the lease goes on from the last one."""

    def __init__(self, store: Store, record: HostRecord, life: float) -> None:
        self.lease = record.lease
        self._store, self._host, self._life = store, record.host, life
        self._registered: dict[str, Endpoint] = {}

    async def open(self) -> None:
        """Takes up the lease of the record where it still stands, or grants one and writes it into the record. One of another life, from
        before a restart of the server, is followed by one of this life, which agents are told of and report by. Endpoints on a former
        lease go over to this one; what cannot go over now stays for as long as that one lives."""
        if await self.renew() != self._life:
            await self._begin()
        entries, _ = await self._store.list(f"{ENDPOINTS}{host_key(self._host).removeprefix(HOSTS)}/")
        standing = {placement_of(entry.key): (entry.lease, decode_endpoint(entry)) for entry in entries}
        self._registered = {id_: endpoint for id_, (lease, endpoint) in standing.items() if lease == self.lease}
        former = {id_: endpoint for id_, (lease, endpoint) in standing.items() if lease != self.lease}
        if former:
            self._registered.update(await self._write(former))

    async def renew(self) -> float:
        """The host was heard of; how long its lease lives. One that ended meanwhile is followed by a new one, on which nothing is
        registered yet."""
        if self.lease:
            try:
                return await self._store.keepalive(self.lease)
            except LeaseGone:
                _log.info("%s is heard of again after its lease had ended", self._host)
        self._registered.clear()
        await self._begin()
        return self._life

    async def _begin(self) -> None:
        lease = await self._store.grant(self._life)
        if await edit_host(self._store, self._host, lambda record: replace(record, lease=lease)) is None:
            self.lease = 0
            await self._store.revoke(lease)
            raise HostGone(f"host {self._host} was removed")
        self.lease = lease

    async def register(self, record: HostRecord, statuses: Iterable[host_pb2.PlacementStatus]) -> None:
        """Writes what changed in health or address. A placement that was not probed yet is no endpoint, and one that is not probed
        again yet (its agent restarted) stays what it was."""
        changed = changed_endpoints(record, statuses, self._registered)
        if changed and (written := await self._write(changed)):
            self._registered.update(written)
            for id_, endpoint in written.items():
                words, fields = (endpoint.node, self._host, endpoint.health.value), {"proxy": id_}
                _log.info("%s on %s is %s", *words, extra={"fields": fields})

    async def _write(self, changed: Mapping[str, Endpoint]) -> Mapping[str, Endpoint]:
        """What of it was written. Only as long as the host's record has the placement: a host that is removed meanwhile leaves no endpoint
        behind."""
        key = host_key(self._host)
        for _ in range(_ATTEMPTS):
            entry = await self._store.get(key)
            if entry is None:
                return {}
            current = HostRecord.decode(entry)
            placed = {one.id: one.address for one in current.placements}
            fresh = {id_: endpoint for id_, endpoint in changed.items() if placed.get(id_) == endpoint.address}
            if not fresh:
                return {}
            puts = [Put(endpoint_key(self._host, id_), encode_endpoint(one), self.lease) for id_, one in fresh.items()]
            # The first lease of an address is remembered with the placement: from now on discovery alone does not bring it back.
            marked = tuple(replace(one, leased=one.leased or one.id in fresh) for one in current.placements)
            if marked != current.placements:
                puts.append(Put(key, replace(current, placements=marked).encode()))
            try:
                await self._store.commit(puts, {key: entry.revision})
            except Conflict:
                continue
            except LeaseGone:
                return {}  # the next report is given a new one
            return fresh
        return {}  # the next report tries again


def changed_endpoints(
    record: HostRecord, statuses: Iterable[host_pb2.PlacementStatus], registered: Mapping[str, Endpoint]
) -> dict[str, Endpoint]:
    """The endpoints that a report makes differ from what is registered, by placement id. Gateways make none."""
    placements = {one.id: one for one in record.placements}
    changed: dict[str, Endpoint] = {}
    for status in statuses:
        placement, health = placements.get(status.id), HEALTH.get(status.health)
        if placement is None or health is None:
            continue
        node = Key.parse(placement.resource)
        if node.kind is not Kind.VIRTUAL_NODE:
            continue
        endpoint = Endpoint(node, placement.address, record.host, placement.id, health, leased=True)
        if registered.get(placement.id) != endpoint:
            changed[placement.id] = endpoint
    return changed
