"""Which server meshctl talks to: options, environment, or a context in a file, in this order, for each of the three alone.

    MESHCTL_SERVER, MESHCTL_CA, MESHCTL_ACCESS_KEY
    ~/.config/meshctl/context.yaml        (or $XDG_CONFIG_HOME/meshctl, or MESHCTL_CONTEXT_FILE)

The options stand before the command or after it; after it they win. This module is imported for every command, also those that need no
server: it must stay light.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from meshagent.cli.rendering import output_option, show
from meshagent.errors import MeshagentError

F = TypeVar("F")

_META = "meshctl.connection"
_FILE_MODE = 0o600
# The setting's name in the context file, its option's help, and the environment variable that stands for it.
_SETTINGS = {
    "server": ("URL", "The server's API, such as https://10.0.0.1:9443.", "MESHCTL_SERVER"),
    "ca": ("FILE", "The roots by which the server is known (admin/ca.pem of its data directory).", "MESHCTL_CA"),
    "access_key": (
        "FILE",
        "The access key (admin/access-key.json of the server's data directory).",
        "MESHCTL_ACCESS_KEY",
    ),
}


class ContextError(MeshagentError):
    """It is not said which server to talk to, or the context file cannot be read."""


@dataclass(frozen=True)
class Connection:
    server: str
    ca: Path
    access_key: Path


def server_options(command: F) -> F:
    """--server, --ca and --access-key for a command or for the group above it."""
    for name, (metavar, text, variable) in reversed(_SETTINGS.items()):
        option = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar=metavar,
            help=f"{text} [{variable}]",
            expose_value=False,
            callback=_remember,
        )
        command = option(command)  # type: ignore[type-var]
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta.setdefault(_META, {})[parameter.name] = value


def given(context: click.Context) -> Mapping[str, str]:
    """What was said by options, by setting."""
    found: Mapping[str, str] = context.meta.get(_META, {})
    return found


def connection(context: click.Context, environment: Mapping[str, str] = os.environ) -> Connection:
    """The three settings, from wherever they are said first. ContextError names those that are said nowhere."""
    options = given(context)
    current: Mapping[str, str] | None = None
    found: dict[str, str] = {}
    for name, (_, _, variable) in _SETTINGS.items():
        value = options.get(name) or environment.get(variable)
        if not value:
            if current is None:
                current = _current(_read(context_file(environment)))
            value = current.get(name)
        if value:
            found[name] = value
    missing = [name for name in _SETTINGS if name not in found]
    if missing:
        words = ", ".join(f"--{name.replace('_', '-')} (or {_SETTINGS[name][2]})" for name in missing)
        raise ContextError(f"which server? give {words}, or keep all three by `meshctl context set`")
    return Connection(found["server"], Path(found["ca"]), Path(found["access_key"]))


def context_file(environment: Mapping[str, str] = os.environ) -> Path:
    if named := environment.get("MESHCTL_CONTEXT_FILE"):
        return Path(named)
    configuration = environment.get("XDG_CONFIG_HOME")
    return (Path(configuration) if configuration else Path.home() / ".config") / "meshctl" / "context.yaml"


@click.group(short_help="Remember servers by name.")
def context() -> None:
    """Remember servers by name, so that options need not be repeated."""


@context.command("set", short_help="Remember a server by name.")
@click.argument("name", default="default")
@server_options
@click.pass_context
def set_(context: click.Context, name: str) -> None:
    """Remember the server given by options, or by the environment where nothing is remembered yet, as NAME (default: `default`); or change
    what is remembered. It is used if there is no other."""
    path = context_file()
    kept = _read(path)
    contexts: dict[str, dict[str, str]] = kept.setdefault("contexts", {})
    before = contexts.get(name, {})
    after = {
        **before,
        **{
            key: value if key == "server" else str(Path(value).absolute())
            for key, value in _said(context, before).items()
        },
    }
    missing = [f"--{key.replace('_', '-')}" for key in _SETTINGS if key not in after]
    if missing:
        raise click.UsageError(f"a context needs {', '.join(missing)} too")
    contexts[name] = after
    kept.setdefault("current", name)
    _write(path, kept)
    click.echo(f"context {name}: {after['server']}{' (current)' if kept['current'] == name else ''}")


def _said(context: click.Context, before: Mapping[str, str]) -> Mapping[str, str]:
    """By options; of what was not remembered before, by the environment, too."""
    new = {key: os.environ.get(variable, "") for key, (_, _, variable) in _SETTINGS.items() if key not in before}
    return {**{key: value for key, value in new.items() if value}, **given(context)}


@context.command("use")
@click.argument("name")
def use(name: str) -> None:
    """Use this context from now on."""
    path = context_file()
    kept = _read(path)
    if name not in kept.get("contexts", {}):
        raise ContextError(
            f"there is no context {name!r} in {path}; there are: {', '.join(kept.get('contexts', {})) or 'none'}"
        )
    kept["current"] = name
    _write(path, kept)
    click.echo(f"context {name}: {kept['contexts'][name]['server']} (current)")


@context.command("show")
@output_option
def show_(output: str) -> None:
    """Show the contexts that are remembered."""
    kept = _read(context_file())
    current = kept.get("current")
    contexts = kept.get("contexts", {})

    def lines(screen: Any) -> None:
        rows = [["*" if name == current else "", name, *(c[key] for key in _SETTINGS)] for name, c in contexts.items()]
        screen.table(["", "name", "server", "ca", "access key"], rows)

    show({"current": current, "contexts": contexts}, output, lines)


def _current(kept: dict[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = kept.get("contexts", {}).get(kept.get("current"), {})
    return found


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        kept = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ContextError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if kept is None:
        return {}
    contexts = kept.get("contexts", {}) if isinstance(kept, dict) else None
    if not isinstance(contexts, dict) or not all(
        isinstance(fields, dict) and set(fields) == set(_SETTINGS) and all(isinstance(v, str) for v in fields.values())
        for fields in contexts.values()
    ):
        raise ContextError(f"{path}: must hold `current` and `contexts`, each with {', '.join(_SETTINGS)}")
    return dict(kept)


def _write(path: Path, kept: dict[str, Any]) -> None:
    import yaml

    from meshagent.host.files import FileError, write_durably

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError("make the directory", path.parent, error) from error
    write_durably(path, yaml.safe_dump(kept, sort_keys=False), _FILE_MODE)
