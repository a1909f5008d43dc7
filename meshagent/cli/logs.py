"""`meshagent logs`: what the journal holds of one proxy."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshagent.cli.local import config_option
from meshagent.errors import MeshagentError


class NoSuchProxy(MeshagentError):
    """A proxy that this host does not have, or a name that several have."""


@click.command(short_help="Show what a proxy's Envoy and its agent said.")
@click.argument("proxy")
@click.option("-f", "--follow", is_flag=True, help="Go on showing what comes.")
@click.option("--since", default="", metavar="TIME", help="As journalctl takes it, such as 10min or 'today 12:00'.")
@config_option
def logs(proxy: str, follow: bool, since: str, config: Path) -> None:
    """Show what the Envoys of PROXY said, their access logs too, and what the agent said of it. PROXY is an id, a resource
    (mesh/shop/virtualNode/web) or its name (web)."""
    from meshagent.agent.configuration import load
    from meshagent.agent.settings import SYSTEMD

    settings = load(config)
    found = resolve(proxy, resources(settings.state_directory / "proxies"))
    if settings.supervisor == SYSTEMD:
        command = journal(found, follow, since)
    else:
        if since:
            raise click.UsageError("--since needs the journal: on this host the agent runs Envoy itself, into a file")
        command = [
            "tail",
            "-n",
            "+1",
            *(["-F"] if follow else []),
            str(settings.state_directory / "proxies" / found / "envoy.log"),
        ]
    os.execvp(command[0], command)  # noqa: S606


def journal(proxy: str, follow: bool, since: str) -> list[str]:
    """journalctl's command line: Envoy's units and the agent's records both carry the field PROXY."""
    relative = {"s", "sec", "min", "h", "d", "m"}
    when = f"-{since}" if since[:1].isdigit() and since.lstrip("0123456789").strip() in relative else since
    options = [*(["--follow"] if follow else ["--no-pager"]), *([f"--since={when}"] if when else [])]
    return ["journalctl", *options, f"PROXY={proxy}"]


def resources(directory: Path) -> dict[str, str]:
    """The resource of each proxy that has run on this host, by its id."""
    from meshagent.host.supervisor import read_state

    found: dict[str, str] = {}
    if not os.access(directory, os.R_OK | os.X_OK):
        raise NoSuchProxy(f"cannot look into {directory}: this must be root's command, on a host that has an agent")
    for path in sorted(directory.iterdir()):
        state = read_state(path) if path.is_dir() else None
        found[path.name] = state.resource if state else ""
    return found


def resolve(proxy: str, known: dict[str, str]) -> str:
    """The id that is meant. Raises NoSuchProxy."""
    if proxy in known:
        return proxy
    found = [id for id, resource in known.items() if proxy in (resource, resource.rpartition("/")[2])]  # noqa: A001
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{id} ({resource})" for id, resource in known.items()) or "none"  # noqa: A001
    raise NoSuchProxy(
        f"{proxy}: {'several proxies have' if found else 'no proxy of this host has'} that name; there are: {listed}"
    )
