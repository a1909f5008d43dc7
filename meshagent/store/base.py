"""The one seam for durable state: a revisioned key-value store with compare-and-swap, watches and leases.

Everything that the control plane must remember is a prefix in it, so that servers hold nothing of their own:

    config/<resource path>        a spec, as JSON                        (meshagent.specs)
    services/<mesh>/<service>     the service's address index            (never reused)
    authority/...                 roots, intermediates, their keys       (meshagent.identity)
    tokens/<id>                   join tokens
    hosts/<name>                  hosts and the placements they may run
    endpoints/<host>/<placement>  what a host's lease vouches for        (lease)
    deleted/<resource path>       who deleted a resource, and when
    envoy/...                     versions of Envoy, and which hosts are to run which
    meta/...                      lineage, the configuration's guard

Implementations: memory, SQLite, etcd; tests/store/contract.py is the contract, run against each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshagent.errors import MeshagentError


class StoreError(MeshagentError):
    """The store cannot do what was asked: unavailable, or of a schema that this version does not know."""


class Conflict(StoreError):
    """A compare-and-swap found another revision than expected; nothing was written."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(f"{key}: expected revision {expected}, found {found}")
        self.key, self.expected, self.found = key, expected, found


class LeaseGone(StoreError):
    """The lease has expired or was revoked, or never was."""


@dataclass(frozen=True)
class Entry:
    """`revision` is the store's revision at which this value was written, `created` the one at which the key first
    came to be; `lease` is 0 for a key that lives until it is deleted."""

    key: str
    value: bytes
    revision: int
    created: int
    lease: int = 0


@dataclass(frozen=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """Deleting a key that is not there changes nothing and is no error."""

    key: str


Change = Put | Delete


@dataclass(frozen=True)
class Event:
    """One key's change at one revision; `entry` is None when the key was deleted or its lease ended."""

    key: str
    entry: Entry | None
    revision: int


class Store(Protocol):
    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> tuple[tuple[Entry, ...], int]:
        """All entries whose key starts with `prefix`, ordered by key, and the revision of the whole store that they
        were read at."""

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        """Writes all changes at one new revision and returns it, durably, or none of them.

        `expect` maps keys (changed or not) to the revision each must have now; 0 means absent. Raises Conflict for
        the first that differs, LeaseGone for a Put on a lease that is not there. Changes that alter nothing (deletes
        of absent keys) make no revision; a Put always does, also of the same value. ValueError for a key that stands
        in `changes` twice or is empty. A caller that is cancelled does not know whether the commit happened, but it
        happened whole or not at all."""

    async def revision(self) -> int:
        """The revision of the last commit; it only grows, also over a restart."""

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """The changes under `prefix` at revisions greater than `after`, in order, one batch a revision, for ever;
        first those already there. A watcher that asks for history which is no longer kept, or for what follows a
        revision that the store has not reached, or that falls too far behind, gets StoreError and lists again. A wait
        that is cancelled loses nothing. The iterator also has `aclose`."""

    async def grant(self, ttl: float) -> int:
        """A new lease that ends `ttl` seconds (of the store's monotonic clock) after its last keepalive; keys put on
        it go with it, as one revision; a key put again goes by its new lease alone. Ids are never given twice. After
        a restart of an embedded store every lease has one full `ttl` again."""

    async def keepalive(self, lease: int) -> float:
        """How long it lives from now, the `ttl` it was granted with. Touches memory only: no revision, no write. Raises LeaseGone."""

    async def revoke(self, lease: int) -> None:
        """Ends the lease now, its keys with it. A lease that is gone is no error."""

    async def close(self) -> None: ...
