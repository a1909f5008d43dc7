"""`meshctl apply` and `meshctl diff`: documents to the server, all of them or none, and what that would change.

Documents are checked here first, so that what is wrong with them is said with file and line, and without a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from meshagent.cli import differences
from meshagent.cli.client import connected, warn
from meshagent.cli.context import server_options
from meshagent.cli.files import load_paths
from meshagent.cli.rendering import Screen, clean, count, output_option, show
from meshagent.errors import MeshagentError
from meshagent.specs.documents import document

# A change's word once it was made, and in what order they are counted.
_DONE = {"create": "created", "update": "updated", "delete": "deleted", "none": "unchanged"}


class NoDocuments(MeshagentError):
    """The files that were named define nothing."""


@click.command(short_help="Make the mesh what documents say.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@output_option
@server_options
@click.pass_context
def apply(context: click.Context, paths: tuple[str, ...], dry_run: bool, output: str) -> None:
    """Make the mesh what documents say: files, directories, or - for standard input.

    All of it happens at once, or, when anything is refused, nothing.
    """
    answer = _post(context, paths, dry_run)

    def lines(screen: Screen) -> None:
        rows = [[c["change"], c["resource"]] for c in answer["changes"] if c["change"] != "none"]
        if rows:
            screen.table(["change", "resource"], rows)
        screen.line(_summary(answer, dry_run))

    show(answer, output, lines)
    warn(answer["problems"])


@click.command(short_help="Show what applying documents would change.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--full", is_flag=True, help="Everything, also the bodies of added and removed Envoy resources.")
@output_option
@server_options
@click.pass_context
def diff(context: click.Context, paths: tuple[str, ...], full: bool, output: str) -> None:
    """Show what applying documents would change: the resources, and each proxy's Envoy configuration."""
    answer = _post(context, paths, dry_run=True)

    def lines(screen: Screen) -> None:
        differences.of_resources(screen, answer["changes"])
        differences.of_proxies(screen, answer["proxies"], full)
        screen.line(_summary(answer, dry_run=True))

    show(answer, output, lines)
    warn(answer["problems"])


def _post(context: click.Context, paths: Sequence[str], dry_run: bool) -> dict[str, Any]:
    loaded = load_paths(paths)
    if loaded.errors:
        for error in loaded.errors:
            click.echo(clean(str(error)), err=True)
        click.echo(f"meshctl: {count(len(loaded.errors), 'error')}, nothing was sent to the server", err=True)
        context.exit(1)
    if not loaded.specs:
        raise NoDocuments(f"no documents in {', '.join(paths)}")
    documents = [
        {**document(spec), "source": {"file": spec.source.file, "line": spec.source.line}} for spec in loaded.specs
    ]
    answer: dict[str, Any] = connected().request("POST", "/v1/apply", {"documents": documents, "dryRun": dry_run})
    return answer


def _summary(answer: Mapping[str, Any], dry_run: bool) -> str:
    counted = Counter(change["change"] for change in answer["changes"])
    words = (
        ", ".join(f"{counted[change]} {done}" for change, done in _DONE.items() if counted[change]) or "nothing to do"
    )
    if dry_run:
        proxies = len({change["proxy"] for change in answer["proxies"]})
        return f"would be: {words}; {count(proxies, 'proxy', 'proxies')} would change"
    return f"{words}; revision {answer['revision']}"
