"""A generation's unit: its name, its drop-in, and what follows from its state. Pure.

The template (units/meshagent-envoy@.service) says how every Envoy is held; the drop-in what is this one's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from meshagent.host import nftables
from meshagent.host.supervisor import EnvoySpec, arguments, retired_path

TEMPLATE = "meshagent-envoy@"
DROP_IN = "10-generation.conf"
# What a stop may take beside the time of Envoy's listeners: callers hear of it first, and Envoy ends after it.
STOP_SECONDS = 55
_INSTANCE = re.compile(r"meshagent-envoy@([A-Za-z0-9_]+)-(\d+)\.service")
# Envoy's access log goes to /dev/stdout, which is opened by its name. The journal's socket cannot be; a pipe can, and is copied to it.
_WITH_STDOUT = (
    'out="$RUNTIME_DIRECTORY/stdout"; [ -p "$out" ] || mkfifo "$out" || exit; cat <"$out" & exec "$0" "$@" 1<>"$out"'
)


class Follow(Enum):
    """What an ended process's unit is about to do."""

    RUNS = "runs"
    WAIT = "wait"  # it is being started, stopped, or started again
    STOPPED = "stopped"  # on purpose: nothing else keeps it from starting
    GONE = "gone"  # the unit or its drop-in is not there


@dataclass(frozen=True)
class Unit:
    """What systemd says of one."""

    load: str = ""
    active: str = ""
    sub: str = ""
    job: int = 0
    main_pid: int = 0
    result: str = ""
    restarts: int = 0  # by systemd itself, since somebody started it

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Unit:
        return cls(
            load=str(properties.get("LoadState", "")),
            active=str(properties.get("ActiveState", "")),
            sub=str(properties.get("SubState", "")),
            job=int((properties.get("Job") or (0, ""))[0]),
            main_pid=int(properties.get("MainPID", 0)),
            result=str(properties.get("Result", "")),
            restarts=int(properties.get("NRestarts", 0)),
        )

    @property
    def comes_back(self) -> bool:
        """It runs, or will without anybody's doing."""
        return self.active in ("active", "activating", "reloading") or bool(self.job)


_LET_PASS = f'test -e "$1" || {nftables.LET_PASS} 2> /dev/null || true'


def unit_name(placement: str, generation: int) -> str:
    return f"{TEMPLATE}{placement}-{generation}.service"


def parse_unit(name: str) -> tuple[str, int] | None:
    """(placement, generation)."""
    found = _INSTANCE.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def follow(unit: Unit, ended_pid: int) -> Follow:
    """What becomes of a generation whose process `ended_pid` has ended."""
    if unit.active == "active" and unit.main_pid not in (0, ended_pid):
        return Follow.RUNS
    if unit.comes_back or unit.active == "deactivating":
        return Follow.WAIT
    if unit.load != "loaded":
        return Follow.GONE
    return Follow.STOPPED


def ends(before: int, unit: Unit) -> int:
    """How many processes of a generation have ended that were started after the one whose unit had been restarted `before` times."""
    if unit.restarts < before:
        before = 0  # somebody has started it since
    # One that waits to be started again has ended once more than it was restarted.
    waits = unit.sub == "auto-restart" and not unit.job
    return max(0, unit.restarts - before - (not waits))


def drop_in(spec: EnvoySpec, user: str) -> str:
    """Its sockets are below /run. Every value is quoted for systemd."""
    command = [str(spec.binary), "-c", spec.bootstrap.name, *arguments(spec)]
    lines = [
        "# meshagent writes this before the first start of this generation, and removes it when the generation has been retired.",
        "[Unit]",
        f"Description=Envoy {_plain(spec.version)} for {_plain(spec.resource)}, generation {spec.generation}",
        "[Service]",
        f"User={user}",
        f"WorkingDirectory={_plain(spec.directory)}",
        f"RuntimeDirectory={_plain(spec.admin_socket.parent.relative_to('/run'))}",
        f"TimeoutStopSec={STOP_SECONDS + spec.drain_seconds}",
        f"LogExtraFields=PROXY={spec.id} MESH={_plain(spec.resource).split('/')[1]}",
        f"ExecCondition=/usr/bin/test ! -e {_word(retired_path(spec.directory, spec.generation))}",
        f"ExecStart=/bin/sh -c {' '.join(map(_word, [_WITH_STDOUT, *command]))}",
        # Where all that leaves the host goes to this Envoy, it passes by as soon as there is none, unless another generation took over.
        f"ExecStopPost=-+/bin/sh -c {_word(_LET_PASS)} - {_word(retired_path(spec.directory, spec.generation))}",
    ]
    if spec.low_ports:
        lines += ["CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "AmbientCapabilities=CAP_NET_BIND_SERVICE"]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """For a setting that takes a line as it is."""
    return str(value).replace("%", "%%").replace("\n", " ")


def _word(value: object) -> str:
    """For one word of a command line, whatever is in it (systemd.service(5), COMMAND LINES)."""
    text = _plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{text}"'
