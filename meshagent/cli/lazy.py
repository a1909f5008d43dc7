"""A click group whose commands are imported one by one, when they are called or listed, and how errors reach the terminal.

An agent must never load the control plane, and `meshctl validate` starts without what the others need. What is wrong with input or the
environment comes as a MeshagentError and is printed as one line with exit status 1; a wrong command line ends with 2; anything else is
a defect and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any

import click

from meshagent.errors import MeshagentError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@dataclass(frozen=True)
class Target:
    """Where a command is, as "module:attribute", and the extra that installs what it imports."""

    path: str
    extra: str


class Refused(click.ClickException):
    """A MeshagentError on its way to the terminal."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self._program = program

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self._program}: {self.message}", file=file, err=file is None)


class LazyCommands(click.Group):
    def __init__(self, *args: Any, targets: Mapping[str, Target], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.path.partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "meshagent":
                raise
            return self._missing(cmd_name, error.name, target.extra)
        assert isinstance(command, click.Command), f"{target} is not a click command"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MeshagentError as error:
            raise Refused(self.name or "", str(error)) from error

    def _missing(self, name: str, module: str, extra: str) -> click.Command:
        """Stands in for a command whose libraries are not installed, so that the list of commands can still be shown."""
        remedy = f"needs {module}: pip install 'meshagent[{extra}]'"

        def refuse() -> None:
            raise Refused(self.name or "", f"{name} {remedy}")

        any_arguments = {"ignore_unknown_options": True, "allow_extra_args": True}
        return click.Command(name, callback=refuse, short_help=f"({remedy})", context_settings=any_arguments)
