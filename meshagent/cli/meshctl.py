"""meshctl: the operator's command line. This is only its table of commands."""

from __future__ import annotations

import click

from meshagent.cli.context import server_options
from meshagent.cli.lazy import CONTEXT, LazyCommands, Target

COMMANDS = {
    name: Target(f"meshagent.cli.{path}", "server")
    for name, path in {
        "validate": "validate:validate",
        "compile": "compile:compile_",
        "apply": "apply:apply",
        "diff": "apply:diff",
        "get": "get:get",
        "delete": "get:delete",
        "status": "status:status",
        "endpoints": "status:endpoints",
        "hosts": "status:hosts",
        "drain": "drain:drain",
        "undrain": "drain:undrain",
        "envoy": "envoy:envoy",
        "token": "token:token",
        "accept": "status:accept",
        "context": "context:context",
    }.items()
}


@click.group("meshctl", cls=LazyCommands, targets=COMMANDS, context_settings=CONTEXT)
@server_options
@click.version_option(package_name="meshagent", prog_name="meshctl")
def meshctl() -> None:
    """Say what the mesh is to be, and see what it is."""


def main() -> None:
    meshctl(prog_name="meshctl")


if __name__ == "__main__":
    main()
