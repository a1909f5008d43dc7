"""Changes: what the store's events say, decoded, and merged where several revisions are taken at once. Pure.

An entry that cannot be read (written by a later version, or damaged) is named in `unreadable` and changes nothing: what
was known of it before goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshagent.discovery.leases import Lookup
from meshagent.errors import MeshagentError
from meshagent.mesh.placement import Endpoint
from meshagent.server import configrecords, rolloutrecords
from meshagent.server.records import (
    ENDPOINTS,
    HOSTS,
    LINEAGE,
    ROLLED_BACK,
    SUSPECTS,
    HostRecord,
    LineageRecord,
    RolledBack,
    decode_endpoint,
    host_of,
    placement_of,
)
from meshagent.server.rollout import Policy, Release, Scope
from meshagent.specs.keys import Key
from meshagent.specs.spec import Spec
from meshagent.store.base import Entry, Event


@dataclass
class Changes:
    """None in a mapping: no longer there. `deleted` are tombstones: True where one stands. `resolved` are answers of DNS, which are no
    events of the store's but take the same way."""

    revision: int = 0
    specs: dict[Key, Spec | None] = field(default_factory=dict)
    indexes: dict[Key, int] = field(default_factory=dict)
    hosts: dict[str, HostRecord | None] = field(default_factory=dict)
    leases: dict[str, Endpoint | None] = field(default_factory=dict)
    suspects: dict[str, Endpoint] = field(default_factory=dict)
    deleted: dict[Key, bool] = field(default_factory=dict)
    lineage: LineageRecord | None = None
    rolled_back: list[RolledBack | None] = field(default_factory=list)
    resolved: dict[Lookup, tuple[str, ...]] = field(default_factory=dict)
    releases: dict[str, Release | None] = field(default_factory=dict)
    policies: dict[Scope, Policy | None] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def decode(events: Iterable[Event], into: Changes | None = None) -> Changes:
    """Later events win. Keys of no interest here (tokens, the authority) are passed over."""
    changes = into if into is not None else Changes()
    for event in events:
        changes.revision = max(changes.revision, event.revision)
        for prefix, take in _TAKERS.items():
            if event.key.startswith(prefix):
                try:
                    take(changes, event.key, event.entry)
                except (MeshagentError, ValueError) as error:
                    changes.unreadable.append(f"{event.key}: {error}")
                break
    return changes


def _config(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.specs[Key.parse(key.removeprefix(configrecords.CONFIG))] = configrecords.decode(entry) if entry else None


def _service(changes: Changes, key: str, entry: Entry | None) -> None:
    # An index is given for ever: its record going away says nothing.
    if entry is not None:
        service, index = configrecords.decode_index(entry)
        changes.indexes[service] = index


def _host(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.hosts[host_of(key)] = HostRecord.decode(entry) if entry else None


def _endpoint(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.leases[placement_of(key)] = decode_endpoint(entry) if entry else None


def _suspect(changes: Changes, key: str, entry: Entry | None) -> None:
    # Whether it is kept any longer, the brake says.
    if entry is not None:
        changes.suspects[placement_of(key)] = decode_endpoint(entry)


def _deleted(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.deleted[Key.parse(key.removeprefix(configrecords.DELETED))] = entry is not None


def _lineage(changes: Changes, key: str, entry: Entry | None) -> None:
    if entry is not None:
        changes.lineage = LineageRecord.decode(entry)


def _rolled_back(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.rolled_back = [RolledBack.decode(entry) if entry else None]


def _release(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.releases[rolloutrecords.version_of(key)] = rolloutrecords.decode_release(entry) if entry else None


def _policy(changes: Changes, key: str, entry: Entry | None) -> None:
    changes.policies[rolloutrecords.scope_of(key)] = rolloutrecords.decode_policy(entry) if entry else None


_TAKERS: dict[str, Callable[[Changes, str, Entry | None], None]] = {
    configrecords.CONFIG: _config,
    configrecords.SERVICES: _service,
    HOSTS: _host,
    ENDPOINTS: _endpoint,
    SUSPECTS: _suspect,
    configrecords.DELETED: _deleted,
    LINEAGE: _lineage,
    ROLLED_BACK: _rolled_back,
    rolloutrecords.RELEASES: _release,
    rolloutrecords.POLICIES: _policy,
}
