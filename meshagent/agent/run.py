"""The composition root of the host's daemon: builds everything in order, runs it, and lets go of it in reverse.

When the agent ends, for whatever reason, its Envoys stay; when it begins, it starts from what lies on the disk and asks no server first.
Only what a first start lacks (an identity) is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from meshagent import __version__
from meshagent.agent import cache, identity
from meshagent.agent import status as told
from meshagent.agent.address import HostAddress
from meshagent.agent.contact import Contact
from meshagent.agent.desired import DesiredState
from meshagent.agent.facts import Facts
from meshagent.agent.hostprobes import HostProbes, Systemd
from meshagent.agent.launch import Program
from meshagent.agent.link import PROTOCOL, Conversation, Link
from meshagent.agent.local import Local, LocalError, Request, Route
from meshagent.agent.membership import Membership, fingerprint, membership
from meshagent.agent.proxies import Proxies, stop_all
from meshagent.agent.proxy import Surroundings
from meshagent.agent.redirect import Redirect
from meshagent.agent.rejoin import rejoin
from meshagent.agent.settings import SYSTEMD, Settings
from meshagent.errors import MeshagentError
from meshagent.host.envoys import Source
from meshagent.host.files import PASSABLE_DIRECTORY, PRIVATE_DIRECTORY, make_directory
from meshagent.host.limits import raise_open_files
from meshagent.host.processes import boot_id, is_systemd_host
from meshagent.host.supervisor import Running, Supervisor
from meshagent.protocol import host_pb2
from meshagent.telemetry import sdnotify
from meshagent.xds.snapshot import Stamp

log = logging.getLogger(__name__)

_REJOIN_ROUNDS = 5


class AgentError(MeshagentError):
    """What keeps an agent from starting."""


def main(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. The host has joined: see `join_first`."""
    make_directory(settings.runtime_directory, _mode(settings))
    with _alone(settings.state_directory):
        raise_open_files()  # Envoys inherit it
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(_until_told(settings))


def join_first(settings: Settings) -> bool:
    """Joins, if this host has not yet, however long that takes; True when it had to."""
    make_directory(settings.state_directory, _mode(settings))
    with _alone(settings.state_directory):
        directory = settings.state_directory / "host"
        if membership(directory) is not None:
            return False
        token = _token(settings)
        if token is None:
            raise AgentError(
                f"this host has not joined a mesh yet ({directory} holds no identity), and {_no_token(settings)}: "
                "make one with `meshctl token create` and set join_token or join_token_file"
            )
        from meshagent.agent.join import join  # loaded by those that join, not by all that run

        async def joining() -> None:
            # However long it takes, the daemon is well meanwhile.
            sdnotify.notify("READY=1\nSTATUS=joining the mesh")
            async with sdnotify.alive():
                await join(directory, token, _host_name(settings))

        asyncio.run(joining())
        return True


def stop_proxies(settings: Settings) -> int:
    """Ends the Envoys of this state directory, drained first; returns how many ran. No agent may be at work on it."""
    with _alone(settings.state_directory):
        return len(asyncio.run(_stop_all(settings)))


async def _stop_all(settings: Settings) -> list[Running]:
    return await stop_all(settings.state_directory / "proxies", _supervisor(settings))


def _mode(settings: Settings) -> int:
    """Of the directories in which each proxy's user has a place of its own."""
    return PASSABLE_DIRECTORY if settings.supervisor == SYSTEMD else PRIVATE_DIRECTORY


def _supervisor(settings: Settings) -> Supervisor:
    """Only the one that is used is loaded."""
    if settings.supervisor == SYSTEMD:
        from meshagent.host.systemd import SystemdSupervisor

        return SystemdSupervisor()
    from meshagent.host.child import ChildSupervisor

    return ChildSupervisor()


def _owner(settings: Settings) -> Callable[[int], int | None]:
    """The id of the user that the Envoy of a slot runs under; None where it is our own."""
    if settings.supervisor == SYSTEMD:
        from meshagent.host import users

        return lambda slot: users.ensure(slot).uid
    return lambda slot: None


async def run(settings: Settings) -> None:
    """The agent, for ever."""
    state = settings.state_directory
    member = await asyncio.to_thread(membership, state / "host")
    if member is None:
        raise AgentError(f"this host has not joined a mesh: {state / 'host'} holds no identity")
    desired = DesiredState(state / "desired.bin", {placement.resource for placement in settings.placements})
    host = _HostIdentity(state / "host", member)
    contact = Contact(state / "contact")
    began = time.time()
    address = HostAddress(settings.host.address, lambda: _last_address(desired))
    facts = Facts((Path("/"), state), settings.host.metadata, lambda: link.changed())

    def hello() -> host_pb2.Hello:
        return _hello(settings, desired, address.tell(), proxies.highest(desired.stamp.lineage))

    def observed() -> host_pb2.Observed:
        if link.session is not None:
            contact.heard()
        return host_pb2.Observed(
            placements=proxies.statuses(),
            held=cache.encode_stamp(desired.stamp),
            held_reason=desired.reason,
            facts=facts.report(first=link.session is None),
            host_certificate_expires=int(host.held.leaf.end),
        )

    def take(offered: host_pb2.Desired) -> None:
        contact.heard()
        if desired.offer(offered):
            keeper.trust(offered.trust_bundle.encode())
            proxies.want(offered, confirmed=True)
        else:
            proxies.reconsider()
        link.changed()

    def connected() -> None:
        keeper.nudge()
        proxies.connected()

    def changed() -> None:
        link.changed()
        redirect.wake()

    async def status(_: Request) -> dict[str, Any]:
        session = link.session
        return told.document(
            time.time(),
            told.Host(host.joined.host, __version__, os.getpid(), began, boot_id(), host.held.leaf.end),
            told.Server(session.server if session else "", contact.last, "" if session else link.words),
            desired.held,
            desired.reason,
            [(proxy.placement, proxy.status()) for proxy in proxies.all],
            facts.known,
        )

    async def stop(request: Request) -> dict[str, Any]:
        placement, _, generation = request.parameters["id"].rpartition("-")
        words = await proxies.stop(placement, int(generation)) if generation.isdecimal() else None
        if words is None:
            raise LocalError(
                HTTPStatus.NOT_FOUND, f"no proxy {request.parameters['id']} is here: must be PLACEMENT-GENERATION"
            )
        return {"stopped": request.parameters["id"], "words": words}

    def renewed(made: identity.Identity) -> None:
        host.held = made
        link.remake()

    link = Link(
        member.joined.server_name,
        member.joined.servers,
        lambda: host.held,
        Conversation(hello, observed, take, connected),
        told=tuple(desired.held.servers) if desired.held else (),
    )
    keeper = identity.Keeper(
        f"host {member.joined.host}", host.directory, lambda request: link.sign(request, ""), renewed
    )
    redirect = Redirect(
        settings,
        link.changed,
        lambda: (*host.joined.servers, *(desired.held.servers if desired.held else ())),
    )
    # As long as it may take: what it must be done in is for the one who asks to say.
    routes = {
        ("GET", "/status"): Route(status),
        ("POST", "/proxies/{id}/stop"): Route(stop, 2 * 3600.0),
        ("POST", "/intercept/confirm"): Route(redirect.confirm),
        ("POST", "/intercept/try"): Route(redirect.try_again),
    }
    async with asyncio.TaskGroup() as group:
        around = Surroundings(
            directory=state / "proxies",
            program=lambda: _program(settings, desired.held),
            placements=settings.placements,
            supervisor=_supervisor(settings),
            owner=_owner(settings),
            turn=asyncio.Semaphore(1),
            link=link,
            admission=lambda: desired.admission,
            changed=changed,
            obstacle=redirect.obstacle,
            traffic=redirect.words,
            probe=HostProbes(_systemd if is_systemd_host() else None).check,
        )
        proxies = Proxies(around, group)
        if desired.held is not None:
            log.info(
                "starting from disk: revision %d, %d placements", desired.stamp.revision, len(desired.held.placements)
            )
            proxies.want(desired.held, confirmed=False)
        group.create_task(keeper.run(), name="host identity")
        group.create_task(_rejoin(settings, host, link), name="rejoin")
        group.create_task(redirect.run(lambda: proxies.placed if desired.held else None), name="redirect")
        group.create_task(link.run(), name="link")
        group.create_task(address.watch(link.remake), name="address")
        group.create_task(facts.run(), name="facts")
        group.create_task(Local(routes, settings.runtime_directory, settings.status_address).run(), name="local")
        sdnotify.notify("READY=1\nSTATUS=")


class _HostIdentity:
    """The host's identity as it is now: what the next connection shows."""

    def __init__(self, directory: Path, member: Membership) -> None:
        self.directory = directory
        self.joined = member.joined
        self.held = member.identity


async def _rejoin(settings: Settings, host: _HostIdentity, link: Link) -> None:
    """A token that is not the one this host joined with is an operator's word to join anew: a control plane that lost its authority
    is joined that way. Until it works, and if it does not, the old membership goes on."""
    try:
        token = _token(settings)
        if token is None or not host.joined.token or fingerprint(token) == host.joined.token:
            return
        member = await rejoin(host.directory, token, _host_name(settings), _REJOIN_ROUNDS)
    except MeshagentError as error:
        log.warning("the new join token was not used, the present membership goes on: %s", error)
        return
    host.joined, host.held = member.joined, member.identity
    link.move(member.joined.server_name, member.joined.servers)


def _token(settings: Settings) -> str | None:
    if settings.join_token is not None:
        return settings.join_token.strip()
    if settings.join_token_file is None:
        return None
    try:
        return settings.join_token_file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"join_token_file: cannot read {settings.join_token_file}: {error}") from error


def _no_token(settings: Settings) -> str:
    if settings.join_token_file is None:
        return "the configuration gives no token"
    return f"{settings.join_token_file} is {'empty' if settings.join_token_file.exists() else 'not there'}"


def _hello(settings: Settings, desired: DesiredState, address: str, highest: Stamp) -> host_pb2.Hello:
    held = max(desired.stamp, highest, key=lambda stamp: stamp.revision)
    return host_pb2.Hello(
        protocol=PROTOCOL,
        agent_version=__version__,
        boot_id=boot_id(),
        address=address,
        first_slot=settings.host.first_slot,
        placements=[
            host_pb2.WantedPlacement(
                resource=each.resource, mode=each.mode, application=each.application, ipv6=each.intercept.ipv6
            )
            for each in settings.placements
        ],
        held=cache.encode_stamp(held),
        labels=settings.host.labels,
    )


def _last_address(desired: DesiredState) -> str:
    return next((placement.address for placement in desired.held.placements), "") if desired.held else ""


def _host_name(settings: Settings) -> str:
    return settings.host.name or socket.gethostname()


def _systemd() -> Systemd:
    from meshagent.host.bus import Bus  # loaded by those that have such a probe

    return Bus()


def _program(settings: Settings, desired: host_pb2.Desired | None) -> Program:
    """Of the version that the server names, where it names one."""
    named = desired.envoy if desired else host_pb2.EnvoyVersion()
    url, sha256 = (named.url, named.sha256) if named.version else (settings.envoy.url, settings.envoy.sha256)
    return Program(
        version=named.version or settings.envoy.version,
        directory=settings.envoys,
        runtime_directory=settings.runtime_directory,
        log_level=settings.envoy.log_level,
        drain_seconds=max(1, round(settings.envoy.drain)),
        concurrency=settings.envoy.concurrency,
        sds_socket=settings.envoy.sds_socket,
        source=Source(sha256, url) if url else None,
        order=named.number,
        validate=settings.supervisor != SYSTEMD,
    )


async def _until_told(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with sdnotify.alive():
            await run(settings)
    except BaseExceptionGroup as errors:
        # What is somebody's to mend is said in a line; defects show themselves whole.
        ours, defects = errors.split(MeshagentError)
        if defects is not None or ours is None:
            raise
        raise AgentError("; ".join(str(error) for error in ours.exceptions)) from errors
    finally:
        sdnotify.notify("STOPPING=1")


@contextlib.contextmanager
def _alone(state_directory: Path) -> Iterator[None]:
    """One agent per state directory: two would start two Envoys for one placement."""
    path = state_directory / "agent.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AgentError(f"cannot open {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise AgentError(f"an agent (pid {holder}) is at work on {state_directory}: stop it first") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
