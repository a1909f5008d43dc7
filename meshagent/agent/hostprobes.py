"""Probes that ask the host instead of the network: a systemd service's state, and a command of the host's own configuration.

A command runs as an unprivileged user in a transient unit of systemd, with limits of time, memory and processes. What it prints is in the
journal under the unit's name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from meshagent.agent import probes
from meshagent.agent.probes import Target
from meshagent.errors import MeshagentError
from meshagent.host.processes import signal_name

MEMORY = 64 << 20
TASKS = 16
USER = "meshagent-probe"
# Past its time a command is told to end, then ended; the bus has its own time.
_KILL_SECONDS = 1.0
_MARGIN = 5.0
_WELL = ("active", "reloading", "refreshing")


class Systemd(Protocol):
    """What is used of host.bus.Bus."""

    async def manager(self, member: str, signature: str = "", *body: Any) -> list[Any]: ...

    async def transient(self, unit: str, properties: Sequence[tuple[str, str, Any]], limit: float) -> str: ...

    async def properties(self, unit: str) -> dict[str, Any]: ...


class HostProbes:
    """`connect` makes the connection to systemd, which is made when the first probe needs it; None where systemd does not run the host."""

    def __init__(self, connect: Callable[[], Systemd] | None) -> None:
        self._connect = connect
        self._systemd: Systemd | None = None

    async def check(self, target: Target) -> str:
        """As probes.Check, for every kind of target."""
        if not target.unit and not target.command:
            return await probes.check(target)
        if self._connect is None:
            return "systemd does not run this host, or the agent is not root: probe a port instead"
        if self._systemd is None:
            self._systemd = self._connect()
        act = _unit if target.unit else _command
        try:
            async with asyncio.timeout(target.timeout + _KILL_SECONDS + _MARGIN):
                return await act(self._systemd, target)
        except TimeoutError:
            return "systemd does not answer"
        except MeshagentError as error:
            return str(error)


async def _unit(systemd: Systemd, target: Target) -> str:
    (rows,) = await systemd.manager("ListUnitsByNames", "as", [target.unit])
    _, _, load, active, sub, *_ = rows[0]
    return judged(load, active, sub)


def judged(load: str, active: str, sub: str) -> str:
    """ "" for a service that serves; one on its way up or down does not."""
    if active in _WELL:
        return ""
    if load in ("not-found", "masked", "bad-setting", "error"):
        return f"systemd says {load}"
    return f"it is {active} ({sub})"


async def _command(systemd: Systemd, target: Target) -> str:
    unit = unit_name(target)
    result = await systemd.transient(unit, properties(target), target.timeout + _KILL_SECONDS + _MARGIN / 2)
    try:
        return "" if result == "done" else failure(await systemd.properties(unit), result, target)
    finally:
        # It was kept for its result.
        with contextlib.suppress(MeshagentError):
            await systemd.manager("UnrefUnit", "s", unit)


def unit_name(target: Target) -> str:
    """One a placement: of two probes of it, the second finds the first still there."""
    return f"meshagent-probe-{target.placement}.service"


def properties(target: Target) -> list[tuple[str, str, Any]]:
    """Name, D-Bus signature and value, for StartTransientUnit."""
    command = list(target.command)
    return [
        ("Description", "s", "A probe of the service mesh"),
        ("Type", "s", "oneshot"),
        ("ExecStart", "a(sasb)", [[command[0], command, False]]),
        ("TimeoutStartUSec", "t", round(target.timeout * 1e6)),
        ("TimeoutStopUSec", "t", round(_KILL_SECONDS * 1e6)),
        ("CollectMode", "s", "inactive-or-failed"),
        ("AddRef", "b", True),
        # A user that exists while it runs, may write nowhere, and cannot become another.
        ("DynamicUser", "b", True),
        ("User", "s", USER),
        ("NoNewPrivileges", "b", True),
        ("CapabilityBoundingSet", "t", 0),
        ("ProtectSystem", "s", "strict"),
        ("ProtectHome", "s", "yes"),
        ("ProtectKernelTunables", "b", True),
        ("ProtectControlGroups", "b", True),
        ("PrivateDevices", "b", True),
        ("RestrictSUIDSGID", "b", True),
        ("MemoryMax", "t", MEMORY),
        ("MemorySwapMax", "t", 0),
        ("TasksMax", "t", TASKS),
        ("OOMScoreAdjust", "i", 500),
        # What it prints reaches the journal; systemd's own lines about each run do not.
        ("SyslogLevel", "i", 5),
        ("LogLevelMax", "i", 5),
    ]


def failure(found: Mapping[str, Any], result: str, target: Target) -> str:
    """Why a command's unit failed, from its properties; `result` is its job's."""
    status = int(found.get("ExecMainStatus", 0))
    match found.get("Result"):
        case "timeout":
            return f"it did not end within {target.timeout:g} s"
        case "exit-code" if status == 203:
            return "systemd cannot run it: is it there, and executable for everybody?"
        case "exit-code":
            return f"exit status {status}"
        case "signal" | "core-dump":
            return f"ended by {signal_name(status)}"
        case "oom-kill":
            return f"it took more than {MEMORY >> 20} MiB"
        case other:
            return f"systemd says {other or result}"
