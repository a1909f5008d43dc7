"""The configuration of all meshes in the store: the control plane's one way to write it, and to read all of it.

A write reads everything, decides what changes (meshagent.api.changes), and commits that with a compare-and-swap on one guard key: what
was decided on is what is changed, also where several servers write. A virtual service's address index is allocated here, once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from meshagent.api.changes import Change, ChangeKind, Metadata, Record, orphan, plan, plan_deletion
from meshagent.api.configuration import Tags, Written
from meshagent.api.errors import (
    ConflictException,
    LimitExceededException,
    NotFoundException,
    ServiceUnavailableException,
)
from meshagent.mesh.graph import AddressIndexError, allocate_indexes
from meshagent.server.configrecords import (
    CONFIG,
    DELETED,
    GUARD,
    SERVICES,
    config_key,
    decode,
    decode_index,
    decode_record,
    deleted_key,
    encode,
    index_key,
    packed,
)
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Spec
from meshagent.store import base as store_base
from meshagent.store.base import Conflict, Delete, Put, Store, StoreError

__all__ = ["CONFIG", "DELETED", "SERVICES", "Catalog", "Loaded", "commit", "decode", "decode_index", "load"]

ATTEMPTS = 8
DEFAULT_ACCOUNT = "0" * 12

T = TypeVar("T")
Decide = Callable[[Mapping[Key, Record]], tuple[Change, ...]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """All specs and address indexes, at `revision` or newer: a watch from `revision` on repeats nothing harmful."""

    specs: tuple[Spec, ...]
    indexes: Mapping[Key, int]
    revision: int


async def load(store: Store) -> Loaded:
    entries, revision = await store.list(CONFIG)
    allocated, _ = await store.list(SERVICES)
    return Loaded(tuple(map(decode, entries)), dict(map(decode_index, allocated)), revision)


@dataclass(frozen=True)
class Circumstances:
    """What a commit needs besides the changes: who writes, when, for which account, and what a creation brings along."""

    who: str
    now: float
    account: str = DEFAULT_ACCOUNT
    tags: Tags = ()
    client_token: str = ""


async def commit(
    store: Store, changes: Sequence[Change], records: Mapping[Key, Record], guard: int, by: Circumstances
) -> tuple[int, dict[Key, Record]]:
    """Writes what changes, as one revision, and returns it with the records that were written.

    `guard` is the revision of GUARD from before `records` was read; Conflict where somebody wrote since."""
    effective = [change for change in changes if change.kind is not ChangeKind.NONE]
    if not effective:
        return await store.revision(), {}
    written: dict[Key, Record] = {}
    writes: list[store_base.Change] = [Put(GUARD, packed({"by": by.who, "at": by.now}))]
    for change in effective:
        before = records.get(change.key)
        if change.after is None:
            writes.append(Delete(config_key(change.key)))
            note = {"by": by.who, "at": by.now, "revision": before.revision if before else 0}
            writes.append(Put(deleted_key(change.key), packed(note)))
            continue
        written[change.key] = record = _record(change.after, before, by)
        writes.append(Put(config_key(change.key), encode(record)))
        if before is None:
            writes.append(Delete(deleted_key(change.key)))
    writes += await _new_indexes(store, written)
    revision = await store.commit(writes, {GUARD: guard})
    return revision, {key: replace(record, revision=revision) for key, record in written.items()}


def _record(spec: Spec, before: Record | None, by: Circumstances) -> Record:
    if before is None:
        metadata = Metadata(str(uuid.uuid4()), 1, by.now, by.now, by.account, by.account)
        return Record(spec, metadata, by.tags, by.client_token)
    version = before.metadata.version + 1
    # A clock that was set back does not make a resource younger than it was.
    at = max(by.now, before.metadata.last_updated_at)
    return Record(spec, replace(before.metadata, version=version, last_updated_at=at), before.tags, by.client_token)


async def _new_indexes(store: Store, written: Iterable[Key]) -> list[Put]:
    """Indexes for the virtual services that never had one; those of deleted services stay theirs."""
    services = [key for key in written if key.kind is Kind.VIRTUAL_SERVICE]
    if not services:
        return []
    entries, _ = await store.list(SERVICES)
    try:
        fresh = allocate_indexes(services, dict(map(decode_index, entries)))
    except AddressIndexError as error:
        raise LimitExceededException(str(error)) from error
    return [Put(index_key(service), packed({"index": index})) for service, index in fresh.items()]


class Catalog:
    """The Configuration of the API. `write_gate` gives the reason for which writes are refused now, "" when they are not."""

    def __init__(
        self,
        store: Store,
        *,
        account: str = DEFAULT_ACCOUNT,
        write_gate: Callable[[], str] = lambda: "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._account = account
        self._write_gate = write_gate
        self._now = now
        self._decoded: dict[str, Record] = {}
        # Writers of this server take turns here; the guard is for other servers'.
        self._writing = asyncio.Lock()

    async def records(self) -> tuple[Mapping[Key, Record], int]:
        entries, revision = await self._reached(self._store.list(CONFIG))
        decoded = {entry.key: self._decode(entry) for entry in entries}
        self._decoded = decoded
        return {record.key: record for record in decoded.values()}, revision

    async def record(self, key: Key) -> Record:
        entry = await self._reached(self._store.get(config_key(key)))
        if entry is None:
            raise NotFoundException(f"{key} does not exist")
        return self._decode(entry)

    async def create(self, spec: Spec, who: str, tags: Tags = (), client_token: str = "") -> Record:
        def decide(records: Mapping[Key, Record]) -> tuple[Change, ...]:
            before = records.get(spec.key)
            if before is not None and before.spec != spec:
                again = " with this clientToken" if client_token and client_token == before.client_token else ""
                raise ConflictException(
                    f"{spec.key} was created{again} with another spec: update it, or choose another name"
                )
            if (fault := orphan(spec, records)) is not None:
                raise NotFoundException(str(fault))
            return plan(records, [spec])

        written = await self._write(decide, who, tags, client_token)
        return written.records[spec.key]

    async def update(self, spec: Spec, who: str, client_token: str = "") -> Record:
        def decide(records: Mapping[Key, Record]) -> tuple[Change, ...]:
            if spec.key not in records:
                raise NotFoundException(f"{spec.key} does not exist: create it first")
            return plan(records, [spec])

        written = await self._write(decide, who, (), client_token)
        return written.records[spec.key]

    async def delete(self, key: Key, who: str) -> tuple[Record, Written]:
        gone: list[Record] = []

        def decide(records: Mapping[Key, Record]) -> tuple[Change, ...]:
            changes = plan_deletion(records, key)
            gone[:] = [records[key]]
            return changes

        written = await self._write(decide, who)
        return gone[0], written

    async def apply(self, documents: Sequence[Spec], who: str, dry_run: bool = False) -> Written:
        documents = tuple(documents)
        if dry_run:
            records, revision = await self.records()
            return Written(revision, plan(records, documents), records)
        return await self._write(lambda records: plan(records, documents), who)

    async def _write(self, decide: Decide, who: str, tags: Tags = (), client_token: str = "") -> Written:
        for attempt in range(ATTEMPTS):
            if reason := self._write_gate():
                raise ServiceUnavailableException(f"configuration cannot be changed now: {reason}")
            try:
                async with self._writing:
                    return await self._try_write(
                        decide, Circumstances(who, self._now(), self._account, tags, client_token)
                    )
            except Conflict:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 jitter, not a secret
        raise ConflictException("others change the configuration at the same time: try again")

    async def _try_write(self, decide: Decide, by: Circumstances) -> Written:
        # The guard before the records: whatever is written after this line is found out by the commit.
        guard = await self._reached(self._store.get(GUARD))
        records, _ = await self.records()
        changes = decide(records)
        committing = commit(self._store, changes, records, guard.revision if guard else 0, by)
        revision, written = await self._reached(committing)
        for change in changes:
            if change.kind is not ChangeKind.NONE:
                _log.info("%s: %s by %s at revision %d", change.key, change.kind, by.who or "nobody named", revision)
        gone = {change.key for change in changes if change.after is None}
        now = {key: record for key, record in {**records, **written}.items() if key not in gone}
        return Written(revision, changes, now)

    async def _reached(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except Conflict:
            raise
        except StoreError as error:
            raise ServiceUnavailableException(f"the store did not answer: {error}") from error

    def _decode(self, entry: store_base.Entry) -> Record:
        """Decoding is most of the work of a read: what was decoded at this revision is kept."""
        known = self._decoded.get(entry.key)
        if known is not None and known.revision == entry.revision:
            return known
        try:
            return decode_record(entry)
        except StoreError as error:
            raise ServiceUnavailableException(str(error)) from error
