"""Checks of the proxies: that each runs as it should, on the wanted Envoy, with its application there; and of what turns connections to
them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshagent.doctor.finding import Finding, or_well, unknown, warning, wrong
from meshagent.host.nftables import EGRESS_PORT, FAMILY, INGRESS_PORT, TABLE, redirected_to
from meshagent.protocol import host_pb2

_RESTART = (
    "systemctl restart meshagent-agent puts it back; look for what flushed it (firewalld, ufw, `nft flush ruleset`)"
)


@dataclass(frozen=True)
class ProxySeen:
    """`state` is what Envoy's admin interface says, "" for nothing; `pid` 0 for no process. `words` are the agent's on its endpoint."""

    id: str
    resource: str
    pid: int
    state: str
    version: str = ""
    wanted_version: str = ""
    restarts: int = 0
    health: str = ""
    words: str = ""
    upgrade_failure: str = ""


def proxies(seen: Iterable[ProxySeen]) -> Iterator[Finding]:
    every = list(seen)

    def each() -> Iterator[Finding]:
        for one in every:
            yield from _proxy(one)

    well = "every proxy is LIVE, and its application is well" if every else "this host runs no proxies"
    yield from or_well("proxies", each(), well)


def _proxy(one: ProxySeen) -> Iterator[Finding]:
    name = f"{one.resource.removeprefix('mesh/')} ({one.id})"
    log = f"`journalctl -u 'meshagent-envoy@{one.id}-*'` says why"
    if not one.pid:
        yield wrong("proxies", f"{name}: its Envoy does not run{': ' + one.words if one.words else ''}", log)
        return
    if not one.state:
        yield wrong(
            "proxies",
            f"{name}: Envoy (pid {one.pid}) does not answer on its admin socket: it hangs, or is stopped",
            f"the agent ends it within seconds; without one, `kill -9 {one.pid}` has systemd start it again",
        )
    elif one.state != "LIVE":
        yield warning("proxies", f"{name}: Envoy is {one.state}", f"it serves once it has its configuration; {log}")
    if one.upgrade_failure:
        yield wrong("proxies", f"{name}: {one.upgrade_failure}", "name another version with `meshctl envoy use`")
    elif one.version and one.wanted_version and one.version != one.wanted_version:
        yield warning(
            "proxies",
            f"{name} runs Envoy {one.version}, wanted is {one.wanted_version}",
            "the agent brings it there by itself",
        )
    if one.health == "unhealthy":
        yield wrong("proxies", f"{name} gets no requests: {one.words}", "mend the application, or its `probe`")
    if one.restarts > 2:
        yield warning("proxies", f"{name}: its Envoy was restarted {one.restarts} times", log)


@dataclass(frozen=True)
class BinarySeen:
    """An installed Envoy. `words`: what is wrong with it, "" for nothing."""

    version: str
    path: str
    words: str = ""


def envoys(seen: Iterable[BinarySeen], wanted: Iterable[str]) -> Iterator[Finding]:
    found = {one.version: one for one in seen}

    def each() -> Iterator[Finding]:
        for version in sorted(set(wanted) - set(found)):
            yield wrong(
                "envoys",
                f"Envoy {version} is wanted and not installed",
                f"meshagent envoy install {version}",
            )
        for one in found.values():
            if one.words:
                yield wrong(
                    "envoys",
                    f"{one.path}: {one.words}",
                    f"remove it, then meshagent envoy install {one.version}; what runs already is not touched",
                )

    yield from or_well("envoys", each(), f"Envoy {', '.join(sorted(found)) or 'none'} installed, and whole")


def rules(
    placements: Iterable[host_pb2.Placement], table: str | None, live: Iterable[str], words: str = ""
) -> Iterator[Finding]:
    """`table` is nftables.observe's, None for no table; `live` are the placements whose Envoys take connections; `words`: why the rules
    could not be read."""
    turned = [one for one in placements if one.mode != "bind"]
    if not turned:
        return
    name = f"the nftables table {FAMILY} {TABLE}"
    if words:
        yield unknown("nftables", words, "run as root, with the package nftables installed")
        return
    if table is None:
        yield wrong("nftables", f"{name} is gone: services' names are refused, and requests pass the mesh by", _RESTART)
        return
    outbound, inbound = redirected_to(table, "outbound"), redirected_to(table, "inbound")
    serving = set(live)

    def each() -> Iterator[Finding]:
        for one in turned:
            egress, ingress = EGRESS_PORT + 2 * one.slot, INGRESS_PORT + 2 * one.slot
            if one.names and egress not in outbound:
                yield wrong("nftables", f"{name} turns no calls of placement {one.id} to its port {egress}", _RESTART)
            if one.ports and one.id in serving and ingress not in inbound:
                yield wrong(
                    "nftables",
                    f"{name} turns nothing that comes in for placement {one.id} to its port {ingress}",
                    _RESTART,
                )

    yield from or_well("nftables", each(), f"{name} turns connections to the proxies")
