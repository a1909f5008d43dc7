"""`meshagent doctor`: every check of this host, a line each, and what to do about what is wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from meshagent.cli.local import ask, config_option
from meshagent.cli.rendering import Screen, count, output_option, show
from meshagent.doctor.examine import examine, well
from meshagent.doctor.finding import Finding, State
from meshagent.errors import MeshagentError

_STYLES = {State.OK: "", State.WARNING: "yellow", State.WRONG: "bold red", State.UNKNOWN: "yellow"}
_ASK_SECONDS = 3.0


@click.command(short_help="Look for everything that can be wrong on this host.")
@config_option
@output_option
def doctor(config: Path, output: str) -> None:
    """Look for everything that can be wrong on this host, and say for each problem what to do. Changes nothing.

    Works whether an agent runs or not, as root. Ends with status 1 when something is wrong; a warning is no reason."""
    findings = asyncio.run(_examined(config, Screen() if output == "table" else None))
    if output != "table":
        show({"well": well(findings), "findings": [each.json() for each in findings]}, output, lambda screen: None)
    sys.exit(0 if well(findings) else 1)


async def _examined(config: Path, screen: Screen | None) -> list[Finding]:
    """Printed as they are made: some checks wait for what does not answer."""
    findings = []
    async for finding in examine(config, _status):
        findings.append(finding)
        if screen is not None:
            _print(screen, finding)
    if screen is not None:
        wrong = sum(finding.state is State.WRONG for finding in findings)
        warnings = sum(finding.state is State.WARNING for finding in findings)
        screen.line(f"{count(wrong, 'problem')}, {count(warnings, 'warning')}")
    return findings


def _print(screen: Screen, finding: Finding) -> None:
    words = " ".join(finding.words.split())
    screen.line(f"{finding.state:<8} {finding.check:<14} {words}", _STYLES[finding.state])
    if finding.remedy:
        screen.line(f"{'':<23} -> {finding.remedy}")


def _status(runtime_directory: Path) -> Any:
    from meshagent.agent.local import SOCKET

    try:
        return ask(runtime_directory / SOCKET, "/status", seconds=_ASK_SECONDS)
    except MeshagentError:
        return None
