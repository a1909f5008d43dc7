"""`meshctl get` and `meshctl delete`: what the server has, and taking it away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from meshagent.cli.client import Client, ServerRefused, connected, warn
from meshagent.cli.context import server_options
from meshagent.cli.files import load_paths
from meshagent.cli.rendering import Screen, clean, count, output_option, show, show_documents, span
from meshagent.errors import MeshagentError
from meshagent.specs.keys import Key, Kind

# What holds others goes after them; what is still refused is tried again once others are gone.
_DELETION_ORDER = (
    Kind.VIRTUAL_NODE_POLICY,
    Kind.GATEWAY_ROUTE,
    Kind.VIRTUAL_GATEWAY,
    Kind.VIRTUAL_SERVICE,
    Kind.ROUTE,
    Kind.VIRTUAL_ROUTER,
    Kind.VIRTUAL_NODE,
    Kind.MESH_POLICY,
    Kind.MESH,
)
_IN_USE = 409
_ABSENT = 404


class NothingFound(MeshagentError):
    """What was asked for by name is not there."""


class NotDeleted(MeshagentError):
    """Something needs what was to be deleted, or it is not clear what that is."""


def _kind_named(context: click.Context, parameter: click.Parameter, value: str | None) -> Kind | None:
    """A kind in any spelling: VirtualNode, virtual-node, virtualnodes."""
    if value is None:
        return None
    wanted = value.lower().replace("-", "").replace("_", "")
    for kind in Kind:
        word = kind.value.lower()
        if wanted in (word, f"{word}s", f"{word}es", f"{word.removesuffix('y')}ies"):
            return kind
    raise click.BadParameter(f"{value!r} must be one of {', '.join(kind.value for kind in Kind)}")


@click.command(short_help="List resources, or print them as documents.")
@click.argument("kind", required=False, callback=_kind_named)
@click.argument("name", required=False)
@click.option("--mesh", metavar="MESH", help="Of this mesh only.")
@click.option("--parent", metavar="NAME", help="Routes of this router, gateway routes of this gateway.")
@output_option
@server_options
def get(kind: Kind | None, name: str | None, mesh: str | None, parent: str | None, output: str) -> None:
    """List resources; with -o yaml, as documents that `meshctl apply` takes."""
    asked = {"kind": kind, "name": name, "mesh": mesh, "parent": parent}
    answer = connected().request(
        "GET", "/v1/documents", query={field: value for field, value in asked.items() if value}
    )
    documents = answer["documents"]
    if name and not documents:
        raise NothingFound(f"there is no {kind} {name!r}{f' in mesh {mesh!r}' if mesh else ''}")
    if output == "yaml":
        # Where they were written once is not part of what documents say.
        show_documents([{field: value for field, value in one.items() if field != "source"} for one in documents])
    else:
        show(
            answer,
            output,
            lambda screen: screen.table(["kind", "mesh", "name", "version", "updated"], list(_rows(documents))),
        )


@click.command(short_help="Delete resources, or forget a host.")
@click.argument("path", required=False)
@click.option("--file", "-f", "files", multiple=True, metavar="FILE", help="Delete what these documents define.")
@output_option
@server_options
def delete(path: str | None, files: tuple[str, ...], output: str) -> None:
    """Delete the resource at PATH (mesh/shop/virtualNode/web), forget a host (host/NAME), or delete what FILEs define.

    Refused while another resource needs it, by App Mesh's rules: being a node's backend, and running somewhere, keeps nothing from being
    deleted. What is amiss in the mesh afterwards is warned of.

    A host that is forgotten loses its endpoints and its access to the mesh at once, and nothing is stopped there: drain it before, and
    run `meshagent uninstall` on it.
    """
    if (path is None) == (not files):
        raise click.UsageError("give either a PATH such as mesh/shop/virtualNode/web, or -f FILE")
    if path is not None and path.startswith("host/"):
        _forget(path, output)
        return
    deleted = _delete_path(path) if path is not None else _delete_files(files)

    def lines(screen: Screen) -> None:
        for gone in deleted:
            screen.line(f"deleted {gone}")
        screen.line(f"{count(len(deleted), 'resource')} deleted")

    show({"deleted": deleted}, output, lines)


def _forget(path: str, output: str) -> None:
    answer = connected().request("DELETE", f"/v1/hosts/{quote(path.removeprefix('host/'), safe='')}")

    def lines(screen: Screen) -> None:
        screen.line(f"deleted {path}")
        for one in answer["proxies"]:
            screen.line(f"with its proxy {one['proxy']} of {one['resource']}")
        screen.line("its agent is refused until it joins with another token; what runs on the host goes on there")

    show({"deleted": [path], "proxies": answer["proxies"]}, output, lines)


def _delete_path(path: str) -> list[str]:
    try:
        key = Key.parse(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    deleted, problems = _delete(connected(), key)
    warn(problems)
    return deleted


def _delete_files(files: tuple[str, ...]) -> list[str]:
    loaded = load_paths(files)
    if loaded.errors:
        raise NotDeleted("\n".join(clean(str(error)) for error in loaded.errors))
    client = connected()
    left = sorted((spec.key for spec in loaded.specs), key=lambda key: (_DELETION_ORDER.index(key.kind), key.path))
    problems: dict[str, Sequence[Mapping[str, Any]]] = {}
    try:
        return _delete_in_order(client, left, problems)
    finally:
        for found in problems.values():
            warn(found)


def _delete_in_order(client: Client, left: list[Key], problems: dict[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Round after round, until nothing is left or what is left is needed. `problems` is given, by mesh, what its last deletion left."""
    deleted: list[str] = []
    while left:
        refused: list[tuple[Key, ServerRefused]] = []
        for key in left:
            try:
                gone, problems[key.mesh] = _delete(client, key)
                deleted += gone
            except ServerRefused as error:
                if error.status == _ABSENT:
                    click.echo(f"{key} is not there", err=True)
                elif error.status == _IN_USE:
                    refused.append((key, error))
                else:
                    raise
        if len(refused) == len(left):
            before = f" ({count(len(deleted), 'resource')} deleted before)" if deleted else ""
            words = "\n".join(f"{key} was not deleted: {error}" for key, error in refused)
            raise NotDeleted(words + before)
        left = [key for key, _ in refused]
    return deleted


def _delete(client: Client, key: Key) -> tuple[list[str], Sequence[Mapping[str, Any]]]:
    """The paths of what is gone, and what is amiss in the mesh now."""
    answer = client.request("DELETE", "/v1/documents", query={"path": key.path})
    return list(answer["deleted"]), answer.get("problems", ())


def _rows(documents: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    now = time.time()
    for document in documents:
        kind = Kind(document["kind"])
        metadata = document.get("metadata") or {}
        updated = metadata.get("lastUpdatedAt")
        names = [document[kind.parent.name_field]] if kind.parent else []
        yield [
            kind.value,
            document["meshName"],
            "/".join([*names, document[kind.name_field]]),
            str(metadata.get("version", "")),
            f"{span(now - updated)} ago" if isinstance(updated, int | float) else "",
        ]
