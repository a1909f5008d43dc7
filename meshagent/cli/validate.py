"""`meshctl validate`: everything that can be said of documents without a server."""

from __future__ import annotations

from typing import Any

import click

from meshagent.cli.files import load_paths
from meshagent.cli.rendering import Screen, count, output_option, show
from meshagent.mesh.graph import Mesh
from meshagent.mesh.problems import Problem
from meshagent.specs.documents import Loaded


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--strict", is_flag=True, help="Fail for problems too, not for errors alone.")
@output_option
@click.pass_context
def validate(context: click.Context, paths: tuple[str, ...], output: str, strict: bool) -> None:
    """Check documents: files, directories, or - for standard input.

    Errors are what no document may say, each with file, line and path. Problems are what the documents say about each other that
    cannot work as it stands, such as a backend that is not defined here; another file may define it, so they only warn.
    """
    loaded = load_paths(paths)
    mesh = Mesh.build(loaded.specs)
    show(_answer(loaded, mesh), output, lambda screen: _lines(screen, loaded, mesh))
    if loaded.errors or (strict and mesh.problems):
        context.exit(1)


def _lines(screen: Screen, loaded: Loaded, mesh: Mesh) -> None:
    for error in loaded.errors:
        screen.line(str(error))
    for problem in mesh.problems:
        place = _place(mesh, problem)
        screen.line(f"{place}: warning: {problem}" if place else f"warning: {problem}")
    counted = (
        f"{count(len(loaded.specs), 'resource')} valid",
        count(len(loaded.errors), "error"),
        count(len(mesh.problems), "problem"),
    )
    screen.line(", ".join(counted))


def _answer(loaded: Loaded, mesh: Mesh) -> dict[str, Any]:
    return {
        "valid": [spec.key.path for spec in loaded.specs],
        "errors": [
            {"file": e.file, "line": e.line, "resource": e.resource, "path": e.path, "message": e.message}
            for e in loaded.errors
        ],
        "problems": [
            {"resource": p.resource.path, "path": p.path, "message": p.message, "source": _place(mesh, p)}
            for p in mesh.problems
        ],
    }


def _place(mesh: Mesh, problem: Problem) -> str:
    """Where the document starts whose problem it is."""
    spec = mesh.spec(problem.resource)
    return str(spec.source) if spec is not None else ""
