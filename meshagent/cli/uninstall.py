"""`meshagent uninstall`: the agent and all it made on this host, gone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshagent.cli.local import config_option
from meshagent.errors import MeshagentError


@click.command(short_help="Drain and stop every proxy, and take away what the agent made on this host.")
@click.option(
    "--purge",
    is_flag=True,
    help="With the host's identity, its proxies' state, Envoy's versions and the configuration.",
)
@config_option
def uninstall(purge: bool, config: Path) -> None:
    """Drain and stop every proxy of this host, stop the agent, and take away what it made: units, users, names in /etc/hosts, nftables.

    Without --purge, the state stays: an agent that is installed again goes on as the same host. The software stays: it is what runs."""
    from meshagent.agent.configuration import load, parse
    from meshagent.agent.settings import completed
    from meshagent.agent.uninstall import UninstallError
    from meshagent.agent.uninstall import uninstall as take_away
    from meshagent.host.processes import is_systemd_host

    if os.geteuid() != 0:
        raise UninstallError("only root may uninstall: run it with sudo")
    try:
        settings = load(config)
    except MeshagentError as error:
        # Without a configuration that can be read, all is where it is by default.
        click.echo(str(error), err=True)
        settings = completed(parse("placements: []", str(config)), is_systemd_host())
    take_away(settings, config, purge, click.echo)
