"""`meshagent intercept`: whether a host that has all its calls intercepted is still in reach, as its operator says."""

from __future__ import annotations

from pathlib import Path

import click

from meshagent.cli.host import socket_of
from meshagent.cli.local import ask, config_option
from meshagent.cli.rendering import output_option, show


@click.group(short_help="Keep the mode intercept, or try it once more.")
def intercept() -> None:
    """The mode intercept goes off by itself after two minutes, unless somebody who still reaches the host says that it is well."""


@intercept.command(short_help="Keep interception: the host is in reach.")
@config_option
@output_option
def confirm(config: Path, output: str) -> None:
    """Keep what is on trial."""
    answer = ask(socket_of(config), "/intercept/confirm", "POST")
    show(answer, output, lambda screen: screen.line("interception stays, over reboots, too"))


@intercept.command("try", short_help="Begin anew what was rolled back.")
@config_option
@output_option
def try_(config: Path, output: str) -> None:
    """Intercept for two minutes more, after nobody had confirmed it in time."""
    answer = ask(socket_of(config), "/intercept/try", "POST")
    show(
        answer,
        output,
        lambda screen: screen.line("intercepting for two minutes: `meshagent intercept confirm` keeps it"),
    )
