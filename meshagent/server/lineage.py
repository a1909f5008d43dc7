"""Lineage in the store: made at the first start, told apart from a rolled back store, succeeded when an operator accepts.

Every snapshot and desired state carries it; what agents hold of another lineage, or of a later revision than ours, they
keep until `meshctl accept`. All changes are by compare-and-swap, so that several servers agree.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection

from meshagent.server.records import LINEAGE, ROLLED_BACK, HostRecord, LineageRecord, RolledBack, host_key
from meshagent.store.base import Change, Conflict, Delete, Put, Store, StoreError
from meshagent.xds.snapshot import Stamp

_ATTEMPTS = 10
# Of lineages long gone no host can hold anything; the list goes to every host with each desired state.
LONGEST_MEMORY = 64

_log = logging.getLogger(__name__)


async def open_lineage(store: Store) -> LineageRecord:
    """The store's lineage, made now if it has none."""
    for _ in range(_ATTEMPTS):
        entry = await store.get(LINEAGE)
        if entry is not None:
            return LineageRecord.decode(entry)
        fresh = LineageRecord(secrets.token_hex(8))
        try:
            await store.commit([Put(LINEAGE, fresh.encode())], expect={LINEAGE: 0})
        except Conflict:
            continue  # another server was first
        _log.info("a new lineage begins", extra={"fields": {"lineage": fresh.id}})
        return fresh
    raise StoreError(f"{LINEAGE}: keeps changing; is another server being set up on the same store?")


async def notice_rollback(store: Store, host: str, held: Stamp, lineage: str) -> RolledBack | None:
    """Marks the store as rolled back when a host holds a later revision of our own lineage than the store has; None when it does not."""
    if held.lineage != lineage:
        return None
    revision = await store.revision()
    if held.revision <= revision:
        return None
    entry = await store.get(ROLLED_BACK)
    if entry is not None:
        return RolledBack.decode(entry)
    found = RolledBack(revision, host, held.revision)
    _log.error("%s", found, extra={"fields": {"host": host, "held": held.revision, "revision": revision}})
    try:
        await store.commit([Put(ROLLED_BACK, found.encode())], expect={ROLLED_BACK: 0})
    except Conflict:
        _log.info("another server marked the store as rolled back at the same time")
    return found


async def accept_all(store: Store, foreign: Collection[str]) -> tuple[LineageRecord, int]:
    """Begins a lineage that succeeds ours and all `foreign` ones: every host takes what it is offered. Returns it and the revision."""
    for _ in range(_ATTEMPTS):
        entry = await store.get(LINEAGE)
        before = LineageRecord.decode(entry) if entry else LineageRecord("")
        names = dict.fromkeys([before.id, *sorted(foreign), *before.replaces])
        names.pop("", None)
        after = LineageRecord(secrets.token_hex(8), tuple(names)[:LONGEST_MEMORY])
        changes: list[Change] = [Put(LINEAGE, after.encode()), Delete(ROLLED_BACK)]
        try:
            revision = await store.commit(changes, expect={LINEAGE: entry.revision if entry else 0})
        except Conflict:
            continue
        _log.warning("an operator accepted for all hosts: lineage %s succeeds %s", after.id, ", ".join(after.replaces))
        return after, revision
    raise StoreError(f"{LINEAGE}: keeps changing under it: try again")


async def accept_host(store: Store, host: str) -> int | None:
    """Releases one host: it takes what it is offered, once. None when there is no such host."""
    key = host_key(host)
    for _ in range(_ATTEMPTS):
        entry = await store.get(key)
        if entry is None:
            return None
        record = HostRecord.decode(entry)
        if record.accept:
            return entry.revision
        try:
            revision = await store.commit([Put(key, record.accepted().encode())], expect={key: entry.revision})
        except Conflict:
            continue
        _log.warning("an operator accepted for host %s", host)
        return revision
    raise StoreError(f"{key}: keeps changing under it: try again")
