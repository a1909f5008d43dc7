"""A placement's generations: the one that serves, and now and then one on trial that takes over from it without a request lost.

The new one binds the same addresses (SO_REUSEPORT), is given what the serving one took, and must be LIVE with it; then the old one drains
and ends. A new one that crashes, hangs or refuses is ended, the old one never notices, and it is remembered why. An agent that is killed at
any moment of this leaves files from which the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from meshagent.agent import admin, upgrade
from meshagent.agent.launch import Generation, Ground, Program, remains, retire, spec_for
from meshagent.agent.placement import LIVE
from meshagent.agent.relay import Relay
from meshagent.errors import MeshagentError
from meshagent.host import envoys, processes, steering
from meshagent.host.files import FileError, remove
from meshagent.host.supervisor import (
    NEXT_FILE,
    EnvoySpec,
    Next,
    Running,
    intent,
    read_next,
    read_state,
    retired,
    write_next,
    write_state,
)
from meshagent.host.threads import finished

log = logging.getLogger(__name__)

_LOOK = 0.1
_AGAIN = 5.0
_INSTALL_AGAIN = 60.0


class Generations:
    """`serving` is the one that serves, None before the first. `low_ports`: it listens on ports below 1024. One placement of a host at a
    time has its `turn` to try another generation."""

    def __init__(
        self,
        ground: Ground,
        directory: Path,
        relay: Relay,
        program: Callable[[], Program],
        place: Callable[[], tuple[int, bool]],
        turn: asyncio.Semaphore,
    ) -> None:
        self.serving: Generation | None = None
        self.restarts = 0
        self.judged: Running | None = None  # the process that was LIVE on trial, and took over
        self._ground, self._directory, self._relay = ground, directory, relay
        self._program, self._place, self._turn = program, place, turn
        self._follower: Next | None = None
        self._trial: Generation | None = None
        self._tasks: dict[Generation, asyncio.Task[None]] = {}
        self._stirred = asyncio.Event()
        self._trouble = ""  # why the wanted version cannot be had
        self._install_after = 0.0

    @property
    def running(self) -> Running | None:
        return self.serving.running if self.serving else None

    @property
    def words(self) -> str:
        """Why no Envoy runs, or that it does not for long; "" while one does."""
        serving = self.serving
        if serving is None:
            return ""
        return ("" if serving.running else serving.words) or serving.crashes

    @property
    def failure(self) -> str:
        """Why what is wanted now does not serve although it was tried."""
        follower, wanted = self._follower, self._wanted(0)
        if follower is not None and follower.failure and follower.order == self._order(wanted):
            return follower.failure
        return self._trouble

    @property
    def pids(self) -> Collection[int]:
        every = (each.running for each in (self.serving, self._trial, *self._tasks) if each is not None)
        return {running.pid for running in every if running is not None}

    def reconsider(self) -> None:
        """Something else may be wanted now."""
        self._stirred.set()

    async def hangs(self) -> None:
        """The serving one's process is there and says nothing any more: it is ended, and started again."""
        if (running := self.running) is not None:
            log.error("%s: Envoy (pid %d) hangs: ended", self._ground.node.id, running.pid)
            await self._ground.supervisor.kill(running)

    async def run(self) -> None:
        """Finds what an agent before left, starts what serves, and follows what is wanted, for ever."""
        directory = self._directory
        state = await asyncio.to_thread(read_state, directory)
        self._follower = await asyncio.to_thread(read_next, directory)
        running = await self._ground.supervisor.find(directory)
        found = upgrade.recover(state, self._follower, running, await asyncio.to_thread(retired, directory))
        alive = [*running, *(each for each in (found.serving, found.trial) if each is not None)]
        # What an agent, or a power cut, left in the middle of a trial or a retirement.
        ends = await remains(directory, self._ground.supervisor, alive)
        self._tasks.clear()
        async with asyncio.TaskGroup() as group:
            serves = found.serving if found.serving in running else None
            for over in (*found.over, *ends):
                group.create_task(self._retire(over, serves))
            if serves is not None and not found.over:
                await self._release(serves)  # the agent before may have ended before it did
            if serves is not None and serves != state:
                await self._as_serving(serves)  # the agent before ended before it had written it down
            self._begin(group, await self._first(found.serving, [*running, *ends]))
            if found.trial is not None:
                log.info("%s: generation %d was on trial: goes on", self._ground.node.id, found.trial.generation)
                trial = self._generation(self._spec_of(found.trial), found.trial)
                await self._put_to_trial(group, trial, self._follower.order if self._follower else "")
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN):
                        await self._stirred.wait()
                self._stirred.clear()
                await self._follow(group)

    async def _first(self, serving: Running | None, running: Collection[Running]) -> Generation:
        """The one that served before, as it was; a new one where none did, or where that one cannot be had any more."""
        if serving is not None and serving.pid and any(each == serving for each in running):
            log.info("%s: adopted Envoy %s (pid %d)", self._ground.node.id, serving.version, serving.pid)
            return self._generation(self._spec_of(serving), serving)
        if serving is not None and serving.version:
            spec = self._spec_of(serving)
            if await asyncio.to_thread(spec.binary.exists):
                about_to = any(each.generation == serving.generation for each in running)
                this_boot = about_to or (serving.pid and serving.boot_id == processes.boot_id())
                return self._generation(spec, known=serving if this_boot else None)
            await retire(self._directory, serving, self._ground.supervisor)
        return self._generation(self._wanted(upgrade.number_after(serving, self._follower, running)))

    def _generation(self, spec: EnvoySpec, running: Running | None = None, known: Running | None = None) -> Generation:
        program = self._program()
        install = self._install if spec.version == program.version else None
        return Generation(spec, self._relay.face(), self._ground, program.validate, install, running, known)

    def _begin(self, group: asyncio.TaskGroup, generation: Generation) -> None:
        """Makes it the one that serves."""
        self.serving = generation
        generation.remember = self._as_serving
        generation.ended = self._ended
        self._relay.serve_from(generation.face)
        if generation not in self._tasks:
            self._tasks[generation] = group.create_task(generation.run())
        self._ground.changed()

    def _ended(self) -> None:
        self.restarts += 1
        self._relay.ended()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        serving, wanted = self.serving, self._wanted(0)
        if serving is None or serving.stopped:
            return
        known = serving.running or serving.known or intent(serving.spec)
        if not upgrade.due(known, wanted.made_of, wanted.version, self._order(wanted), self._follower):
            if self._trouble and known.version == wanted.version:
                self._trouble = ""
            return
        if self._relay.held is None and serving.running is not None and not serving.first_end:
            return  # it waits for its first configuration, and another one would too
        async with self._turn:
            if serving.stopped or not await self._installed():
                return
            number = upgrade.number_after(serving.running or serving.known, self._follower, [known])
            fresh = self._generation(self._wanted(number))
            if self._relay.held is None:
                await self._replace(group, serving, fresh)
            else:
                order = self._order(fresh.spec)
                log.info(
                    "%s: Envoy %s is tried beside %s", self._ground.node.id, fresh.spec.version, serving.spec.version
                )
                await self._put_to_trial(group, fresh, order)

    async def _replace(self, group: asyncio.TaskGroup, old: Generation, fresh: Generation) -> None:
        """Nothing is served that could be lost: the one goes, the other comes."""
        await self._end(old, old.known or intent(old.spec), drain=False)
        self._begin(group, fresh)

    async def _put_to_trial(self, group: asyncio.TaskGroup, trial: Generation, order: str) -> None:
        follower = Next(trial.known or intent(trial.spec), order)
        await finished(write_next, self._directory, follower)
        self._follower, self._trial = follower, trial

        async def remember(running: Running) -> None:
            await self._try_write(write_next, Next(running, order))

        trial.remember = remember
        self._relay.try_out(trial.face)
        self._tasks[trial] = group.create_task(_contained(trial))
        try:
            verdict = await self._verdict(trial)
        finally:
            self._trial = None
        if verdict:
            await self._failed(trial, Next(trial.known or follower.running, order, verdict))
        elif verdict == "":
            await self._promote(group, trial)
        else:
            await self._failed(trial, Next(trial.known or follower.running, ""))

    async def _verdict(self, trial: Generation) -> str | None:
        """As upgrade.trial's; None when the trial has become pointless: something else is wanted, or the placement was stopped."""
        loop = asyncio.get_running_loop()
        began, made_of = loop.time(), self._wanted(0).made_of
        while True:
            running = trial.running
            state = await admin.server_state(running.admin_socket) if running else None
            ended = trial.first_end or (f"could not be started ({trial.words})" if trial.words else "")
            known = {(each.type_url, each.name) for each in self._relay.rejections}  # the serving one refuses these too
            refused = [
                (each.name, each.words)
                for each in trial.face.refusals.values()
                if (each.type_url, each.name) not in known
            ]
            if trial.face.in_sync and not refused:
                trial.face.gate.open()
            seconds = loop.time() - began
            verdict = upgrade.trial(state.state if state else "", trial.face.in_sync, refused, ended, seconds)
            if verdict is not None:
                return verdict
            if (self.serving and self.serving.stopped) or self._wanted(0).made_of != made_of:
                return None
            await asyncio.sleep(_LOOK)

    async def _promote(self, group: asyncio.TaskGroup, trial: Generation) -> None:
        """From the moment that the state file names it, it is the one that serves, whatever becomes of the agent."""
        old = self.serving
        assert old is not None
        running = trial.running or trial.known or intent(trial.spec)
        while True:
            if await self._try_write(write_state, running):
                break
            await asyncio.sleep(_AGAIN)
        self.judged = running
        self._begin(group, trial)
        self._follower = None
        await self._try_write(_remove_next)
        log.info("%s: Envoy %s serves, generation %d", self._ground.node.id, trial.spec.version, trial.number)
        await self._end(old, old.running or old.known or intent(old.spec))

    async def _failed(self, trial: Generation, follower: Next) -> None:
        if follower.failure:
            log.error("%s: Envoy %s: %s", self._ground.node.id, trial.spec.version, follower.failure)
        self._relay.try_out(None)
        self._follower = follower
        await self._try_write(write_next, follower)
        running = trial.running
        state = await admin.server_state(running.admin_socket) if running else None
        # One that is LIVE has taken connections.
        await self._end(trial, running or follower.running, drain=state is not None and state.state == LIVE)
        self._ground.changed()

    async def _end(self, generation: Generation, running: Running, drain: bool = True) -> None:
        """Retires it; its face is there until it has ended."""
        await generation.retires()
        await self._retire(generation.running or running, self.running, drain)
        task = self._tasks.pop(generation, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _steer(self, to: Running, away: Running) -> None:
        """So that nothing waits in the queue of a listener when it is closed."""
        try:
            addresses = await finished(steering.steer, (to.pid, to.start_time), (away.pid, away.start_time))
            log.info(
                "%s: generation %d gets all new connections (listeners: %d)",
                self._ground.node.id,
                to.generation,
                addresses,
            )
        except steering.SteeringError as error:
            log.warning(
                "%s: new connections go to generation %d, too, until it closes its listeners, and some may be reset then: %s",
                self._ground.node.id,
                away.generation,
                error,
            )

    async def _release(self, running: Running) -> None:
        with contextlib.suppress(steering.SteeringError):
            await finished(steering.release, (running.pid, running.start_time))

    async def _retire(self, running: Running, successor: Running | None, drain: bool = True) -> None:
        """`successor` takes every new connection from here on."""
        if drain and successor is not None and running.pid:
            await self._steer(successor, running)
        while True:
            try:
                await retire(self._directory, running, self._ground.supervisor, drain)
                break
            except MeshagentError as error:
                log.error("%s: generation %d: %s", self._ground.node.id, running.generation, error)
                await asyncio.sleep(_AGAIN)
        log.info("%s: generation %d has ended", self._ground.node.id, running.generation)
        if drain and successor is not None:
            await self._release(successor)

    async def _installed(self) -> bool:
        """What is wanted is there. What cannot be had now is asked for again later."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._install_after and not await asyncio.to_thread(self._wanted(0).binary.exists):
            return False
        try:
            await self._install()
        except MeshagentError as error:
            self._install_after = loop.time() + _INSTALL_AGAIN
            if str(error) != self._trouble:
                log.error("%s: %s", self._ground.node.id, error)
                self._trouble = str(error)
                self._ground.changed()
            return False
        self._trouble, self._install_after = "", 0.0
        return True

    async def _install(self) -> None:
        program = self._program()
        await finished(envoys.install, program.version, program.directory, program.source)

    async def _as_serving(self, running: Running) -> None:
        await self._try_write(write_state, running)

    async def _try_write(self, write: Callable[..., None], *what: Running | Next) -> bool:
        try:
            await finished(write, self._directory, *what)
        except FileError as error:
            # Not fatal: an agent that comes later finds what runs all the same.
            log.error("%s: %s", self._ground.node.id, error)
            return False
        return True

    def _wanted(self, number: int) -> EnvoySpec:
        slot, low_ports = self._place()
        return spec_for(self._program(), self._ground.node, self._directory, number, slot=slot, low_ports=low_ports)

    def _spec_of(self, running: Running) -> EnvoySpec:
        return replace(
            self._wanted(running.generation),
            version=running.version,
            binary=envoys.binary(self._program().directory, running.version),
        )

    def _order(self, spec: EnvoySpec) -> str:
        return f"{self._program().order} {spec.made_of}"


def _remove_next(directory: Path) -> None:
    remove(directory / NEXT_FILE)


async def _contained(trial: Generation) -> None:
    """What goes wrong with one on trial is a reason against it, and no more."""
    try:
        await trial.run()
    except* MeshagentError as errors:
        trial.words = "; ".join(str(error) for error in errors.exceptions)
