"""What the control plane remembers of hosts, and the JSON that it is in the store.

    hosts/<name>                    HostRecord: what the host may run, what it runs, its slots, its lease
    endpoints/<host>/<placement>    what the host's lease vouches for
    meta/lineage                    LineageRecord
    meta/rolled-back                there while the store is known to be older than what agents hold

Pure. Unknown fields of a later version are dropped when a record is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any
from urllib.parse import quote, unquote

from meshagent.errors import MeshagentError
from meshagent.mesh.placement import Endpoint, Health, Mode, Placement
from meshagent.specs.keys import Key
from meshagent.store.base import Entry

HOSTS, ENDPOINTS, SUSPECTS = "hosts/", "endpoints/", "suspects/"
LINEAGE, ROLLED_BACK = "meta/lineage", "meta/rolled-back"


class RecordError(MeshagentError):
    """A record in the store does not say what it should: written by another version, or damaged."""


@dataclass(frozen=True)
class PlacementRecord:
    """`leased` once a lease has spoken for its address: from then on discovery alone does not bring it back. `drained` by an operator."""

    id: str
    resource: str
    ordinal: int
    slot: int
    mode: str
    address: str
    application: str
    leased: bool = False
    drained: bool = False
    ipv6: bool = False

    def placement(self, host: str) -> Placement:
        resource, mode = Key.parse(self.resource), Mode(self.mode)
        return Placement(self.id, host, resource, mode, self.slot, self.address, self.application, self.ipv6)


@dataclass(frozen=True)
class Order:
    """Which Envoy a host was told last: "" for what its own configuration says. `number` grows with every order; `healthy` are the
    placements that were so when it was given, and must be again before it is `done`; `round` is its policy's."""

    version: str = ""
    url: str = ""
    sha256: str = ""
    number: int = 0
    round: int = 0
    since: float = 0.0
    healthy: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class HostRecord:
    """`allowed` are resource paths, a trailing * for all that begin so, as the newest join token gave them. `accept`
    while an operator's release waits for the host to take it; `drained` with all that it runs or will run. `boot` and what follows
    are ids of boots, the newest last: of its machine, of that machine before, and of copies of it that are kept out (clones)."""

    host: str
    allowed: tuple[str, ...] = ()
    token: str = ""
    joined: int = 0
    address: str = ""
    first_slot: int = 0
    placements: tuple[PlacementRecord, ...] = ()
    lease: int = 0
    accept: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    envoy: Order | None = None
    drained: bool = False
    boot: str = ""
    earlier_boots: tuple[str, ...] = ()
    clones: tuple[str, ...] = ()

    @property
    def attributes(self) -> Mapping[str, str]:
        """What selectors know this host by: what was found out of it, and what its own configuration says, which counts more."""
        return {**self.facts, **self.labels}

    def allows(self, resource: str) -> bool:
        return any(
            resource.startswith(pattern[:-1]) if pattern.endswith("*") else resource == pattern
            for pattern in self.allowed
        )

    @property
    def drained_placements(self) -> frozenset[str]:
        """The ids of those that an operator took out of rotation, one by one or with the whole host."""
        return frozenset(one.id for one in self.placements if self.drained or one.drained)

    def accepted(self, accept: bool = True) -> HostRecord:
        return replace(self, accept=accept)

    def encode(self) -> bytes:
        return _json(asdict(self))

    @classmethod
    def decode(cls, entry: Entry) -> HostRecord:
        found = _object(entry)
        try:
            known = _only(cls, found)
            for name in ("allowed", "earlier_boots", "clones"):
                known[name] = tuple(map(str, found.get(name, ())))
            for name in ("labels", "facts"):
                known[name] = {str(key): str(value) for key, value in found.get(name, {}).items()}
            known["placements"] = tuple(
                PlacementRecord(**_only(PlacementRecord, one)) for one in found.get("placements", ())
            )
            if found.get("envoy") is not None:
                order = _only(Order, found["envoy"])
                known["envoy"] = Order(**{**order, "healthy": tuple(map(str, order.get("healthy", ())))})
            record = cls(**known)
            for placement in record.placements:
                placement.placement(record.host)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RecordError(f"{entry.key}: is no record of a host: {error}") from error
        return record


@dataclass(frozen=True)
class LineageRecord:
    """`replaces` are the lineages that this one was declared to succeed, by `meshctl accept --all`."""

    id: str
    replaces: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return _json(asdict(self))

    @classmethod
    def decode(cls, entry: Entry) -> LineageRecord:
        found = _object(entry)
        try:
            return cls(str(found["id"]), tuple(map(str, found.get("replaces", ()))))
        except (KeyError, TypeError) as error:
            raise RecordError(f"{entry.key}: is no record of a lineage: {error!r}") from error


@dataclass(frozen=True)
class RolledBack:
    """The store was at `revision` when a host told of a later one of the same lineage. No stamp goes beyond `revision`
    until the operator accepts: else the store's own small writes would in time make yesterday's state look newest."""

    revision: int
    host: str
    held: int

    def __str__(self) -> str:
        return (
            f"the store was rolled back: it is at revision {self.revision}, {self.host} holds revision {self.held} of the same "
            "lineage; hosts keep what they have and writes are refused until `meshctl accept --all`"
        )

    def encode(self) -> bytes:
        return _json(asdict(self))

    @classmethod
    def decode(cls, entry: Entry) -> RolledBack:
        found = _object(entry)
        try:
            return cls(int(found["revision"]), str(found["host"]), int(found["held"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{entry.key}: does not say how the store was rolled back: {error!r}") from error


def host_key(host: str) -> str:
    return f"{HOSTS}{quote(host, safe='')}"


def host_of(key: str) -> str:
    return unquote(key.removeprefix(HOSTS))


def endpoint_key(host: str, placement: str) -> str:
    return f"{ENDPOINTS}{quote(host, safe='')}/{placement}"


def suspect_key(host: str, placement: str) -> str:
    """Of an endpoint that is kept although its lease has ended, and taken its own record along."""
    return f"{SUSPECTS}{quote(host, safe='')}/{placement}"


def placement_of(key: str) -> str:
    """The placement's id at the end of an endpoint's key, or a suspect's."""
    return key.rpartition("/")[2]


def encode_endpoint(endpoint: Endpoint) -> bytes:
    return _json({"node": endpoint.node.path, "address": endpoint.address, "health": endpoint.health.value})


def decode_endpoint(entry: Entry) -> Endpoint:
    found = _object(entry)
    host, _, placement = entry.key.removeprefix(ENDPOINTS).removeprefix(SUSPECTS).rpartition("/")
    try:
        node, health = Key.parse(found["node"]), Health(found["health"])
        return Endpoint(node, str(found["address"]), unquote(host), placement, health, leased=True)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{entry.key}: is no record of an endpoint: {error!r}") from error


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _object(entry: Entry) -> dict[str, Any]:
    try:
        found = json.loads(entry.value)
    except ValueError as error:
        raise RecordError(f"{entry.key}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{entry.key}: is not a JSON object")
    return found


def _only(record: type, found: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(record)}
    return {name: value for name, value in found.items() if name in names}
