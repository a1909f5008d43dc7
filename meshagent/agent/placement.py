"""What follows from a placement: what to probe, which names its applications resolve, how it does. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from meshagent.agent.probes import Target, Verdict
from meshagent.agent.settings import PROBE_PROTOCOLS, PlacementSettings, ProbeSettings
from meshagent.host.listening import Listener, Owner, within
from meshagent.host.nftables import EGRESS_PORT, INGRESS_PORT, PROBE_MARK
from meshagent.protocol import host_pb2
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import LISTENER

LIVE, UNREACHABLE, STOPPED = "LIVE", "UNREACHABLE", "STOPPED"
RESTART_FIRST, RESTART_LONGEST = 0.1, 10.0
CRASHES = 3  # so many quick ends in a row are worth words
_REDIRECT_INGRESS = "lds_ingress_0.0.0.0_15000"
_INGRESS = "lds_ingress_"  # App Mesh's names of listeners are part of what users build on, and so fixed
# What the host itself is in the way of.
_REMEDIES = {
    "Address already in use": "end the process that listens there, or let it listen on 127.0.0.1",
    "Cannot assign requested address": "set `host.address` to an address of this host",
    "Permission denied": "ports below 1024 need CAP_NET_BIND_SERVICE",
}
_NAME = re.compile(r"[^\s#]+")

_HEALTH = {
    Verdict.HEALTHY: host_pb2.HEALTHY,
    Verdict.UNHEALTHY: host_pb2.UNHEALTHY,
    Verdict.UNKNOWN: host_pb2.HEALTH_UNSPECIFIED,
}


def settings_of(placement: host_pb2.Placement, settings: Sequence[PlacementSettings]) -> ProbeSettings:
    """How this host's configuration wants the placement probed: of several of one resource, the one with its application's address."""
    same = [each for each in settings if each.resource == placement.resource]
    exact = [each for each in same if each.application == placement.application]
    return (exact or same)[0].probe if same else ProbeSettings()


def targets(placement: host_pb2.Placement, settings: ProbeSettings) -> tuple[Target, ...]:
    """One per listener's port, as the server derived it, unless this host's configuration says otherwise. A unit and a command can be named
    by that configuration alone."""
    common: dict[str, Any] = {
        "interval": settings.interval,
        "timeout": settings.timeout,
        "healthy": settings.healthy,
        "unhealthy": settings.unhealthy,
    }
    address = placement.application or "127.0.0.1"
    local = [Target(address, 0, unit=settings.unit, **common)] if settings.unit else []
    local += (
        [Target(address, 0, command=settings.command, placement=placement.id, **common)] if settings.command else []
    )
    if local and settings.protocol is None:
        return tuple(local)
    # Past Envoy: where the application listens on an address of the host's own, its connections are turned.
    mark = PROBE_MARK if placement.mode != "bind" and not _on_loopback(placement.application) else 0
    ports = (
        Target(
            address=address,
            port=probe.port,
            protocol=settings.protocol or (probe.protocol if probe.protocol in PROBE_PROTOCOLS else "tcp"),
            path=settings.path or probe.path or "/",
            mark=mark,
            **common,
        )
        for probe in placement.probes
    )
    return (*local, *ports)


def _on_loopback(application: str) -> bool:
    return ipaddress.ip_address(application or "127.0.0.1").is_loopback


def impossible(placement: host_pb2.Placement) -> str:
    """Why no probe can show the application, or "". Where Envoy listens on the application's own address, a probe would meet Envoy, find
    it well, and every request would go round in circles between Envoy and itself."""
    if placement.mode != "bind" or not placement.probes or placement.application != placement.address:
        return ""
    return (
        f"the application's address is the host's own, {placement.address}, where Envoy listens: give the placement another "
        "`application` in the agent's configuration (the address on which the application listens), or another `host.address`"
    )


def low_ports(placement: host_pb2.Placement) -> bool:
    """Whether its Envoy may have to listen on ports below 1024. A gateway listens on its own ports in every mode; a node's Envoy only in
    `bind`, and there on the ports of services that it calls too, whatever they come to be. What is turned comes in on high ports."""
    if "/virtualGateway/" in placement.resource:
        return any(port < 1024 for port in placement.ports)
    return placement.mode == "bind"


def deaf(
    placement: host_pb2.Placement,
    listeners: Collection[str] | None,
    refused: Iterable[Rejection],
    held: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Which of the node's ports Envoy does not listen on, why, and what to do; or "". In `bind` each has a listener, in `redirect` all have
    one. `listeners` are those that it has; None while that is not known. `held`: by listener, who is known to be in its way."""
    if listeners is None or not placement.probes:
        return ""
    said = {each.name: f"{each.words.strip()}{_remedy(each.words)}" for each in refused if each.type_url == LISTENER}
    words = {**said, **held}
    return "; ".join(
        f"Envoy does not listen on {where}" + (f": {words[name]}" if words.get(name) else "")
        for name, where in sorted(_ingress(placement).items())
        if name not in listeners
    )


def dumb(placement: host_pb2.Placement, held: Mapping[str, str]) -> str:
    """Which services' addresses somebody else holds, so that calls of them do not go through Envoy; or ""."""
    own = _ingress(placement)
    return "; ".join(words for name, words in sorted(held.items()) if name not in own)


def _ingress(placement: host_pb2.Placement) -> dict[str, str]:
    """The names of the listeners for what comes in, and where each listens."""
    if placement.mode == "bind":
        return {f"{_INGRESS}{placement.address}_{port}": f"{placement.address}:{port}" for port in placement.ports}
    return {_REDIRECT_INGRESS: f"0.0.0.0:{INGRESS_PORT + 2 * placement.slot}"}


def strangers(placement: host_pb2.Placement, found: Iterable[Listener], owner: Callable[[Listener], Owner]) -> str:
    """Which other Envoy listens where this placement's is about to, and what to do; or "". Two Envoys of one user bind one address without
    an error and share its traffic. Anything else that listens there, Envoy itself will name."""
    block = f"127.{64 + placement.slot}.0.0/16"
    if placement.mode == "bind":
        ingress = {(placement.address, port) for port in placement.ports}
    else:
        ingress = {("0.0.0.0", INGRESS_PORT + 2 * placement.slot), ("127.0.0.1", EGRESS_PORT + 2 * placement.slot)}
    for one in within(found, block, ingress):
        process = owner(one)
        if process.name != "envoy":
            continue
        where = f"{one.address}:{one.port}"
        if (one.address, one.port) in ingress and placement.mode == "bind":
            return f"{where} is served by another Envoy, pid {process.pid}: end it, or give this host another `host.address`"
        return (
            f"{where} in this placement's slot {placement.slot} is served by another Envoy, pid {process.pid}: end it, or, where "
            "several agents share this machine, give each a `host.first_slot` of its own"
        )
    return ""


def _remedy(words: str) -> str:
    return next((f" ({remedy})" for sign, remedy in _REMEDIES.items() if sign in words), "")


def hosts_text(placement: host_pb2.Placement) -> str:
    """As /etc/hosts. A service whose name no resolver could ask for is left out."""
    lines = sorted((name.service, name.address) for name in placement.names if _NAME.fullmatch(name.service))
    return "".join(f"{address}\t{service}\n" for service, address in lines)


def health(
    verdict: Verdict, words: str, envoy_state: str, serves: bool, was_live: bool, why: str = ""
) -> tuple[host_pb2.Health, str]:
    """An endpoint is what both the application and its Envoy are: neither serves without the other. `serves`: as far as is known, Envoy
    does; `was_live`: one did before. `why`: what is wrong with Envoy's process, "" for nothing; `words` are the application's."""
    if not was_live:
        return host_pb2.HEALTH_UNSPECIFIED, why or ("" if envoy_state == STOPPED else words)
    if not serves:
        return host_pb2.UNHEALTHY, why or f"Envoy is {envoy_state}"
    return _HEALTH[verdict], why or words


def crash_words(proxy: str, ends: int) -> str:
    """Of an Envoy that ended so many times in a row, each time soon after its start; "" while that may be chance."""
    if ends < CRASHES:
        return ""
    return f"Envoy ended {ends} times in a row, soon after each start: `meshagent logs {proxy}` says why"


def restart_pause(ends: int, chance: float) -> float:
    """Seconds before the next start, after so many quick ends in a row (from 1): none the first time. `chance` is from 0 to 1."""
    if ends <= 1:
        return 0.0
    return min(RESTART_LONGEST, RESTART_FIRST * 2.0 ** min(ends - 2, 10)) * (0.5 + 0.5 * chance)
