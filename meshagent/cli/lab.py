"""`meshagent lab`: real systemd hosts on this machine, for tests and for trying things out.

Only words and tables: what is done is meshagent.lab's. Needs nothing but the standard library and click.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from meshagent.lab import Lab

DEFAULT_STATE = Path("/var/lib/meshagent-lab")
DEFAULT_CACHE = Path("/var/cache/meshagent-lab")
_COLUMNS = ("name", "address", "state", "pid", "boot_id", "cut_off_from")

_NAME = click.option("--name", default="lab", show_default=True, help="Which lab.")
_STATE = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Where labs and their hosts' disks are kept.",
)


def _lab(name: str, directory: Path, cache: Path = DEFAULT_CACHE, mirror: str = "") -> Lab:
    """The lab of that name, on a machine that can have one."""
    from meshagent.lab import Lab, Places, machine

    machine.check()
    return Lab(name, Places(directory, cache, mirror), say=lambda words: click.echo(words, err=True))


@click.group(short_help="Real systemd hosts on this machine (root only).")
def lab() -> None:
    """Real systemd hosts on this machine, in network namespaces. Root only.

    Each has an address, a disk that outlives its reboots, sshd and a journal."""


@lab.command(short_help="Bring a lab up, or complete it.")
@_NAME
@click.option(
    "--hosts", type=click.IntRange(1, 99), help="How many hosts, h1 to hN.  [default: 3, or as many as there are]"
)
@click.option("--network", metavar="10.X.Y.0/24", help="The lab's network.  [default: one that is free]")
@click.option(
    "--package", "packages", multiple=True, metavar="DEB", help="A Debian package that hosts have, too. Repeatable."
)
@click.option(
    "--mirror", default="", metavar="URL", help="Where Debian comes from.  [default: where this machine has it from]"
)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE, show_default=True)
@_STATE
def up(
    name: str,
    hosts: int | None,
    network: str | None,
    packages: tuple[str, ...],
    mirror: str,
    cache: Path,
    directory: Path,
) -> None:
    """Bring a lab up, and wait until every host runs. What is there already stays as it is; hosts that are off are started."""
    _lab(name, directory, cache, mirror).up(hosts, network, packages)


@lab.command(short_help="Say whether this machine can have a lab.")
@click.option("--install", is_flag=True, help="Install the programs that a lab needs, where they are missing.")
def check(install: bool) -> None:
    """Say whether this machine can have a lab, or what is missing."""
    from meshagent.lab import machine

    if install:
        machine.install_programs(lambda words: click.echo(words, err=True))
    machine.check()
    click.echo("this machine can have labs", err=True)


@lab.command(short_help="Remove a lab, its hosts and their disks.")
@_NAME
@_STATE
def down(name: str, directory: Path) -> None:
    """Remove a lab: its hosts, their disks, its network, and whatever a lab of this name that was killed left behind."""
    removed = _lab(name, directory).down()
    click.echo(f"lab {name} is gone" if removed else f"there was no lab {name}", err=True)


@lab.command("list", short_help="Show hosts and their states.")
@click.option("--name", help="Only this lab.")
@click.option("--output", "-o", type=click.Choice(("table", "json")), default="table", show_default=True)
@_STATE
def list_(name: str | None, output: str, directory: Path) -> None:
    """Show the hosts of all labs."""
    from meshagent.lab import Places, labs, machine

    machine.check()
    names = [name] if name else labs(Places(directory))
    rows = [{"lab": each, **status.row()} for each in names for status in _lab(each, directory).status()]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("LAB", *(column.upper().replace("_", " ") for column in _COLUMNS))]
    table += [tuple(_cell(row[column]) for column in ("lab", *_COLUMNS)) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@lab.command(
    "exec",
    short_help="Run a command in a host.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_NAME
@_STATE
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(name: str, directory: Path, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in HOST, without ssh. Its exit status is this command's."""
    words = _lab(name, directory).host(host).command(_bare(command))
    _become(words)


@lab.command(
    short_help="Log in to a host over ssh, or run a command so.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_NAME
@_STATE
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, directory: Path, host: str, command: tuple[str, ...]) -> None:
    """Log in to HOST as root over ssh, or run COMMAND there."""
    _become([*_lab(name, directory).ssh(host), *_bare(command)])


@lab.command(short_help="Reboot hosts and wait until they run.")
@_NAME
@_STATE
@click.option("--hard", is_flag=True, help="Cut the power instead of shutting down.")
@click.option(
    "--legacy",
    is_flag=True,
    help="With --hard: boot with cgroup version 1, as older systems do, until the next --hard. "
    "Where the machine's memory controller is version 1's, only such hosts limit memory.",
)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
def reboot(name: str, directory: Path, hard: bool, legacy: bool, hosts: tuple[str, ...]) -> None:
    """Reboot each HOST, one after the other, on the disk that it has."""
    if legacy and not hard:
        raise click.UsageError("--legacy goes with --hard: a host keeps its cgroups' version until its power is cut")
    there = _lab(name, directory)
    for host in [there.host(each) for each in hosts]:
        host.reboot(hard=hard, legacy=legacy)
        click.echo(f"{host.name}  {host.address}  rebooted: boot {host.boot_id}", err=True)


@lab.command(short_help="Cut hosts off from others.")
@_NAME
@_STATE
@click.option(
    "--from", "others", multiple=True, metavar="HOST", help="From this host. Repeatable.  [default: from all others]"
)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
def partition(name: str, directory: Path, others: tuple[str, ...], hosts: tuple[str, ...]) -> None:
    """Cut each HOST off from the other hosts, both ways. Hosts on the same side still hear each other; this machine hears all."""
    _say_cuts(_lab(name, directory).partition(hosts, others))


@lab.command(short_help="Undo cuts.")
@_NAME
@_STATE
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
def heal(name: str, directory: Path, hosts: tuple[str, ...]) -> None:
    """Undo all cuts, or those of each HOST."""
    _say_cuts(_lab(name, directory).heal(hosts))


def _say_cuts(cuts: frozenset[tuple[str, str]]) -> None:
    click.echo("cut: " + ", ".join(f"{a}-{b}" for a, b in sorted(cuts)) if cuts else "nothing is cut", err=True)


def _cell(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else "" if value is None else str(value)


def _bare(command: tuple[str, ...]) -> tuple[str, ...]:
    """Without the `--` that people put between a command line's own words and those of the command that it runs."""
    return command[1:] if command[:1] == ("--",) else command


def _become(words: list[str] | tuple[str, ...]) -> None:
    """Goes on as that program: terminal, signals and exit status are its own."""
    sys.stdout.flush()
    os.execvp(words[0], list(words))  # noqa: S606
