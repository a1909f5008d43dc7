"""The seam behind which Envoys run: what is asked of whoever starts, finds and ends them, and what is remembered of them on disk.

A proxy's generations are numbered and never numbered again. In its directory `generation.json` names the one that serves, `next.json` one
that is to follow it, or why the last such one did not; a bootstrap says the same of its own generation, should both be lost.
`retired-N` forbids generation N to start again. Knows no configuration: a bootstrap is a path here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from meshagent.errors import MeshagentError
from meshagent.host.files import read_if_there, write_durably

STATE_FILE = "generation.json"
NEXT_FILE = "next.json"


class SupervisorError(MeshagentError):
    """An Envoy that could not be started or ended."""


@dataclass(frozen=True)
class EnvoySpec:
    """What to start. `directory` is the proxy's own and the process's working directory."""

    directory: Path
    resource: str
    binary: Path
    version: str
    generation: int
    relay_socket: Path
    admin_socket: Path
    log_level: str = "info"
    drain_seconds: int = 5
    concurrency: int | None = None  # None: one worker a core
    sds_socket: Path | None = None  # where a provider of secrets listens, SPIRE's agent say
    slot: int = 0
    low_ports: bool = False  # it listens on ports below 1024

    @property
    def id(self) -> str:
        """The placement's."""
        return self.directory.name

    @property
    def bootstrap(self) -> Path:
        return bootstrap_path(self.directory, self.generation)

    @property
    def made_of(self) -> str:
        """All that another generation is made for, should it change: the version and how it is run."""
        parts = [self.version, self.log_level, self.drain_seconds, self.concurrency]
        return json.dumps([*parts, str(self.sds_socket or ""), self.slot, self.low_ports])


@dataclass(frozen=True)
class Running:
    """One Envoy process, told by boot, pid and start time. `pid` 0: meant to be started, perhaps was, or is about to be again."""

    generation: int
    version: str
    relay_socket: str
    admin_socket: str
    boot_id: str
    pid: int = 0
    start_time: int = 0
    drain_seconds: int = 5
    resource: str = ""
    made_of: str = ""
    placement: str = ""


@dataclass(frozen=True)
class Next:
    """A generation that is to follow the one that serves: on trial as long as `failure` is "". `order` is what it was asked for with: what
    failed is tried again for another order alone."""

    running: Running
    order: str
    failure: str = ""


_FIELDS = frozenset(Running.__dataclass_fields__)


class Supervisor(Protocol):
    """One suite (tests/host/test_supervisor.py) runs against every implementation. All of it is about one proxy's directory or one of its
    generations; calls about one directory come one after the other. Raises SupervisorError when what was asked cannot be done."""

    async def start(self, spec: EnvoySpec) -> Running:
        """Starts an Envoy that outlives the caller, in `spec.directory`; the one that runs, if that generation does already."""
        ...

    async def find(self, directory: Path) -> tuple[Running, ...]:
        """The generations that run, or will without anybody's doing, oldest first, whoever started them and whatever the files say."""
        ...

    async def ended(self, running: Running) -> str:
        """Returns when the process has ended, with how it did, in words."""
        ...

    async def again(
        self, running: Running, stopped: Callable[[str], None], missed: Callable[[int], None]
    ) -> Running | None:
        """After the end of that process: the next one of its generation, where a service manager starts it again by itself, with pauses
        between quick ends; None where that is the caller's to do. `missed` is told how many came and went meanwhile, too fast to be seen.
        While somebody has stopped it on purpose, waits until somebody starts it, having told `stopped` in words."""
        ...

    async def kill(self, running: Running) -> None:
        """Ends one that hangs, as a crash would: it is started again."""
        ...

    async def stop(self, running: Running, limit: float) -> None:
        """SIGTERM, then SIGKILL after `limit` seconds; returns when the generation is gone and will not come back. Gone already is fine.
        Drains nothing: whoever calls has drained."""
        ...

    async def kept(self, directory: Path) -> frozenset[int]:
        """The generations that the supervisor keeps something of, whether they run or not."""
        ...

    async def forget(self, directory: Path, generation: int) -> None:
        """Removes what the supervisor keeps of a generation that is gone."""
        ...


def bootstrap_path(directory: Path, generation: int) -> Path:
    return directory / f"bootstrap-{generation}.json"


def retired_path(directory: Path, generation: int) -> Path:
    return directory / f"retired-{generation}"


def retired(directory: Path) -> frozenset[int]:
    """The generations that may not start again."""
    return _numbers(directory, "retired-*")


def left(directory: Path) -> frozenset[int]:
    """The generations that have files of their own in a proxy's directory."""
    return _numbers(directory, "bootstrap-*.json") | retired(directory)


def read_state(directory: Path) -> Running | None:
    """What the state file says of the generation that serves; None when there is none or nobody can make sense of it."""
    return _running(_json(directory / STATE_FILE))


def write_state(directory: Path, running: Running) -> None:
    write_durably(directory / STATE_FILE, json.dumps(asdict(running), indent=1) + "\n")


def read_next(directory: Path) -> Next | None:
    stored = _json(directory / NEXT_FILE)
    running = _running(stored.get("running"))
    if running is None:
        return None
    return Next(running, str(stored.get("order", "")), str(stored.get("failure", "")))


def write_next(directory: Path, follower: Next) -> None:
    write_durably(directory / NEXT_FILE, json.dumps(asdict(follower), indent=1) + "\n")


def described(directory: Path, generation: int) -> Running:
    """What is known of a generation but for its process, from the first file that speaks of it."""
    follower = read_next(directory)
    for known in (read_state(directory), follower.running if follower else None):
        if known is not None and known.generation == generation:
            return replace(known, pid=0, start_time=0, placement=directory.name)
    said = _json(bootstrap_path(directory, generation)).get("node", {})
    metadata = said.get("metadata", {}) if isinstance(said, dict) else {}
    stored = metadata.get("generation", {}) if isinstance(metadata, dict) else {}
    known = _running({**stored, "generation": generation}) if isinstance(stored, dict) else None
    return replace(known or Running(generation, "", "", "", ""), placement=directory.name)


def intent(spec: EnvoySpec, boot: str = "") -> Running:
    return Running(
        generation=spec.generation,
        version=spec.version,
        relay_socket=str(spec.relay_socket),
        admin_socket=str(spec.admin_socket),
        boot_id=boot,
        drain_seconds=spec.drain_seconds,
        resource=spec.resource,
        made_of=spec.made_of,
        placement=spec.id,
    )


def as_process(state: Running, pid: int, start_time: int, boot: str) -> Running:
    return replace(state, pid=pid, start_time=start_time, boot_id=boot)


def arguments(spec: EnvoySpec) -> list[str]:
    """After the binary's name. Hot restart is off: generations overlap by SO_REUSEPORT instead."""
    return [
        "--disable-hot-restart",
        *(["--concurrency", str(spec.concurrency)] if spec.concurrency else []),
        "-l",
        spec.log_level,
        "--drain-time-s",
        str(spec.drain_seconds),
    ]


def _running(stored: Any) -> Running | None:
    try:
        return Running(**{"version": "", **_NOTHING, **{name: stored[name] for name in _FIELDS & stored.keys()}})
    except (ValueError, TypeError, AttributeError):
        return None


_NOTHING = {"relay_socket": "", "admin_socket": "", "boot_id": ""}


def _numbers(directory: Path, pattern: str) -> frozenset[int]:
    numbers = (path.stem.rpartition("-")[2] for path in directory.glob(pattern))
    return frozenset(int(number) for number in numbers if number.isdecimal())


def _json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(read_if_there(path) or b"{}")
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}
