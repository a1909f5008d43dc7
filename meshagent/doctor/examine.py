"""All checks of one host, in the order in which one thing needs another: what is configured, the agent, its identity, servers, proxies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshagent.agent import admin
from meshagent.agent.address import of_default_route
from meshagent.agent.configuration import load
from meshagent.agent.identity import Identity
from meshagent.agent.membership import Membership, membership
from meshagent.agent.settings import NOWHERE, Settings, SettingsError
from meshagent.agent.ways import Owner as ApplicationOwner
from meshagent.agent.ways import plan
from meshagent.doctor import agent as agents
from meshagent.doctor import connect, host, identity, look, network, proxies, units
from meshagent.doctor.agent import AgentSeen, HeldSeen
from meshagent.doctor.finding import Finding, State, ok, unknown, wrong
from meshagent.doctor.proxies import ProxySeen
from meshagent.errors import MeshagentError
from meshagent.host import nftables, processes
from meshagent.host.processes import is_systemd_host
from meshagent.host.supervisor import Running, read_state
from meshagent.protocol import host_pb2

Status = Mapping[str, Any]
Ask = Callable[[Path], Status | None]
"""The agent's /status, by its socket; None when nobody answers."""


@dataclass
class _Host:
    """What several checks look at."""

    settings: Settings
    desired: host_pb2.Desired
    member: Membership | None
    agents: list[AgentSeen]
    holder: int | None
    status: Status | None
    running: Mapping[str, Running] = field(default_factory=dict)
    live: Mapping[str, admin.ServerState | None] = field(default_factory=dict)
    servers: list[network.ServerSeen] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.settings.state_directory

    def said(self, placement: str) -> Mapping[str, Any]:
        """The agent's word on a proxy; empty when it cannot be asked."""
        every = self.status["proxies"] if self.status else ()
        return next((one for one in every if one["id"] == placement), {})


async def examine(config: Path, ask: Ask) -> AsyncIterator[Finding]:
    """Every finding as it is made. Only reads."""
    try:
        settings = await asyncio.to_thread(load, config)
        yield ok("settings", f"{config} can be read")
        last = next((one.address for one in look.desired(settings.state_directory).placements), "")
        for finding in agents.address(settings.host.address, of_default_route(), last):
            yield finding
    except SettingsError as error:
        yield wrong("settings", str(error), "mend the file; an agent that runs goes on with what it read")
        settings = Settings(Path("/var/lib/meshagent"), Path("/run/meshagent"), ())
    seen = await asyncio.to_thread(_gather, settings, ask)
    for name, check in _CHECKS.items():
        try:
            for finding in await check(seen):
                yield finding
        except Exception as error:
            # One thing that cannot be looked at must not hide the others.
            yield unknown(name, f"could not be looked at: {type(error).__name__}: {error}")


def _gather(settings: Settings, ask: Ask) -> _Host:
    found = list(look.agents())
    directory = settings.state_directory
    try:
        member = membership(directory / "host")
    except MeshagentError:
        member = None
    return _Host(
        settings,
        look.desired(directory),
        member,
        found,
        look.lock_holder(directory, found),
        ask(settings.runtime_directory),
    )


async def _agent(seen: _Host) -> Iterable[Finding]:
    return agents.agents(
        seen.agents,
        holder=seen.holder,
        answers=seen.status is not None,
        state_directory=str(seen.directory),
        joined=seen.member is not None,
    )


async def _units(seen: _Host) -> Iterable[Finding]:
    if not is_systemd_host():
        return [unknown("units", "systemd does not run this host, or this is not root")]
    redirecting = any(one.mode != "bind" for one in seen.desired.placements)
    return host.units(await units.seen(), redirecting=redirecting)


async def _servers(seen: _Host) -> Iterable[Finding]:
    member = seen.member
    known = dict.fromkeys((*seen.desired.servers, *(member.joined.servers if member else ())))
    name = member.joined.server_name if member else ""
    held: Identity | None = member.identity if member else None
    files = seen.directory / "host" / "current"
    seen.servers = list(await asyncio.gather(*(connect.server(one, name, held, files) for one in known)))
    return network.servers(seen.servers, (seen.status or {}).get("serverWords", ""))


async def _clock(seen: _Host) -> Iterable[Finding]:
    measured = [(one.address, one.ahead) for one in seen.servers if one.ahead is not None]
    issued = [seen.member.identity.leaf.issued] if seen.member else []
    return identity.clock(time.time(), measured, issued)


async def _certificates(seen: _Host) -> Iterable[Finding]:
    found = [look.identity("", seen.directory / "host", "root" if is_systemd_host() else "")] if seen.member else []
    for one in seen.desired.placements:
        served = seen.said(one.id).get("certificate", {}).get("serial", "")
        directory = seen.directory / "proxies" / one.id / "tls"
        found.append(look.identity(one.id, directory, look.key_owner(one), served))
    return identity.certificates(found, time.time())


async def _configuration(seen: _Host) -> Iterable[Finding]:
    said = seen.status or {}
    held = [said["heldReason"]] if said.get("heldReason") else []
    refused = []
    for one in said.get("proxies", ()):
        held += [f"{one['id']}: {one['heldReason']}"] if one["heldReason"] else []
        refused += [f"{one['id']}: Envoy refused {bad['name']}: {bad['words'].strip()}" for bad in one["refused"]]
    return agents.configuration_held(
        HeldSeen(
            look.heard(seen.directory),
            said.get("server") if seen.status else None,
            bool(seen.desired.stamp.lineage),
            held,
            refused,
            [f"{one.resource}: {one.words}" for one in seen.desired.problems],
        ),
        time.time(),
    )


async def _proxies(seen: _Host) -> Iterable[Finding]:
    seen.running = {
        one.id: state
        for one in seen.desired.placements
        if (state := await asyncio.to_thread(_running, seen.directory / "proxies" / one.id)) is not None
    }
    answers = await asyncio.gather(*(admin.server_state(one.admin_socket) for one in seen.running.values()))
    seen.live = dict(zip(seen.running, answers, strict=True))
    return proxies.proxies([_proxy(seen, one) for one in seen.desired.placements])


def _running(directory: Path) -> Running | None:
    """The Envoy that serves: the process of the state file, or whoever holds that generation's admin socket now, since systemd starts an
    Envoy again without anybody who would write it down."""
    state = read_state(directory)
    if state is None:
        return None
    if state.pid and processes.start_time(state.pid) == state.start_time:
        return state
    pid = look.holder(state.admin_socket)
    return replace(state, pid=pid) if pid else None


def _proxy(seen: _Host, placement: host_pb2.Placement) -> ProxySeen:
    running, answer, said = seen.running.get(placement.id), seen.live.get(placement.id), seen.said(placement.id)
    return ProxySeen(
        id=placement.id,
        resource=placement.resource,
        pid=running.pid if running else 0,
        state=answer.state if answer else "",
        version=answer.version if answer else "",
        wanted_version=seen.desired.envoy.version or seen.settings.envoy.version,
        restarts=said.get("envoyRestartCount", 0),
        health=said.get("endpointHealth", ""),
        words=said.get("endpointWords", ""),
        upgrade_failure=said.get("upgradeFailure", ""),
    )


async def _envoys(seen: _Host) -> Iterable[Finding]:
    found = await asyncio.to_thread(lambda: list(look.binaries(seen.settings.envoys)))
    return proxies.envoys(found, [seen.desired.envoy.version or seen.settings.envoy.version])


async def _ports(seen: _Host) -> Iterable[Finding]:
    found = await asyncio.to_thread(look.listeners)
    placements = list(seen.desired.placements)
    near = [one for each in placements for one in host.in_the_way(each, found)]
    return host.ports(placements, near, await asyncio.to_thread(look.owners, near))


async def _nftables(seen: _Host) -> Iterable[Finding]:
    table, words = None, ""
    if any(one.mode != "bind" for one in seen.desired.placements):
        try:
            table = await asyncio.to_thread(nftables.observe)
        except MeshagentError as error:
            words = str(error)
    live = [id_ for id_, state in seen.live.items() if state and state.state == "LIVE"]
    return proxies.rules(seen.desired.placements, table, live, words)


async def _names(seen: _Host) -> Iterable[Finding]:
    file = seen.settings.hosts_file
    if file is None or file == NOWHERE:
        return ()
    wanted = plan(list(seen.desired.placements), seen.settings.placements, lambda *_: ApplicationOwner(), ()).names
    return network.names(wanted, await connect.resolved(wanted), file=str(file))


async def _peers(seen: _Host) -> Iterable[Finding]:
    answers = await asyncio.gather(*(connect.endpoints(one.admin_socket) for one in seen.running.values()))
    told = [answer for answer in answers if answer is not None]
    return network.peers(await connect.peers([one for answer in told for one in answer]), len(told))


async def _disk(seen: _Host) -> Iterable[Finding]:
    return host.disks(await asyncio.to_thread(lambda: list(look.disks(seen.settings))))


async def _limits(seen: _Host) -> Iterable[Finding]:
    watched = {f"the agent (pid {seen.holder})": seen.holder or 0}
    watched |= {f"Envoy of {id_} (pid {one.pid})": one.pid for id_, one in seen.running.items()}
    files = [one for what, pid in watched.items() if pid and (one := look.files(what, pid))]
    return host.open_files(files, await asyncio.to_thread(lambda: list(look.watches())))


_CHECKS: Mapping[str, Callable[[_Host], Awaitable[Iterable[Finding]]]] = {
    "agent": _agent,
    "units": _units,
    "servers": _servers,
    "clock": _clock,
    "certificates": _certificates,
    "configuration": _configuration,
    "proxies": _proxies,
    "envoys": _envoys,
    "ports": _ports,
    "nftables": _nftables,
    "names": _names,
    "peers": _peers,
    "disk": _disk,
    "limits": _limits,
}


def well(findings: Iterable[Finding]) -> bool:
    return not any(finding.state is State.WRONG for finding in findings)
