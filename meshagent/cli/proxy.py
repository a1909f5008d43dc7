"""`meshagent proxy`: one proxy of this host."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import click

from meshagent.cli.host import socket_of
from meshagent.cli.local import AgentRefused, NoAgent, ask, config_option

MARGIN_SECONDS = 5.0


@click.group(short_help="One proxy of this host: drain it for its stop.")
def proxy() -> None:
    """One proxy of this host."""


@proxy.command(short_help="Drain an Envoy that is being stopped.")
@click.argument("instance", metavar="PLACEMENT-GENERATION")
@config_option
def stop(instance: str, config: Path) -> None:
    """Drain the Envoy of a unit that is being stopped: `systemctl stop meshagent-envoy@PLACEMENT-GENERATION` runs it before Envoy ends.

    The endpoint leaves the mesh's rotation, its callers are heard to know, then Envoy's listeners drain. With no agent in reach, or where
    it cannot do so, Envoy's listeners drain all the same. It ends nothing itself: stop the unit."""
    from meshagent.agent import drain
    from meshagent.agent.configuration import load

    if "INVOCATION_ID" in os.environ and not os.environ.get("MAINPID"):
        click.echo(f"{instance}: systemd asks, and Envoy has ended already")
        return
    placement, _, generation = instance.rpartition("-")
    if not placement or not generation.isdecimal():
        raise click.UsageError(f"{instance!r} must be PLACEMENT-GENERATION, as in the unit's name")
    settings = load(config)
    directory = settings.state_directory / "proxies" / placement
    if drain.is_retired(directory, int(generation)):
        return  # whoever retired it has drained it
    seconds = drain.HEAR_SECONDS + settings.envoy.drain + MARGIN_SECONDS
    began = time.monotonic()
    try:
        words = ask(socket_of(config), f"/proxies/{instance}/stop", "POST", seconds=seconds)["words"]
    except (NoAgent, AgentRefused) as error:
        click.echo(f"{error}; Envoy's own listeners drain", err=True)
        # An agent that hangs has used up some of the time that the unit has.
        left = seconds - (time.monotonic() - began)
        words = asyncio.run(drain.alone(directory, int(generation), max(left, settings.envoy.drain)))
    click.echo(f"{instance}: {words}")
