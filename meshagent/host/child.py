"""The Supervisor without an init system: Envoys as processes in sessions of their own, which outlive the agent that started them.

A restarted agent finds them again by the bootstrap path on their command lines, which nobody else's process carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from meshagent.host import processes
from meshagent.host.supervisor import (
    EnvoySpec,
    Running,
    SupervisorError,
    arguments,
    as_process,
    described,
    intent,
    read_state,
)
from meshagent.host.threads import finished

log = logging.getLogger(__name__)

LOG_FILE = "envoy.log"
LOG_LIMIT = 16 << 20  # past this the log is set aside as envoy.log.1 at the next start
_KILL_PATIENCE = 5.0


class ChildSupervisor:
    """See supervisor.Supervisor for the contract. Envoy's words are appended to envoy.log in its directory."""

    def __init__(self) -> None:
        # Only to collect exit codes of our own children; what runs is read from /proc.
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self, spec: EnvoySpec) -> Running:
        # An agent that is ended in this moment leaves an Envoy behind that the next one finds.
        return await finished(self._start, spec)

    def _start(self, spec: EnvoySpec) -> Running:
        for there in self._find(spec.directory):
            if there.generation == spec.generation:
                return there
        log_file = _open_log(spec.directory / LOG_FILE)
        try:
            child = subprocess.Popen(
                command(spec),
                cwd=spec.directory,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
        except OSError as error:
            raise SupervisorError(f"cannot start {spec.binary}: {error.strerror or error}") from error
        finally:
            os.close(log_file)
        self._children[child.pid] = child
        started = processes.start_time(child.pid) or 0  # 0: it ended at once; `ended` will say so
        return as_process(intent(spec), child.pid, started, processes.boot_id())

    async def find(self, directory: Path) -> tuple[Running, ...]:
        return await finished(self._find, directory)

    def _find(self, directory: Path) -> tuple[Running, ...]:
        kept: dict[int, processes.Process] = {}
        state = read_state(directory)
        known = state.pid if state else 0
        for process in sorted(_envoys_of(directory), key=lambda process: (process.pid != known, process.start_time)):
            generation = _generation(process)
            if generation in kept:
                # There never is a second one, but for a fault.
                log.error("a second Envoy (pid %d) of one generation ran in %s: ended", process.pid, directory)
                processes.send(process.pid, process.start_time, signal.SIGKILL)
            else:
                kept[generation] = process
        boot = processes.boot_id()
        return tuple(
            as_process(described(directory, number), process.pid, process.start_time, boot)
            for number, process in sorted(kept.items())
        )

    async def ended(self, running: Running) -> str:
        await processes.end(running.pid, running.start_time)
        child = self._children.pop(running.pid, None)
        if child is None:
            return "ended"
        code = await asyncio.to_thread(child.wait, _KILL_PATIENCE)
        return f"ended by {processes.signal_name(-code)}" if code < 0 else f"exited with status {code}"

    async def again(
        self, running: Running, stopped: Callable[[str], None], missed: Callable[[int], None]
    ) -> Running | None:
        return None

    async def kill(self, running: Running) -> None:
        processes.send(running.pid, running.start_time, signal.SIGKILL)

    async def stop(self, running: Running, limit: float) -> None:
        for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, _KILL_PATIENCE)):
            if not processes.send(running.pid, running.start_time, number):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.ended(running)
                    return
        raise SupervisorError(f"Envoy (pid {running.pid}) did not end within {_KILL_PATIENCE:.0f} s of SIGKILL")

    async def kept(self, directory: Path) -> frozenset[int]:
        return frozenset()

    async def forget(self, directory: Path, generation: int) -> None:
        """Nothing is kept."""


def command(spec: EnvoySpec) -> list[str]:
    return [str(spec.binary), "-c", str(spec.bootstrap), *arguments(spec)]


def _envoys_of(directory: Path) -> list[processes.Process]:
    prefix = f"{directory}/bootstrap-"
    return [
        process
        for process in processes.own_processes()
        if "--disable-hot-restart" in process.arguments
        and any(
            flag == "-c" and path.startswith(prefix)
            for flag, path in zip(process.arguments, process.arguments[1:], strict=False)
        )
    ]


def _generation(process: processes.Process) -> int:
    path = process.arguments[process.arguments.index("-c") + 1]
    return int(Path(path).stem.removeprefix("bootstrap-"))


def _open_log(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.rename(path.with_name(path.name + ".1"))
        return os.open(path, flags, 0o600)
    except OSError as error:
        log.error("cannot write %s: %s; Envoy's words are lost", path, error.strerror)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
