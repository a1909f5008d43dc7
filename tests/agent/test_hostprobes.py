"""Probes of a service and by a command, as far as systemd's answers decide them; tests/hosts has the real one."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from meshagent.agent.hostprobes import HostProbes, failure, judged, properties, unit_name
from meshagent.agent.probes import Target
from meshagent.errors import MeshagentError

UNIT = Target("127.0.0.1", 0, unit="web.service", timeout=0.5)
COMMAND = Target("127.0.0.1", 0, command=("/bin/check", "--all"), placement="0123456789ab", timeout=2.0)


class Systemd:
    """Answers as it was told to; what it was asked for is kept."""

    def __init__(self, answer: Any, found: dict[str, Any] | None = None) -> None:
        self.answer, self.found = answer, found or {}
        self.asked: list[str] = []

    async def manager(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        self.asked.append(f"{member} {body[0]}")
        return [[self.answer]]

    async def transient(self, unit: str, properties: Sequence[tuple[str, str, Any]], limit: float) -> str:
        self.asked.append(f"transient {unit}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)

    async def properties(self, unit: str) -> dict[str, Any]:
        return self.found


@pytest.mark.parametrize(
    ("load", "active", "sub", "words"),
    [
        ("loaded", "active", "running", ""),
        ("loaded", "reloading", "reload", ""),
        ("loaded", "activating", "auto-restart", "it is activating (auto-restart)"),
        ("loaded", "failed", "failed", "it is failed (failed)"),
        ("not-found", "inactive", "dead", "systemd says not-found"),
        ("masked", "inactive", "dead", "systemd says masked"),
    ],
)
async def test_a_service_is_well_while_it_is_active(load: str, active: str, sub: str, words: str) -> None:
    assert judged(load, active, sub) == words
    systemd = Systemd(("web.service", "Web", load, active, sub, "", "/", 0, "", "/"))
    assert await HostProbes(lambda: systemd).check(UNIT) == words
    assert systemd.asked == ["ListUnitsByNames ['web.service']"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"Result": "exit-code", "ExecMainStatus": 2}, "exit status 2"),
        (
            {"Result": "exit-code", "ExecMainStatus": 203},
            "systemd cannot run it: is it there, and executable for everybody?",
        ),
        ({"Result": "timeout"}, "it did not end within 2 s"),
        ({"Result": "signal", "ExecMainStatus": int(signal.SIGSEGV)}, "ended by SIGSEGV"),
        ({"Result": "signal", "ExecMainStatus": 40}, "ended by signal 40"),
        ({"Result": "oom-kill"}, "it took more than 64 MiB"),
        ({}, "systemd says failed"),
    ],
)
async def test_why_a_command_failed(found: dict[str, Any], words: str) -> None:
    assert failure(found, "failed", COMMAND) == words
    systemd = Systemd("failed", found)
    assert await HostProbes(lambda: systemd).check(COMMAND) == words
    assert systemd.asked == [f"transient {unit_name(COMMAND)}", f"UnrefUnit {unit_name(COMMAND)}"]


async def test_a_command_that_succeeds_is_well() -> None:
    assert await HostProbes(lambda: Systemd("done")).check(COMMAND) == ""


async def test_what_systemd_refuses_is_a_failed_probe() -> None:
    refused = Systemd(MeshagentError("Unit meshagent-probe-x.service already exists."))
    assert await HostProbes(lambda: refused).check(COMMAND) == "Unit meshagent-probe-x.service already exists."


async def test_where_systemd_does_not_run_it_is_said() -> None:
    assert "probe a port instead" in await HostProbes(None).check(UNIT)


def test_a_command_runs_with_nothing_to_its_name() -> None:
    given = {name: value for name, _, value in properties(COMMAND)}
    assert given["ExecStart"] == [["/bin/check", ["/bin/check", "--all"], False]]
    assert given["DynamicUser"] and given["NoNewPrivileges"] and given["CapabilityBoundingSet"] == 0
    assert given["TimeoutStartUSec"] == 2_000_000
