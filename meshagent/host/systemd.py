"""The Supervisor on systemd: a unit for every generation, which starts its Envoy again by itself and outlives the agent.

The agent writes the unit's drop-in, asks for jobs over D-Bus, and watches the main process. A unit that is inactive although its generation
was not retired has been stopped by somebody on purpose: everything else, systemd starts again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from meshagent.host import processes, users
from meshagent.host.bus import NO_SUCH_UNIT, Bus, BusError
from meshagent.host.files import make_directory, read_if_there, remove_tree, write_durably
from meshagent.host.instance import DROP_IN, TEMPLATE, Follow, Unit, drop_in, ends, follow, parse_unit, unit_name
from meshagent.host.supervisor import EnvoySpec, Running, SupervisorError, as_process, described, intent
from meshagent.host.threads import finished

log = logging.getLogger(__name__)

UNITS = Path("/etc/systemd/system")
_START_SECONDS = 35.0
_KILL_PATIENCE = 10.0
# At first it is about to be back; what ends again and again makes pauses of seconds.
_POLL, _POLL_GROWTH, _POLL_LONGEST = 0.05, 1.05, 0.3
_POLL_STOPPED = 1.0


class SystemdSupervisor:
    """See supervisor.Supervisor for the contract. Envoy's words are in the journal."""

    def __init__(self, bus: Bus | None = None, units: Path = UNITS) -> None:
        self._bus = bus or Bus()
        self._units = units
        self._restarts: dict[str, int] = {}  # how often systemd had restarted each unit when its process was seen last

    async def start(self, spec: EnvoySpec) -> Running:
        unit = unit_name(spec.id, spec.generation)
        try:
            if await finished(self._define, spec, unit):
                await self._bus.manager("Reload")
            result = await self._bus.job("StartUnit", unit, _START_SECONDS)
            there = await self._process(spec.directory, spec.generation, intent(spec))
            if result == "done" and there is not None and there.pid:
                return there
            found = await self._unit(unit)
            await self._bus.job("StopUnit", unit, _KILL_PATIENCE)
            await self._reset(unit)
        except BusError as error:
            raise SupervisorError(f"cannot start {unit}: {error}") from error
        why = f"{found.active}, {found.result}" if result == "done" else f"{result}, {found.result}"
        raise SupervisorError(f"{unit} did not start ({why}): journalctl -u {unit} says why")

    async def find(self, directory: Path) -> tuple[Running, ...]:
        found = []
        try:
            for name, active, _ in await self._bus.units(f"{TEMPLATE}{directory.name}-*.service"):
                instance = parse_unit(name)
                if instance is None or instance[0] != directory.name:
                    continue
                if active == "failed":
                    await self._reset(name)
                running = await self._process(directory, instance[1])
                if running is not None:
                    found.append(running)
        except BusError as error:
            raise SupervisorError(f"cannot tell which Envoys run for {directory.name}: {error}") from error
        return tuple(sorted(found, key=lambda running: running.generation))

    async def ended(self, running: Running) -> str:
        await processes.end(running.pid, running.start_time)
        return "ended"

    async def again(
        self, running: Running, stopped: Callable[[str], None], missed: Callable[[int], None]
    ) -> Running | None:
        unit = _unit_of(running)
        told, ended, poll = False, 0, _POLL
        while True:
            try:
                state = await self._unit(unit)
                step = follow(state, running.pid)
                before = self._restarts.setdefault(unit, state.restarts)
                if (now := ends(before, state)) > ended:
                    missed(now - ended)
                    ended = now
                if step is Follow.GONE:
                    return None
                if step is Follow.RUNS:
                    started = processes.start_time(state.main_pid)
                    if started is not None:
                        self._restarts[unit] = state.restarts
                        return as_process(running, state.main_pid, started, processes.boot_id())
                if step is Follow.STOPPED:
                    if state.active == "failed":
                        await self._reset(unit)
                    if not told:
                        told = True
                        stopped(f"stopped on purpose: `systemctl start {unit}` starts it again")
            except BusError as error:
                log.warning("%s: %s", unit, error)
                step = Follow.STOPPED
            poll = min(poll * _POLL_GROWTH, _POLL_LONGEST)
            await asyncio.sleep(_POLL_STOPPED if step is Follow.STOPPED else poll)

    async def kill(self, running: Running) -> None:
        # Signals to another user's process are systemd's to send.
        unit = _unit_of(running)
        try:
            await self._bus.manager("KillUnit", "ssi", unit, "main", int(signal.SIGKILL))
        except BusError as error:
            if error.name != NO_SUCH_UNIT:
                raise SupervisorError(f"cannot end {unit}: {error}") from error

    async def stop(self, running: Running, limit: float) -> None:
        unit = _unit_of(running)
        try:
            if await self._bus.job("StopUnit", unit, limit) == "timeout":
                await self._bus.manager("KillUnit", "ssi", unit, "all", int(signal.SIGKILL))
                await self._bus.job("StopUnit", unit, _KILL_PATIENCE)
            await self._reset(unit)
            state = await self._unit(unit)
        except BusError as error:
            if error.name == NO_SUCH_UNIT:
                return
            raise SupervisorError(f"cannot stop {unit}: {error}") from error
        if state.comes_back or state.active == "deactivating":
            raise SupervisorError(f"{unit} did not end within {_KILL_PATIENCE:.0f} s of SIGKILL")

    async def kept(self, directory: Path) -> frozenset[int]:
        places = await asyncio.to_thread(lambda: list(self._units.glob(f"{TEMPLATE}{directory.name}-*.service.d")))
        instances = (parse_unit(place.name.removesuffix(".d")) for place in places)
        return frozenset(number for id, number in filter(None, instances) if id == directory.name)  # noqa: A001

    async def forget(self, directory: Path, generation: int) -> None:
        unit = unit_name(directory.name, generation)
        try:
            # One that was killed may be on its way back still.
            if (await self._unit(unit)).active not in ("inactive", "failed"):
                await self._bus.job("StopUnit", unit, _KILL_PATIENCE)
            await self._reset(unit)
        except BusError as error:
            log.warning("%s: %s", unit, error)
        self._restarts.pop(unit, None)
        place = self._place(unit)
        if await asyncio.to_thread(place.exists):
            await finished(remove_tree, place)

    def _define(self, spec: EnvoySpec, unit: str) -> bool:
        """Whether systemd must read its units again."""
        if not spec.binary.is_file():
            raise SupervisorError(f"cannot start {spec.binary}: No such file or directory")
        text = drop_in(spec, users.ensure(spec.slot).name).encode()
        path = self._place(unit) / DROP_IN
        if read_if_there(path) == text:
            return False
        make_directory(path.parent, 0o755)
        write_durably(path, text, 0o644)
        return True

    def _place(self, unit: str) -> Path:
        return self._units / f"{unit}.d"

    async def _unit(self, unit: str) -> Unit:
        return Unit.of(await self._bus.properties(unit))

    async def _process(self, directory: Path, generation: int, known: Running | None = None) -> Running | None:
        state = await self._unit(unit_name(directory.name, generation))
        started = processes.start_time(state.main_pid) if state.main_pid else None
        self._restarts[unit_name(directory.name, generation)] = state.restarts
        if started is not None and state.active != "deactivating":
            known = known if known is not None else await asyncio.to_thread(described, directory, generation)
            return as_process(known, state.main_pid, started, processes.boot_id())
        if state.comes_back:
            return known if known is not None else await asyncio.to_thread(described, directory, generation)
        return None

    async def _reset(self, unit: str) -> None:
        """A failed unit that nobody means to start is no fault of the host's."""
        try:
            await self._bus.manager("ResetFailedUnit", "s", unit)
        except BusError as error:
            if error.name != NO_SUCH_UNIT:
                raise


def _unit_of(running: Running) -> str:
    return unit_name(running.placement, running.generation)
