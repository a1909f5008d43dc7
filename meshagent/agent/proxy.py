"""One placement's life: its directory, identity, relay, Envoy, probes and status.

Everything that it needs lies in its directory, so that it comes back from there alone: an identity and a snapshot from disk are enough
to start an Envoy with no server in reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path

from meshagent.agent import admin, cache, identity, obstacles, upgrade
from meshagent.agent import placement as follows
from meshagent.agent.bootstrap import Node
from meshagent.agent.drain import Draining, Phase
from meshagent.agent.generations import Generations
from meshagent.agent.launch import Ground, Program
from meshagent.agent.link import Link
from meshagent.agent.local import LocalError
from meshagent.agent.placement import LIVE, STOPPED, UNREACHABLE
from meshagent.agent.probes import Check, Counts, Target, Verdict, check, together, watch
from meshagent.agent.relay import Admission, Relay
from meshagent.agent.settings import PlacementSettings
from meshagent.agent.usage import Meter, Reading
from meshagent.errors import MeshagentError
from meshagent.host import listening
from meshagent.host.files import PASSABLE_DIRECTORY, FileError, make_directory, read_if_there, write_durably
from meshagent.host.supervisor import Running, Supervisor
from meshagent.host.threads import finished
from meshagent.protocol import host_pb2
from meshagent.telemetry import logs
from meshagent.xds.snapshot import Stamp

log = logging.getLogger(__name__)

# So often an admin interface may fail to answer before its Envoy counts as gone; its process is watched anyway.
MISSES = 3
POLL, POLL_SILENT, POLL_STARTING = 2.0, 1.0, 0.1  # an end, a start and what else happens to it is heard of at once
CERTIFICATES = 10.0  # so seldom Envoy is asked which it holds, but for a while after another was installed
_AGAIN = 5.0
_UNBLOCK = 1.0


@dataclass(frozen=True)
class Surroundings:
    """What all proxies of a host share."""

    directory: Path  # proxies/
    program: Callable[[], Program]
    placements: Sequence[PlacementSettings]
    supervisor: Supervisor
    owner: Callable[
        [int], int | None
    ]  # the id of the user that a slot's Envoy runs under, made if need be; None: our own
    turn: asyncio.Semaphore  # to try another generation
    link: Link
    admission: Callable[[], Admission]
    changed: Callable[[], None]
    # Why requests for a placement would not reach its Envoy (None: nobody knows yet), and what else of its names and connections does not
    # work; "" when all does.
    obstacle: Callable[[host_pb2.Placement], str | None] = lambda _: ""
    traffic: Callable[[host_pb2.Placement], str] = lambda _: ""
    probe: Check = check


@dataclass
class Envoy:
    """What Envoy's admin interface says. `was_live`: an Envoy of this placement; `lived`: this very process."""

    state: str = STOPPED
    version: str = ""
    pid: int = 0
    misses: int = 0
    was_live: bool = False
    lived: bool = False
    certificate: admin.Held | None = None
    usage: Reading = field(default_factory=Reading)
    heard: float = 0.0  # when it last answered, began, or was told to end

    @property
    def serves(self) -> bool:
        """It is LIVE, as far as is known. A process that never was gets no credit for its silence: it only starts."""
        return self.state == LIVE or (self.state == UNREACHABLE and self.lived and self.misses < MISSES)


class Proxy:
    def __init__(self, placement: host_pb2.Placement, around: Surroundings) -> None:
        self.id = placement.id
        self.directory = around.directory / placement.id
        self._placement = placement
        self._around = around
        self._identified = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._probing: dict[Target, tuple[asyncio.Task[None], Counts]] = {}
        self._impossible = ""  # why the application cannot be probed
        self._held: dict[str, str] = {}  # by listener, who holds the address that it is to have
        self._envoy = Envoy()
        self._meter = Meter()
        self._certificate_new = self._certificate_due = 0.0
        self._stirred = asyncio.Event()  # another process runs, or another certificate is installed
        self._generations: Generations | None = None
        self._trouble = ""  # what keeps its Envoys from being looked after
        make_directory(around.directory, PASSABLE_DIRECTORY)
        make_directory(self.directory, PASSABLE_DIRECTORY)
        self._relay = Relay(
            placement.id, placement.resource, self.directory / "snapshot.bin", around.admission, around.changed
        )
        self._draining = Draining(
            f"{placement.id} ({placement.resource})",
            lambda: self._running,
            lambda: around.link.session is not None,
            around.changed,
        )
        self._keeper = identity.Keeper(
            f"{placement.id} ({placement.resource})", self.directory / "tls", self._sign, self._installed
        )

    async def run(self) -> None:
        """For as long as this host has the placement."""
        logs.about(mesh=self._placement.resource.split("/")[1], proxy=self.id)
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._relay.follow(self._around.link))
            group.create_task(self._relay.settle())
            group.create_task(self._serve(group))
            group.create_task(self._observe())
            group.create_task(self._draining.run())
            group.create_task(self._unblock())
            self.update(self._placement)

    def update(self, placement: host_pb2.Placement) -> None:
        """What is desired of this placement now. Its id, and with it its resource, never changes."""
        self._placement = placement
        if self._group is None:
            return  # `run` will begin with it
        self._write_hosts()
        self._draining.wanted(placement.drain, placement.drain_seen)
        if self._generations is not None:
            self._generations.reconsider()
        impossible = follows.impossible(placement)
        if impossible and not self._impossible:
            log.error("%s: %s: %s", self.id, placement.resource, impossible)
        self._impossible = impossible
        wanted = (
            follows.targets(placement, follows.settings_of(placement, self._around.placements))
            if not impossible
            else ()
        )
        for target in set(self._probing) - set(wanted):
            self._probing.pop(target)[0].cancel()
        for target in wanted:
            if target not in self._probing:
                self._probing[target] = (
                    self._group.create_task(watch(target, partial(self._probed, target), self._around.probe)),
                    Counts(),
                )
        self._around.changed()

    def reconsider(self) -> None:
        self._relay.reconsider()

    def trust(self, bundle: bytes) -> None:
        self._keeper.trust(bundle)

    def connected(self) -> None:
        """A server is in reach: what waited for one need not wait longer."""
        self._keeper.nudge()

    @property
    def placement(self) -> host_pb2.Placement:
        return self._placement

    async def stop(self, generation: int) -> str:
        """Drains for the end of this generation's Envoy: when this returns, with words on how it went, nothing is lost by ending it. A
        generation that does not serve is nobody's loss. Raises LocalError while it is not known which one serves, or its process is not."""
        serving = self._generations.serving if self._generations else None
        if serving is not None and serving.number != generation:
            return f"generation {generation} does not serve"
        if serving is None or serving.running is None:
            words = f"the agent does not know the process of generation {generation} yet"
            raise LocalError(HTTPStatus.SERVICE_UNAVAILABLE, words)
        return await self._draining.stop(serving.running)

    @property
    def _running(self) -> Running | None:
        return self._generations.running if self._generations else None

    @property
    def stamp(self) -> Stamp:
        return self._relay.stamp

    @property
    def accepting(self) -> bool:
        """Whether Envoy takes connections, as far as its admin interface says."""
        return self._envoy.serves and not self._deaf()

    def status(self) -> host_pb2.PlacementStatus:
        envoy, (state, detail), drain = self._envoy, self._health(), self._draining.now
        if drain is not None and state == host_pb2.HEALTHY:
            state, detail = (host_pb2.DRAINING if drain.stopping else state), drain.words
        generations = self._generations
        return host_pb2.PlacementStatus(
            id=self.id,
            health=state,
            health_detail=detail,
            envoy_state=envoy.state,
            envoy_version=envoy.version,
            envoy_pid=envoy.pid,
            envoy_restarts=generations.restarts if generations else 0,
            certificate_serial=envoy.certificate.serial if envoy.certificate else "",
            certificate_expires=envoy.certificate.expires if envoy.certificate else 0,
            held=cache.encode_stamp(self._relay.stamp),
            held_reason=self._relay.held_reason,
            traffic_detail="; ".join(
                filter(None, (self._around.traffic(self._placement), follows.dumb(self._placement, self._held)))
            ),
            rejections=[
                host_pb2.Rejection(type_url=each.type_url, name=each.name, version=each.version, words=each.words)
                for each in self._relay.rejections
            ],
            drain=drain.number if drain else 0,
            drained=drain is not None and drain.phase is Phase.DONE,
            envoy_cpu=envoy.usage.cpu,
            envoy_memory=envoy.usage.memory,
            envoy_open_files=envoy.usage.open_files,
            generation=generations.serving.number if generations and generations.serving else 0,
            wanted_version=self._around.program().version,
            upgrade_failure=generations.failure if generations else "",
        )

    def _health(self) -> tuple[host_pb2.Health, str]:
        verdict, words = together(counts for _, counts in self._probing.values())
        words = obstacles.started_second(self._placement.mode, self._placement.address, words)
        obstacle = self._impossible or self._deaf() or self._around.obstacle(self._placement)
        if obstacle is None and verdict is Verdict.HEALTHY:
            verdict, words = Verdict.UNKNOWN, ""
        elif obstacle:
            verdict, words = Verdict.UNHEALTHY, obstacle
        envoy = self._envoy
        return follows.health(
            verdict,
            words,
            envoy.state,
            envoy.serves,
            envoy.was_live,
            (self._generations.words if self._generations else "") or self._trouble,
        )

    def _deaf(self) -> str:
        return follows.deaf(self._placement, self._relay.listeners, self._relay.rejections, self._held)

    async def _unblock(self) -> None:
        """Looks who holds the addresses that Envoy could not listen on, and has it try again when nobody does."""
        tries, loop = obstacles.Tries(), asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_UNBLOCK)
            refused = obstacles.unbound(self._relay.rejections)
            if not refused and not self._held:
                continue
            held = await asyncio.to_thread(_holders, refused)
            if held != self._held:
                for words in set(held.values()) - set(self._held.values()):
                    log.error("%s: %s", self.id, words)
                self._held = held
                self._around.changed()
            again, tries = tries.due(refused, held, loop.time())
            if again:
                self._relay.again({each.name: each.version for each in again})

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        """The Envoys. What cannot be had now (a user, a socket, a disk) is tried again: the rest goes on meanwhile."""
        told = ""
        keeping: asyncio.Task[None] | None = None
        while True:
            try:
                owner = await finished(self._around.owner, self._placement.slot)
                self._keeper.owner = owner
                await finished(identity.write_sds, self.directory / "tls", owner)
                keeping = keeping or group.create_task(self._keeper.run())
                if await asyncio.to_thread(identity.read, self.directory / "tls") is None:
                    # An Envoy does not start without the files that its configuration names.
                    self._trouble_is("it has no certificate yet")
                    await self._identified.wait()
                self._trouble_is("")
                self._generations = self._generations or self._made(owner)
                await self._generations.run()
            except* MeshagentError as errors:
                words = "; ".join(str(error) for error in errors.exceptions)
                if words != told:
                    log.error("%s: %s", self.id, words)
                told = words
                self._trouble_is(words)
            await asyncio.sleep(_AGAIN)

    def _trouble_is(self, words: str) -> None:
        if words != self._trouble:
            self._trouble = words
            self._around.changed()

    def _made(self, owner: int | None) -> Generations:
        around = self._around
        node = Node(self.id, self._placement.resource)
        ground = Ground(node, around.supervisor, self._strangers, self._stir, owner)
        return Generations(ground, self.directory, self._relay, around.program, self._place, around.turn)

    def _place(self) -> tuple[int, bool]:
        return self._placement.slot, follows.low_ports(self._placement)

    async def _observe(self) -> None:
        """Asks Envoy how it is: often while it starts, at once when something happened to it, else every other second."""
        said = self.status()
        while True:
            self._envoy = await self._look()
            self._envoy.usage = await self._meter.look(self._envoy.pid)
            silent = asyncio.get_running_loop().time() - self._envoy.heard
            if self._generations and upgrade.hangs(self._envoy.lived, self._envoy.misses, silent):
                await self._end_hung(self._generations)
            now = self.status()
            if now != said:
                said = now
                self._around.changed()
            starting = self._running is not None and self._envoy.state != LIVE and self._envoy.misses < 600
            pause = POLL_STARTING if starting else POLL_SILENT if self._envoy.misses else POLL
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stirred.wait()
            self._stirred.clear()

    async def _look(self) -> Envoy:
        running, before = self._running, self._envoy
        now = asyncio.get_running_loop().time()
        if running is None:
            return Envoy(STOPPED, before.version, was_live=before.was_live, heard=now)
        same = before.pid == running.pid
        if not same:
            self._certificate_due = 0.0
        known = before.version if before.state == LIVE and same else ""
        state = await admin.server_state(running.admin_socket, known)
        if state is None:
            judged = self._generations is not None and self._generations.judged == running
            lived, misses, heard = (before.lived, before.misses + 1, before.heard) if same else (judged, 1, now)
            return Envoy(
                UNREACHABLE,
                running.version,
                running.pid,
                misses,
                before.was_live,
                lived,
                before.certificate if same else None,
                heard=heard,
            )
        newest = before.certificate if same else None
        if now < self._certificate_new + CERTIFICATES or now >= self._certificate_due:
            held = await admin.certificates(running.admin_socket)
            if held is not None:
                self._certificate_due = now + CERTIFICATES
                own = [each for each in held if any(uri.endswith(f"/{self._placement.resource}") for uri in each.uris)]
                newest = max(own, key=lambda each: each.expires, default=None)
        live = state.state == LIVE
        lived, was_live = live or (same and before.lived), live or before.was_live
        return Envoy(state.state, state.version, running.pid, 0, was_live, lived, newest, heard=now)

    async def _end_hung(self, generations: Generations) -> None:
        try:
            await generations.hangs()
        except MeshagentError as error:
            log.error("%s: %s", self.id, error)
        self._envoy.heard = asyncio.get_running_loop().time()  # so that it is not told twice

    def _probed(self, target: Target, counts: Counts) -> None:
        if target not in self._probing:
            return
        before = self._health()
        self._probing[target] = (self._probing[target][0], counts)
        after = self._health()
        if before != after:
            if before[0] != after[0] and counts.verdict is not Verdict.UNKNOWN:
                log.info("%s: %s is %s %s", self.id, self._placement.resource, counts.verdict.value, counts.words)
            self._around.changed()

    def _stir(self) -> None:
        self._stirred.set()
        self._around.changed()

    async def _sign(self, request: bytes) -> tuple[bytes, bytes]:
        return await self._around.link.sign(request, self.id)

    def _installed(self, made: identity.Identity) -> None:
        self._identified.set()
        self._certificate_new = asyncio.get_running_loop().time()
        self._stir()

    def _strangers(self) -> str:
        own = self._generations.pids if self._generations else ()

        def owner(listener: listening.Listener) -> listening.Owner:
            found = listening.owner(listener)
            return listening.Owner() if found.pid in own else found

        return follows.strangers(self._placement, listening.listeners(), owner)

    def _write_hosts(self) -> None:
        path, text = self.directory / "hosts", follows.hosts_text(self._placement)
        try:
            if read_if_there(path) != text.encode():
                write_durably(path, text, 0o644)
        except FileError as error:
            log.error("%s: %s", self.id, error)


def _holders(refused: Sequence[obstacles.Unbound]) -> dict[str, str]:
    return obstacles.holders(refused, listening.listeners(), listening.owner)
