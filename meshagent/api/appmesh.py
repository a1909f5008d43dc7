"""App Mesh's REST operations: create, describe, update, delete and list of its seven kinds, under /v20190125.

Paths are matched as they came over the wire, since a name may hold a slash (a%2Fb). What is valid is the specs' matter, what may be
written the configuration's.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from meshagent.api.configuration import Configuration
from meshagent.api.errors import BadRequestException, Fault, NotFoundException, UnknownOperationException
from meshagent.api.pages import page
from meshagent.api.requests import answering, body_of, caller_of, region_of, segments_of
from meshagent.api.shapes import reference, resource
from meshagent.specs.documents import parse_document
from meshagent.specs.keys import Key, Kind, mesh_key
from meshagent.specs.naming import names_of
from meshagent.specs.spec import Source, Spec

PREFIX = "/v20190125/"

# The words of paths and of lists. The nested two name their parent in the singular, unlike the parent's own collection.
_COLLECTIONS: Mapping[str, Kind] = {
    "virtualNodes": Kind.VIRTUAL_NODE,
    "virtualRouters": Kind.VIRTUAL_ROUTER,
    "virtualServices": Kind.VIRTUAL_SERVICE,
    "virtualGateways": Kind.VIRTUAL_GATEWAY,
}
_NESTED: Mapping[tuple[str, str], Kind] = {
    ("virtualRouter", "routes"): Kind.ROUTE,
    ("virtualGateway", "gatewayRoutes"): Kind.GATEWAY_ROUTE,
}
_LIST_FIELDS: Mapping[Kind, str] = {
    Kind.MESH: "meshes",
    **{kind: word for word, kind in _COLLECTIONS.items()},
    **{kind: word for (_, word), kind in _NESTED.items()},
}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,36}")


@dataclass(frozen=True)
class Address:
    """What a path names: a collection where `name` is None, else an item of it."""

    kind: Kind
    mesh: str = ""
    parent: str | None = None
    name: str | None = None

    def key(self, name: str) -> Key:
        return Key(self.mesh or name, self.kind, name, self.parent)

    @property
    def within(self) -> Key | None:
        """What must be there for the collection to be there: the mesh, the router, the gateway."""
        return self.key("-").parent_key if self.kind is not Kind.MESH else None


def address(segments: tuple[str, ...]) -> Address | None:
    """The address of a path's segments after PREFIX, None for a path that App Mesh does not have."""
    match segments:
        case ("meshes",):
            return Address(Kind.MESH)
        case ("meshes", mesh):
            return Address(Kind.MESH, mesh, None, mesh)
        case ("meshes", mesh, word, *name) if word in _COLLECTIONS and len(name) <= 1:
            return Address(_COLLECTIONS[word], mesh, None, *name)
        case ("meshes", mesh, above, parent, word, *name) if (above, word) in _NESTED and len(name) <= 1:
            return Address(_NESTED[above, word], mesh, parent, *name)
    return None


class AppMesh:
    def __init__(self, configuration: Configuration, account: str) -> None:
        self._configuration = configuration
        self._account = account
        self._operations: Mapping[tuple[str, bool], Callable[[Request, Address], Awaitable[Any]]] = {
            ("PUT", False): self._create,
            ("PUT", True): self._update,
            ("GET", False): self._list,
            ("GET", True): self._describe,
            ("DELETE", True): self._delete,
        }

    async def call(self, request: Request) -> Any:
        segments = segments_of(request, PREFIX)
        found = address(segments)
        operation = self._operations.get((request.method, found.name is not None)) if found else None
        if found is None or operation is None:
            tags = ": tags are taken when a resource is created" if segments[0] in ("tags", "tag", "untag") else ""
            raise UnknownOperationException(f"{request.method} {'/'.join(segments)} is no operation here{tags}")
        self._check_owner(request, found)
        return await operation(request, found)

    def _check_owner(self, request: Request, found: Address) -> None:
        owner = request.query_params.get("meshOwner")
        if owner is not None and owner != self._account and found.mesh:
            raise NotFoundException(f"account {owner} shares no {mesh_key(found.mesh)} with account {self._account}")

    async def _create(self, request: Request, found: Address) -> Any:
        body = await body_of(request)
        name = body.get(found.kind.name_field)
        if not isinstance(name, str) or not name:
            fault = Fault("", found.kind.name_field, "is required, and is a string of 1 to 255 characters")
            raise BadRequestException.of([fault])
        key = found.key(name)
        spec = _spec(key, body, {"spec", "tags", "clientToken"})
        tags = tuple((tag["key"], tag.get("value") or "") for tag in body.get("tags") or ())
        record = await self._configuration.create(spec, caller_of(request), tags, body.get("clientToken") or "")
        return resource(record, region_of(request))

    async def _update(self, request: Request, found: Address) -> Any:
        body = await body_of(request)
        spec = _spec(found.key(found.name or ""), body, {"spec", "clientToken"})
        record = await self._configuration.update(spec, caller_of(request), body.get("clientToken") or "")
        return resource(record, region_of(request))

    async def _describe(self, request: Request, found: Address) -> Any:
        return resource(await self._configuration.record(found.key(found.name or "")), region_of(request))

    async def _delete(self, request: Request, found: Address) -> Any:
        record, _ = await self._configuration.delete(found.key(found.name or ""), caller_of(request))
        return resource(record, region_of(request), "DELETED")

    async def _list(self, request: Request, found: Address) -> Any:
        records, _ = await self._configuration.records()
        if found.within is not None and found.within not in records:
            raise NotFoundException(f"{found.within} does not exist")
        items = {
            key.name: record
            for key, record in records.items()
            if key.kind is found.kind and key.parent == found.parent and found.mesh in ("", key.mesh)
        }
        query = request.query_params
        collection = f"{found.within or ''}/{found.kind}"
        shown, following = page(items, collection, query.get("limit"), query.get("nextToken"))
        answer: dict[str, Any] = {_LIST_FIELDS[found.kind]: [reference(record, region_of(request)) for record in shown]}
        return answer if following is None else {**answer, "nextToken": following}


def _spec(key: Key, body: Mapping[str, Any], fields: set[str]) -> Spec:
    """The spec of a create or update call. The key's names may stand in the body too, where they say the same."""
    names = names_of(key)
    faults = []
    for field, value in body.items():
        if field in names and value != names[field]:
            faults.append(Fault(key.path, field, f'the path says "{names[field]}": leave it out of the body'))
        elif field not in names and field not in fields:
            faults.append(Fault(key.path, field, f"unknown field: this call takes {', '.join(sorted(fields))}"))
    token = body.get("clientToken")
    if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        faults.append(Fault(key.path, "clientToken", "must be up to 36 letters, digits, - and _"))
    given = {field: body[field] for field in ("spec", "tags") if field in body}
    loaded = parse_document({"kind": key.kind.value, **names, **given}, Source())
    faults += [Fault(error.resource, error.path, error.message) for error in loaded.errors]
    if faults:
        raise BadRequestException.of(faults)
    return loaded.specs[0]


def routes(configuration: Configuration, *, account: str = "0" * 12) -> list[Route]:
    """One route for all: Starlette matches decoded paths, in which a name's slash is lost."""
    methods = ["GET", "PUT", "POST", "DELETE", "PATCH"]
    return [Route(PREFIX + "{rest:path}", answering(AppMesh(configuration, account).call), methods=methods)]
