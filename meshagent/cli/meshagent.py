"""meshagent: the daemons' command line. This is only its table of commands."""

from __future__ import annotations

import click

from meshagent.cli.lazy import CONTEXT, LazyCommands, Target

COMMANDS = {
    "server": Target("meshagent.cli.serve:server", "server"),
    "agent": Target("meshagent.cli.agent:agent", "agent"),
    "envoy": Target("meshagent.cli.agent:envoy", "agent"),
    "status": Target("meshagent.cli.host:status", "agent"),
    "proxy": Target("meshagent.cli.proxy:proxy", "agent"),
    "doctor": Target("meshagent.cli.doctor:doctor", "agent"),
    "intercept": Target("meshagent.cli.intercept:intercept", "agent"),
    "uninstall": Target("meshagent.cli.uninstall:uninstall", "agent"),
    "logs": Target("meshagent.cli.logs:logs", "agent"),
    "lab": Target("meshagent.cli.lab:lab", "agent"),
}


@click.group("meshagent", cls=LazyCommands, targets=COMMANDS, context_settings=CONTEXT)
@click.version_option(package_name="meshagent", prog_name="meshagent")
def meshagent() -> None:
    """Run the mesh: its control plane, and the daemon on every host."""


def main() -> None:
    meshagent(prog_name="meshagent")


if __name__ == "__main__":
    main()
