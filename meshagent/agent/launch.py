"""One generation of a placement's Envoy: what it is started from, its start, its process's ends, its retirement.

Nothing here ends an Envoy because the agent ends: only `retire` does, for a generation that has been followed or a placement that this host
no longer has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource as limits
import subprocess
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from meshagent.agent import admin, bootstrap
from meshagent.agent.face import Face
from meshagent.agent.flight import PAGE, cut_words
from meshagent.agent.placement import crash_words, restart_pause
from meshagent.errors import MeshagentError
from meshagent.host import envoys
from meshagent.host.files import (
    PRIVATE_FILE,
    READABLE_FILE,
    is_ours,
    make_directory,
    read_if_there,
    remove,
    remove_tree,
    write_durably,
)
from meshagent.host.supervisor import (
    EnvoySpec,
    Running,
    Supervisor,
    bootstrap_path,
    described,
    intent,
    left,
    read_state,
    retired_path,
)
from meshagent.host.threads import finished

log = logging.getLogger(__name__)

VALIDATE_SECONDS = 60.0
STOP_SECONDS = 10.0
# Past its drain time an Envoy has closed its listeners; a little more lets the last answers out.
DRAIN_MARGIN = 0.3
# Of a generation that was followed, clients may be slower to notice.
_MARGIN = 1.0
# An Envoy that ran for this long was well: its end is not counted with those before.
_STEADY = 30.0


class LaunchError(MeshagentError):
    """An Envoy that cannot be started as things are."""


@dataclass(frozen=True)
class Program:
    """Which Envoy, and how it is run. `directory` holds the versions side by side; `order` is another for every wish that what failed be
    tried again. `validate`: the binary looks at a bootstrap before it is started from it, under our own user."""

    version: str
    directory: Path
    runtime_directory: Path
    log_level: str = "info"
    drain_seconds: int = 5
    concurrency: int | None = None
    sds_socket: Path | None = None
    source: envoys.Source | None = None  # None: the wheel that this release has pinned
    order: int = 0
    validate: bool = True


def spec_for(
    program: Program,
    node: bootstrap.Node,
    directory: Path,
    generation: int,
    version: str = "",
    *,
    slot: int = 0,
    low_ports: bool = False,
) -> EnvoySpec:
    """What to start as that generation: of the program's version unless another is given."""
    sockets = program.runtime_directory / f"{node.id}-{generation}"
    version = version or program.version
    return EnvoySpec(
        directory=directory,
        resource=node.cluster,
        binary=envoys.binary(program.directory, version),
        version=version,
        generation=generation,
        relay_socket=sockets / "relay.sock",
        admin_socket=sockets / "admin.sock",
        log_level=program.log_level,
        drain_seconds=program.drain_seconds,
        concurrency=program.concurrency,
        sds_socket=program.sds_socket,
        slot=slot,
        low_ports=low_ports,
    )


@dataclass(frozen=True)
class Ground:
    """What all generations of a placement stand on. `strangers` says, before each start, who is in the way, or ""."""

    node: bootstrap.Node
    supervisor: Supervisor
    strangers: Callable[[], str]
    changed: Callable[[], None]
    owner: int | None  # the user's id that Envoy runs under; None for our own


class Generation:
    """`running` is its process now. `remember` is told of what is about to be started (pid 0) and of what was; `ended` is called when a
    process has ended by itself; `first_end` says how the first one did. `install` gets its binary, None where that is there. `known` was
    started in this boot, and does not run now."""

    def __init__(
        self,
        spec: EnvoySpec,
        face: Face,
        ground: Ground,
        validate: bool,
        install: Callable[[], Awaitable[None]] | None,
        running: Running | None = None,
        known: Running | None = None,
    ) -> None:
        self.spec, self.face = spec, face
        self.running = running if running and running.pid else None
        self.known = running or known  # as it was last seen, to whoever starts it again
        self.remember: Callable[[Running], Awaitable[None]] = _nobody
        self.ended: Callable[[], None] = lambda: None
        self.first_end = ""
        self.words = ""  # why it does not run
        self.stopped = False  # on purpose
        self.retiring = False  # its process's end is its last
        self._starting = asyncio.Lock()
        self._began = 0.0  # when its process did, by the loop's clock
        self._quick_ends = 0  # in a row
        self._ground = ground
        self._validate, self._install = validate, install

    @property
    def number(self) -> int:
        return self.spec.generation

    @property
    def crashes(self) -> str:
        """That it ends again and again, in words, until one of its processes has run for long enough."""
        steady = self.running is not None and asyncio.get_running_loop().time() - self._began > _STEADY
        return "" if steady else crash_words(self.spec.id, self._quick_ends)

    async def run(self) -> None:
        """Serves it and keeps it running, for ever."""
        async with asyncio.TaskGroup() as group:
            socket = self.running.relay_socket if self.running else ""
            group.create_task(self.face.serve(Path(socket or self.spec.relay_socket), self._ground.owner))
            group.create_task(self._keep())

    async def retires(self) -> None:
        """It does not start again from here on; returns when no start of it is under way."""
        self.retiring = True
        async with self._starting:
            pass

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        supervisor = self._ground.supervisor
        self._began = loop.time()
        failures = 0  # of starts, in a row
        while True:
            if self.running is None and self.known is not None:
                await self._take(await supervisor.again(self.known, self._stopped, self._missed))
            if self.running is None:
                # A service manager, which starts it again by itself, makes pauses of its own.
                await asyncio.sleep(restart_pause(self._quick_ends + failures, random.random()))  # noqa: S311
                if not self.retiring:
                    await self._take(await self._start())
                failures += 1
            if self.running is not None:
                failures = 0
                ended = await supervisor.ended(self.running)
                pid, self.running = self.running.pid, None
                if self.retiring:
                    return
                log.warning("%s: Envoy (pid %d) %s", self._ground.node.id, pid, ended)
                self.first_end = self.first_end or ended
                self._quick_ends = 1 if loop.time() - self._began > _STEADY else self._quick_ends + 1
                self.ended()
                self._ground.changed()

    def _missed(self, ends: int) -> None:
        log.warning("%s: Envoy ended soon after its start", self._ground.node.id)
        self._quick_ends += ends
        for _ in range(ends):
            self.ended()
        self._ground.changed()

    async def _take(self, running: Running | None) -> None:
        self.running = running
        self._began = asyncio.get_running_loop().time()
        if running is not None:
            self.known, self.stopped, self.words = running, False, ""
            self._ground.changed()
            await self.remember(running)

    def _stopped(self, words: str) -> None:
        log.warning("%s: generation %d was %s", self._ground.node.id, self.number, words)
        self.stopped, self.words = True, f"Envoy was {words}"
        self._ground.changed()

    async def _start(self) -> Running | None:
        node = self._ground.node
        self.known = None
        try:
            if words := await asyncio.to_thread(self._ground.strangers):
                raise LaunchError(words)
            if self._install is not None:
                await self._install()
            async with self._starting:
                if self.retiring:
                    return None
                await finished(prepare_bootstrap, self.spec, node, _open_files(), self._ground.owner, self._validate)
                await self.remember(intent(self.spec))
                running = await self._ground.supervisor.start(self.spec)
        except MeshagentError as error:
            if str(error) != self.words:
                log.error("%s: %s", node.id, error)
                self.words = str(error)
                self._ground.changed()
            return None
        log.info("%s: started Envoy %s (pid %d) for %s", node.id, self.spec.version, running.pid, node.cluster)
        return running


async def _nobody(_: Running) -> None:
    """Nothing is remembered."""


def prepare_bootstrap(
    spec: EnvoySpec, node: bootstrap.Node, open_files: int, owner: int | None = None, check: bool = True
) -> None:
    """Writes the bootstrap, once Envoy has accepted it in its validate mode. One that was accepted before is not asked about again."""
    make_directory(spec.admin_socket.parent, owner=owner)
    text = bootstrap.text(node, spec, open_files)
    state = read_state(spec.directory)
    known = read_if_there(spec.bootstrap) == text.encode() and state is not None and state.version == spec.version
    if known and is_ours(spec.bootstrap):
        return
    if check and not known:
        candidate = spec.directory / "candidate.json"
        write_durably(candidate, text)
        validate(spec.binary, candidate, spec.directory)
        remove(candidate)
    # It says nothing secret, and Envoy's user has no say in it.
    write_durably(spec.bootstrap, text, PRIVATE_FILE if owner is None else READABLE_FILE)


def validate(binary: Path, configuration: Path, directory: Path) -> None:
    """Raises LaunchError with Envoy's words when it does not accept the configuration."""
    arguments = [str(binary), "--mode", "validate", "-c", str(configuration), "-l", "error"]
    try:
        done = subprocess.run(
            arguments,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VALIDATE_SECONDS,
            check=False,
        )
    except OSError as error:
        raise LaunchError(f"cannot run {binary}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{binary} took more than {VALIDATE_SECONDS:.0f} s to validate {configuration}") from error
    if done.returncode != 0:
        raise LaunchError(f"{binary} does not accept {configuration}: {(done.stderr or done.stdout).strip()[-2000:]}")


async def retire_all(directory: Path, supervisor: Supervisor) -> list[Running]:
    """Ends every Envoy of a directory, each drained first. Returns those that were ended."""
    every = await supervisor.find(directory)
    ended = await remains(directory, supervisor, every)
    await asyncio.gather(*(retire(directory, each, supervisor) for each in (*every, *ended)))
    return list(every)


async def remains(directory: Path, supervisor: Supervisor, alive: Collection[Running]) -> list[Running]:
    """Every generation but these of which something is left in its directory or with the supervisor, the oldest first. None of them runs:
    it was stopped, or whoever started or retired it did not come to the end of that."""
    numbers = await asyncio.to_thread(left, directory) | await supervisor.kept(directory)
    ended = sorted(numbers - {each.generation for each in alive})
    return await asyncio.to_thread(lambda: [described(directory, number) for number in ended])


async def retire(directory: Path, running: Running, supervisor: Supervisor, drain: bool = True) -> None:
    """Ends one generation for good: it may not start again from here on, its listeners drain, it is stopped, and what was its own goes.
    What outlives the drain is counted, and cut."""
    await finished(write_durably, retired_path(directory, running.generation), "")
    if drain and running.pid and running.admin_socket and await admin.drain(running.admin_socket):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(running.drain_seconds + _MARGIN):
                await supervisor.ended(running)
        if words := cut_words(await admin.text(running.admin_socket, PAGE) or ""):
            log.warning("%s: generation %d: %s", directory.name, running.generation, words)
    await supervisor.stop(running, STOP_SECONDS)
    await supervisor.forget(directory, running.generation)
    await finished(_remove, directory, running)


def _remove(directory: Path, running: Running) -> None:
    place = Path(running.relay_socket).parent
    if place.name == f"{directory.name}-{running.generation}":
        remove_tree(place)
    remove(bootstrap_path(directory, running.generation))
    remove(retired_path(directory, running.generation))


def _open_files() -> int:
    return limits.getrlimit(limits.RLIMIT_NOFILE)[0]
