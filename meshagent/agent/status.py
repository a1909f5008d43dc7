"""What `GET /status` answers: the host and all its proxies as one JSON document. Pure: messages in, a document out.

The words of AWS's App Mesh agent stand where it has some (healthStatus, envoyState, managementServerConnectionStatus, ...), for each proxy,
since here one agent runs several: a check that was made for theirs finds its field. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meshagent.agent.placement import LIVE
from meshagent.protocol import host_pb2
from meshagent.protocol.facts import facts_json

# As long as App Mesh's agent does: without its servers a proxy serves on, and is no worse for it.
DISCONNECTED_LIMIT = 7 * 86400.0

_HEALTH = {
    host_pb2.HEALTHY: "healthy",
    host_pb2.UNHEALTHY: "unhealthy",
    host_pb2.DRAINING: "draining",
}


@dataclass(frozen=True)
class Server:
    """`last` is when a server was heard of last, None for never; `words` why there is none now."""

    connected: str = ""  # host:port; "" for none
    last: float | None = None
    words: str = ""

    @property
    def stale_since(self) -> float | None:
        return None if self.connected else self.last


@dataclass(frozen=True)
class Host:
    name: str
    agent_version: str
    agent_pid: int
    began: float
    boot_id: str
    certificate_expires: float


def document(
    now: float,
    host: Host,
    server: Server,
    desired: host_pb2.Desired | None,
    held_reason: str,
    proxies: Iterable[tuple[host_pb2.Placement, host_pb2.PlacementStatus]],
    facts: host_pb2.Facts | None = None,
) -> dict[str, Any]:
    every = [proxy(now, placement, status, server) for placement, status in proxies]
    started = {one["id"] for one in every}
    stamp = desired.stamp if desired else host_pb2.Stamp()
    return {
        "host": host.name,
        "healthStatus": _word(all(one["healthStatus"] == "HEALTHY" for one in every)),
        "agentVersion": host.agent_version,
        "agentPid": host.agent_pid,
        "agentUptime": f"{max(0, round(now - host.began))}s",
        "bootId": host.boot_id,
        **_connection(server),
        "server": server.connected,
        "serverWords": server.words,
        "staleSince": server.stale_since,
        "lineage": stamp.lineage,
        "revision": stamp.revision,
        "heldReason": held_reason,
        "hostCertificate": {"expires": host.certificate_expires, "secondsLeft": round(host.certificate_expires - now)},
        "problems": [{"resource": one.resource, "words": one.words} for one in (desired.problems if desired else ())],
        "notStarted": [one.id for one in (desired.placements if desired else ()) if one.id not in started],
        "facts": facts_json(facts) if facts else None,
        "proxies": every,
    }


def proxy(
    now: float, placement: host_pb2.Placement, status: host_pb2.PlacementStatus, server: Server
) -> dict[str, Any]:
    live, taken = status.envoy_state == LIVE, status.held.revision > 0
    refused = [one for one in status.rejections if one.words]
    return {
        "id": placement.id,
        "resource": placement.resource,
        "mode": placement.mode,
        "slot": placement.slot,
        "address": placement.address,
        "ports": list(placement.ports),
        "healthStatus": _word(live and taken and not _long_gone(now, server)),
        "envoyState": status.envoy_state,
        "envoyVersion": status.envoy_version,
        "envoyPid": status.envoy_pid,
        "envoyRestartCount": status.envoy_restarts,
        "usage": {
            "cores": status.envoy_cpu,
            "memoryBytes": status.envoy_memory,
            "openFiles": status.envoy_open_files,
        },
        "envoyReadinessState": "INITIALIZED" if live else "NOT_INITIALIZED",
        "initialConfigUpdateStatus": "UPDATE_SUCCESSFUL" if taken else "UPDATE_FAILED",
        **_connection(server),
        "endpointHealth": _endpoint(status),
        "drain": ("drained" if status.drained else "draining") if status.drain else "",
        "endpointWords": status.health_detail,
        "generation": status.generation,
        "wantedVersion": status.wanted_version,
        "upgradeFailure": status.upgrade_failure,
        "trafficWords": status.traffic_detail,
        "sync": sync(status, server),
        "revision": status.held.revision,
        "heldReason": status.held_reason,
        "staleSince": server.stale_since,
        "refused": [{"type": one.type_url, "name": one.name, "words": one.words} for one in refused],
        "certificate": {
            "serial": status.certificate_serial,
            "expires": status.certificate_expires,
            "secondsLeft": status.certificate_expires - round(now) if status.certificate_expires else 0,
        },
        "services": {one.service: one.address for one in placement.names},
    }


def _endpoint(status: host_pb2.PlacementStatus) -> str:
    """What peers are told: of a well one that an operator drains, the server says draining."""
    found = _HEALTH.get(status.health, "unknown")
    return "draining" if status.drain and found == "healthy" else found


def sync(status: host_pb2.PlacementStatus, server: Server) -> str:
    """In one word how the proxy's configuration stands: none, refused (in part), held (back), stale, current."""
    if not status.held.revision:
        return "none"
    if status.rejections:
        return "refused"
    if status.held_reason:
        return "held"
    return "current" if server.connected else "stale"


def _connection(server: Server) -> dict[str, Any]:
    known = {} if server.stale_since is None else {"managementServerDisconnectedTimestamp": server.stale_since}
    return {"managementServerConnectionStatus": "CONNECTED" if server.connected else "NOT_CONNECTED", **known}


def _long_gone(now: float, server: Server) -> bool:
    return server.stale_since is not None and now - server.stale_since > DISCONNECTED_LIMIT


def _word(healthy: bool) -> str:
    return "HEALTHY" if healthy else "UNHEALTHY"
