"""What a host is to run: which of the placements that it wants it gets, with which slots, and the Desired message.

Pure. Reads the mesh through a View, so that who asks learns on which changes to ask again. Must not know streams or the
store.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from meshagent.envoy.tls import is_strict, takes_plaintext
from meshagent.errors import MeshagentError
from meshagent.mesh.graph import View
from meshagent.mesh.placement import SLOTS, Mode, service_address
from meshagent.protocol import host_pb2
from meshagent.protocol.labels import LABELS_LIMIT, label_fault
from meshagent.server.records import HostRecord, Order, PlacementRecord
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key, Kind, service_key
from meshagent.xds.snapshot import Stamp

PROTOCOLS = (1,)
BOOT_ID_LIMIT = 128
PLACED = (Kind.VIRTUAL_NODE, Kind.VIRTUAL_GATEWAY)
MODES = tuple(mode.value for mode in Mode)


class HelloRefused(MeshagentError):
    """What an agent says of itself cannot be worked with."""


@dataclass(frozen=True)
class Refusal:
    """A wanted placement that the host does not get, and why."""

    resource: str
    words: str


def placement_id(host: str, resource: str, ordinal: int) -> str:
    """Short and stable: the same for the `ordinal`-th (from 0) placement of a resource on a host, whatever else it runs."""
    return hashlib.sha256(f"{host}\0{resource}\0{ordinal}".encode()).hexdigest()[:12]


def settle(record: HostRecord, hello: host_pb2.Hello) -> tuple[HostRecord, tuple[Refusal, ...]]:
    """The host's record with what it wants now and may have. Slots stay with their placements; new ones take the lowest free from the
    host's first slot on. HelloRefused when the hello itself is no good."""
    if hello.protocol not in PROTOCOLS:
        raise HelloRefused(
            f"protocol {hello.protocol} of agent {hello.agent_version or '(unnamed)'}: this server speaks {_words(PROTOCOLS)}; "
            "upgrade the older of the two"
        )
    if not _is_address(hello.address):
        raise HelloRefused(
            f"host.address {hello.address!r}: must be the IP address on which peers reach this host"
            if hello.address
            else "host.address is missing in the agent's configuration, and the host has no default route to tell it by: set it to the IP "
            "address on which peers reach this host"
        )
    if hello.first_slot >= SLOTS:
        raise HelloRefused(f"first slot {hello.first_slot}: must be within 0 to {SLOTS - 1}")
    labels = dict(hello.labels)
    if fault := next(filter(None, (label_fault(key, value) for key, value in sorted(labels.items()))), ""):
        raise HelloRefused(fault)
    if len(labels) > LABELS_LIMIT:
        raise HelloRefused(f"{len(labels)} labels: must be at most {LABELS_LIMIT}")
    known = {placement.id: placement for placement in record.placements}
    wanted: list[tuple[str, str, int, host_pb2.WantedPlacement]] = []
    refusals: list[Refusal] = []
    ordinals: Counter[str] = Counter()
    for one in hello.placements:
        resource, words = _checked(record, one)
        if words:
            refusals.append(Refusal(one.resource, words))
            continue
        ordinal = ordinals[resource]
        ordinals[resource] += 1
        wanted.append((placement_id(record.host, resource, ordinal), resource, ordinal, one))
    kept = {known[id_].slot for id_, *_ in wanted if id_ in known and known[id_].slot >= hello.first_slot}
    free = iter(slot for slot in range(hello.first_slot, SLOTS) if slot not in kept)
    placements: list[PlacementRecord] = []
    for id_, resource, ordinal, one in wanted:
        before = known.get(id_)
        slot = before.slot if before is not None and before.slot >= hello.first_slot else next(free, None)
        if slot is None:
            refusals.append(Refusal(resource, f"no slot is left from {hello.first_slot} to {SLOTS - 1}"))
            continue
        # The lease's word counts for the address it was given for: on another address it has not spoken yet.
        leased = before is not None and before.leased and before.address == hello.address
        application = one.application or "127.0.0.1"
        placements.append(
            PlacementRecord(
                id_,
                resource,
                ordinal,
                slot,
                one.mode or "bind",
                hello.address,
                application,
                leased,
                before.drained if before is not None else False,
                one.ipv6,
            )
        )
    settled = replace(
        record, address=hello.address, first_slot=hello.first_slot, placements=tuple(placements), labels=labels
    )
    return settled, tuple(refusals)


def desired(
    view: View,
    record: HostRecord,
    refusals: Sequence[Refusal],
    *,
    stamp: Stamp,
    replaces: Sequence[str],
    bundle: str,
    servers: Sequence[str],
    lease_seconds: int,
    drain_seen: Mapping[str, int] = MappingProxyType({}),
) -> host_pb2.Desired:
    """`drain_seen` are the numbers of placements' drains of which all subscribers know."""
    drained = record.drained_placements
    # A host that wants nothing loses its last placement by its own operator's configuration.
    reason = "" if record.placements or refusals else "the host's configuration wants no placement"
    return host_pb2.Desired(
        stamp=host_pb2.Stamp(lineage=stamp.lineage, revision=stamp.revision, reason=reason),
        placements=[
            _placement(view, placement, placement.id in drained, drain_seen.get(placement.id, 0))
            for placement in record.placements
        ],
        lease_seconds=lease_seconds,
        trust_bundle=bundle,
        replaces=replaces,
        accept=record.accept,
        servers=servers,
        problems=[host_pb2.Problem(resource=refusal.resource, words=refusal.words) for refusal in refusals],
        envoy=_envoy(record.envoy),
    )


def _envoy(order: Order | None) -> host_pb2.EnvoyVersion | None:
    if order is None:
        return None
    return host_pb2.EnvoyVersion(version=order.version, url=order.url, sha256=order.sha256, number=order.number)


def taken(ours: Stamp, held: Collection[Stamp]) -> bool:
    """Whether a host holds something, and nothing but what is ours."""
    return all(
        stamp.lineage == ours.lineage and stamp.revision <= ours.revision for stamp in held if stamp.lineage
    ) and any(stamp.lineage for stamp in held)


def _checked(record: HostRecord, one: host_pb2.WantedPlacement) -> tuple[str, str]:
    """The resource in its one spelling, and why this host does not get it ("" when it does)."""
    try:
        key = Key.parse(one.resource)
    except ValueError as error:
        return one.resource, str(error)
    if key.kind not in PLACED:
        return key.path, f"a {key.kind} has no proxies: must be a virtual node or a virtual gateway"
    if one.mode and one.mode not in MODES:
        return key.path, f"mode {one.mode!r}: must be {_words(MODES)}"
    if one.mode == Mode.INTERCEPT and key.kind is not Kind.VIRTUAL_NODE:
        return (
            key.path,
            "mode intercept: a gateway has no application whose calls could be caught: must be redirect or bind",
        )
    if one.application and not _is_address(one.application):
        return key.path, f"application {one.application!r}: must be the IP address on which the application listens"
    if not record.allows(key.path):
        allowed = ", ".join(record.allowed) or "nothing"
        return key.path, f"this host's join token allows {allowed}: join with a token that allows it"
    return key.path, ""


def _placement(view: View, record: PlacementRecord, drained: bool, drain_seen: int) -> host_pb2.Placement:
    key = Key.parse(record.resource)
    spec = view.spec(key)
    body: Any = spec.body if spec is not None else None
    listeners = body.listeners if body is not None else ()
    node = key.kind is Kind.VIRTUAL_NODE
    return host_pb2.Placement(
        id=record.id,
        resource=record.resource,
        mode=record.mode,
        slot=record.slot,
        address=record.address,
        application=record.application,
        names=_names(view, key, body, record.slot) if node and body is not None else (),
        # A gateway has no application behind it to be probed.
        probes=[_probe(listener) for listener in listeners] if node else (),
        ports=[listener.port_mapping.port for listener in listeners],
        strict=node and is_strict(view, key.mesh),
        tls_ports=[each.port_mapping.port for each in listeners if node and not takes_plaintext(view, key, each)],
        drain=drained,
        drain_seen=drain_seen,
    )


def _names(view: View, node: Key, body: Any, slot: int) -> list[host_pb2.ServiceName]:
    """The virtual services that the node declares as backends, each at its address in the placement's slot."""
    services = {backend.virtual_service.virtual_service_name for backend in body.backends if backend.virtual_service}
    names = []
    for service in sorted(services):
        key = service_key(node.mesh, service)
        index = view.index(key)
        if view.spec(key) is not None and index is not None:
            names.append(host_pb2.ServiceName(service=service, address=service_address(slot, index)))
    return names


def _probe(listener: Any) -> host_pb2.Probe:
    """As the listener's healthCheck says, else whether the port takes a connection."""
    check = listener.health_check
    if check is None:
        return host_pb2.Probe(port=listener.port_mapping.port, protocol=PortProtocol.TCP.value)
    return host_pb2.Probe(port=listener.port_mapping.port, protocol=check.protocol.value, path=check.path or "")


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not address.is_unspecified and not address.is_multicast


def _words(values: Sequence[object]) -> str:
    return " or ".join(str(value) for value in values)
