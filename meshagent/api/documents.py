"""/v1/apply and /v1/documents: whole sets of documents at once, what App Mesh has no word for (docs/operator-api.md).

What a change would do to proxies is asked of `preview`, which the control plane gives; nothing is compiled here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from meshagent.api import shapes
from meshagent.api.changes import Change, ChangeKind, Record
from meshagent.api.configuration import Configuration
from meshagent.api.errors import BadRequestException, Fault
from meshagent.api.requests import answering, body_of, caller_of, refused, region_of
from meshagent.mesh.graph import Mesh
from meshagent.specs.documents import document, merge, parse_document
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Source, Spec

Preview = Callable[[Sequence[Change]], Sequence[Mapping[str, Any]] | Awaitable[Sequence[Mapping[str, Any]]]]


def no_preview(changes: Sequence[Change]) -> Sequence[Mapping[str, Any]]:
    return ()


class Documents:
    def __init__(self, configuration: Configuration, preview: Preview) -> None:
        self._configuration = configuration
        self._preview = preview

    async def apply(self, request: Request) -> Any:
        body = await body_of(request)
        specs, dry_run = _parsed(body)
        written = await self._configuration.apply(specs, caller_of(request), dry_run)
        effective = [change for change in written.changes if change.kind is not ChangeKind.NONE]
        return {
            "revision": written.revision,
            "changes": [_change(change) for change in written.changes],
            "proxies": list(await self._previewed(effective)) if dry_run and effective else [],
            "problems": _problems(written.records, written.changes),
        }

    async def _previewed(self, changes: Sequence[Change]) -> Sequence[Mapping[str, Any]]:
        found = self._preview(changes)
        return await found if inspect.isawaitable(found) else found

    async def list(self, request: Request) -> Any:
        query = request.query_params
        if unknown := sorted(set(query) - {"mesh", "kind", "name", "parent"}):
            raise BadRequestException(f"unknown parameter {unknown[0]}: mesh, kind, name and parent choose documents")
        kind = _kind(query["kind"]) if query.get("kind") else None
        records, revision = await self._configuration.records()
        chosen = [
            record
            for key, record in sorted(records.items(), key=lambda item: item[0].path)
            if kind in (None, key.kind)
            and all(query.get(field) in (None, "", getattr(key, field)) for field in ("mesh", "name", "parent"))
        ]
        region = region_of(request)
        return {"revision": revision, "documents": [_document(record, region) for record in chosen]}

    async def delete(self, request: Request) -> Any:
        try:
            key = Key.parse(request.query_params.get("path", ""))
        except ValueError as error:
            raise BadRequestException(f"path: {error}") from error
        _, written = await self._configuration.delete(key, caller_of(request))
        return {
            "revision": written.revision,
            "deleted": [change.key.path for change in written.changes],
            "problems": _problems(written.records, written.changes),
        }


def _parsed(body: Mapping[str, Any]) -> tuple[tuple[Spec, ...], bool]:
    """The specs of all documents, or all errors of all documents in one BadRequestException."""
    if unknown := sorted(set(body) - {"documents", "dryRun"}):
        raise BadRequestException(f"unknown field {unknown[0]!r}: the body has documents and dryRun")
    documents, dry_run = body.get("documents"), body.get("dryRun", False)
    if not isinstance(documents, list) or not documents:
        raise BadRequestException("documents must be a list of at least one document")
    if not isinstance(dry_run, bool):
        raise BadRequestException("dryRun must be true or false")
    faults = [
        Fault("", f"documents[{number}]", "must be an object with kind, names and spec, its source with file and line")
        for number, given in enumerate(documents)
        if not isinstance(given, dict) or _source(given) is None
    ]
    if faults:
        raise BadRequestException.of(faults)
    loaded = merge(
        parse_document(
            {field: value for field, value in given.items() if field != "source"}, _source(given) or Source()
        )
        for given in documents
    )
    if loaded.errors:
        raise refused(loaded.errors)
    return loaded.specs, dry_run


def _source(given: Mapping[str, Any]) -> Source | None:
    """Where the caller says that a document was written; None for what does not say it rightly."""
    match given.get("source"):
        case None:
            return Source()
        case {"file": str() as file, **rest} if set(rest) <= {"line"}:
            line = rest.get("line") or 0
            return Source(file, line) if isinstance(line, int) and line >= 0 else None
    return None


def _kind(word: str) -> Kind:
    """VirtualNode, virtualNode or virtualnode."""
    for kind in Kind:
        if kind.value.lower() == word.lower():
            return kind
    raise BadRequestException(f"unknown kind {word[:40]!r}: it is one of {', '.join(kind.value for kind in Kind)}")


def _change(change: Change) -> dict[str, Any]:
    return {
        "resource": change.key.path,
        "change": change.kind.value,
        "before": change.before.body.wire() if change.before else None,
        "after": change.after.body.wire() if change.after else None,
    }


def _document(record: Record, region: str) -> dict[str, Any]:
    shown = {**document(record.spec), "metadata": shapes.metadata(record, region)}
    source = record.spec.source
    return {**shown, "source": {"file": source.file, "line": source.line}} if source.file else shown


def _problems(records: Mapping[Key, Record], changes: Iterable[Change]) -> list[dict[str, str]]:
    """What is amiss in the meshes that were written to, as they would be: dangling references above all."""
    meshes = {change.key.mesh for change in changes}
    specs = {key: record.spec for key, record in records.items() if key.mesh in meshes}
    specs |= {change.key: change.after for change in changes if change.after is not None}
    problems = Mesh.build(specs.values()).problems
    return [{"resource": found.resource.path, "path": found.path, "message": found.message} for found in problems]


def routes(configuration: Configuration, *, preview: Preview = no_preview) -> list[Route]:
    documents = Documents(configuration, preview)
    return [
        Route("/v1/apply", answering(documents.apply), methods=["POST"]),
        Route("/v1/documents", answering(documents.list), methods=["GET"]),
        Route("/v1/documents", answering(documents.delete), methods=["DELETE"]),
    ]
