"""What is seen of proxies and hosts: in memory, gone with the process, told anew by whoever connects.

It is the ADS service's observer and the host service's notebook; `proxy_status` and `host_status` are the operator's view
of it. It decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from meshagent.mesh.placement import Placement
from meshagent.protocol import host_pb2
from meshagent.protocol.facts import facts_json
from meshagent.server.records import HostRecord
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import SHORT_NAMES, Snapshot, Stamp
from meshagent.xds.stream import AdsStream

HEALTH_WORDS = {
    host_pb2.HEALTH_UNSPECIFIED: "",
    host_pb2.HEALTHY: "healthy",
    host_pb2.UNHEALTHY: "unhealthy",
    host_pb2.DRAINING: "draining",
}


# A machine that is kept out asks every few seconds; one that was not heard of for so long is off, or has a name of its own.
CLONE_SECONDS = 60.0


@dataclass(frozen=True)
class CloneSeen:
    """A machine with a copy of a host's identity that was refused: from where it came, and when it last did, Unix seconds."""

    boot: str
    address: str
    last: float


@dataclass
class HostSeen:
    """`last` is when it was last heard of, Unix seconds, `since` when it connected or went away; what else there is stays as last told when
    the connection ends."""

    connected: bool = False
    last: float = 0.0
    since: float = 0.0
    hello: host_pb2.Hello = field(default_factory=host_pb2.Hello)
    held: Stamp = field(default_factory=Stamp)
    held_reason: str = ""
    certificate_expires: int = 0
    problems: tuple[tuple[str, str], ...] = ()
    facts: host_pb2.Facts | None = None
    placements: dict[str, host_pb2.PlacementStatus] = field(default_factory=dict)
    clones: dict[str, CloneSeen] = field(default_factory=dict)

    def stamps(self) -> list[Stamp]:
        """Everything that this host is known to hold."""
        held = [self.held, stamp_of(self.hello.held)]
        held += [stamp_of(placement.held) for placement in self.placements.values()]
        return [stamp for stamp in held if stamp.lineage]


class Status:
    """`listeners` are told which host was heard of, or was lost, `stream_listeners` that some proxy's stream said something; they return at
    once."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self.stream_listeners: list[Callable[[], None]] = []
        self.hosts: dict[str, HostSeen] = {}
        self._streams: dict[str, AdsStream] = {}

    def host(self, name: str) -> HostSeen:
        return self.hosts.setdefault(name, HostSeen())

    def heard(self, host: str) -> None:
        for listener in self.listeners:
            listener(host)

    def kept_out(self, host: str, boot: str, address: str) -> None:
        seen, now = self.host(host), time.time()
        seen.clones[boot] = CloneSeen(boot, address, now)
        seen.clones = {id_: clone for id_, clone in seen.clones.items() if now - clone.last < CLONE_SECONDS}

    def forget_host(self, name: str) -> None:
        self.hosts.pop(name, None)

    def stream(self, placement: str) -> AdsStream | None:
        return self._streams.get(placement)

    def foreign_lineages(self, ours: str, replaces: Iterable[str]) -> set[str]:
        """Lineages that hosts hold and that ours was not declared to succeed."""
        held = {stamp.lineage for seen in self.hosts.values() for stamp in seen.stamps()}
        return held - {ours, *replaces}

    # The ADS service's Observer: of two streams of one proxy the newer counts.

    def opened(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self._streams[id] = stream

    def changed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        """Nothing is copied: the stream itself is asked when somebody wants to know."""
        self._said()

    def closed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        if self._streams.get(id) is stream:
            del self._streams[id]
        self._said()

    def _said(self) -> None:
        for listener in self.stream_listeners:
            listener()


def stamp_of(message: host_pb2.Stamp) -> Stamp:
    return Stamp(message.lineage, message.revision, message.reason)


def in_sync(stream: AdsStream | None, offered: Snapshot | None) -> bool:
    """Whether a proxy has answered all of what it is to have; one without a stream has not."""
    return stream is not None and stream.target is offered and stream.synced


def proxy_status(
    placement: Placement,
    seen: HostSeen | None,
    stream: AdsStream | None,
    offered: Snapshot,
    failure: str = "",
    drained: bool = False,
) -> dict[str, Any]:
    """One proxy in /v1/status. `offered` is what it is to have, `failure` why there is no newer one, `drained` whether an
    operator took it out of rotation.

    Synced is a proxy whose Envoy took all of what is offered: the stream has no word outstanding, nothing was refused and nothing held
    back."""
    told = seen.placements.get(placement.id) if seen else None
    told = told or host_pb2.PlacementStatus(id=placement.id)
    rejected = _rejections(stream.rejected if stream else (), told, offered)
    connected = stream is not None
    held_reason = told.held_reason or (seen.held_reason if seen else "")
    synced = in_sync(stream, offered) and not rejected and not held_reason
    held = stamp_of(told.held)
    health = HEALTH_WORDS.get(told.health, "") if seen and seen.connected else ""
    drain = ("drained" if told.drained else "draining") if told.drain or drained else ""
    if drain and health == "healthy":
        health = "draining"
    return {
        "proxy": placement.id,
        "resource": placement.resource.path,
        "host": placement.host,
        "slot": placement.slot,
        "mode": placement.mode.value,
        "address": placement.address,
        "connected": connected,
        "synced": bool(synced and not failure),
        "sent": stream.resources_sent if stream else 0,
        # A stream that is in sync has nothing to send, whatever the revision: what is held says what is offered.
        "revision": offered.stamp.revision if synced else held.revision,
        "heldReason": held_reason,
        "failure": failure,
        "health": health,
        "drain": drain,
        "healthDetail": told.health_detail,
        "trafficDetail": told.traffic_detail,
        "envoy": {
            "state": told.envoy_state if seen and seen.connected else "",
            "version": told.envoy_version,
            "wanted": told.wanted_version,
            "upgradeFailure": told.upgrade_failure,
            "generation": told.generation,
            "pid": told.envoy_pid,
            "restarts": told.envoy_restarts,
            "cores": told.envoy_cpu,
            "memoryBytes": told.envoy_memory,
            "openFiles": told.envoy_open_files,
        },
        "certificate": {"serial": told.certificate_serial, "expires": told.certificate_expires},
        "rejected": rejected,
    }


def host_status(record: HostRecord, seen: HostSeen | None) -> dict[str, Any]:
    """One host in /v1/status and /v1/hosts."""
    seen = seen or HostSeen()
    return {
        "host": record.host,
        "connected": seen.connected,
        "lastSeen": int(seen.last),
        "address": record.address,
        "labels": dict(sorted(record.labels.items())),
        "facts": facts_json(seen.facts) if seen.facts else None,
        "agentVersion": seen.hello.agent_version,
        "envoyVersions": sorted({one.envoy_version for one in seen.placements.values() if one.envoy_version}),
        "bootId": seen.hello.boot_id,
        "joined": record.joined,
        "allowed": list(record.allowed),
        "placements": [placement.id for placement in record.placements],
        "drained": record.drained,
        "accept": record.accept,
        "held": {"lineage": seen.held.lineage, "revision": seen.held.revision},
        "heldReason": seen.held_reason,
        "certificate": {"expires": seen.certificate_expires},
        "problems": [{"resource": resource, "message": words} for resource, words in seen.problems],
        "clones": [
            {"bootId": clone.boot, "address": clone.address, "lastSeen": int(clone.last)}
            for clone in seen.clones.values()
            if clone.boot in record.clones and time.time() - clone.last < CLONE_SECONDS
        ],
    }


def _rejections(
    refused: Iterable[Rejection], told: host_pb2.PlacementStatus, offered: Snapshot
) -> list[dict[str, str]]:
    """What the stream heard and what the agent says, once each; the agent's words are the newer ones. An agent that was put back to what
    it holds heard nothing of it: what it refused and is not offered any more is over."""
    said = [
        Rejection(one.type_url, one.name, one.version, one.words)
        for one in told.rejections
        if (current := offered.of(one.type_url).get(one.name)) and current.version == one.version
    ]
    found = {(one.type_url, one.name): one for one in (*refused, *said)}
    return [
        {
            "type": SHORT_NAMES.get(one.type_url, one.type_url),
            "name": one.name,
            "version": one.version,
            "words": one.words,
        }
        for _, one in sorted(found.items())
    ]
