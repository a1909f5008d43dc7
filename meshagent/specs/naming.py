"""Which resource a document defines: by its `kind`, or, in the form that `aws appmesh ... --cli-input-json` takes, by its names.

Either way the same fields stand around `spec`: the names, and what App Mesh's calls carry along (tags, meshOwner, clientToken) or
answer with (metadata, status), which are checked for their form and otherwise left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from meshagent.specs.fields import Model, Str
from meshagent.specs.keys import APP_MESH_KINDS, Key, Kind
from meshagent.specs.tree import Flaw, Node, Path, show
from meshagent.specs.words import did_you_mean, explain

# A bare document names its own resource and what holds it, so that these, looked through in order, tell its kind: the name of a
# router counts only where no route is named.
_BARE_KINDS = (
    Kind.ROUTE,
    Kind.GATEWAY_ROUTE,
    Kind.VIRTUAL_NODE,
    Kind.VIRTUAL_SERVICE,
    Kind.VIRTUAL_ROUTER,
    Kind.VIRTUAL_GATEWAY,
)
_NO_SPEC_NEEDED = frozenset({Kind.MESH})


class _Tag(Model):
    key: Annotated[str, Field(strict=True, min_length=1, max_length=128)]
    value: Annotated[str, Field(strict=True, max_length=256)] | None = None


class _Around(Model):
    """What may stand beside kind, names and spec."""

    tags: Annotated[tuple[_Tag, ...] | None, Field(max_length=50)] = None
    mesh_owner: Annotated[str | None, Field(strict=True, min_length=12, max_length=12)] = None
    client_token: Str | None = None
    metadata: dict[str, Any] | None = None
    status: dict[str, Any] | None = None


_AROUND = frozenset(field.alias or name for name, field in _Around.model_fields.items())
_LONGEST_NAME = 255
_LONGEST = {Kind.VIRTUAL_SERVICE.name_field: 1024}  # App Mesh sets no limit to a virtual service's name


def name_fields(kind: Kind) -> tuple[str, ...]:
    """The fields that name a resource of this kind, outermost first: meshName, virtualRouterName, routeName."""
    fields = ["meshName"]
    if kind.parent is not None:
        fields.append(kind.parent.name_field)
    if kind.name_field not in fields:
        fields.append(kind.name_field)
    return tuple(fields)


def names_of(key: Key) -> dict[str, str]:
    values = {"meshName": key.mesh}
    if key.kind.parent is not None and key.parent is not None:
        values[key.kind.parent.name_field] = key.parent
    values[key.kind.name_field] = key.name
    return values


def best_name(document: Node) -> str:
    """What to call a document that is too wrong to have a key."""
    if not isinstance(document.value, dict):
        return ""
    words = [str(document.value["kind"])] if isinstance(document.value.get("kind"), str) else []
    words += [str(value) for field in _NAMES_IN_ORDER if isinstance(value := document.value.get(field), str)]
    return show(" ".join(words))[1:-1]


_NAMES_IN_ORDER = tuple(dict.fromkeys(field for kind in Kind for field in name_fields(kind)))


def identify(document: Node) -> tuple[Kind | None, Key | None, list[Flaw]]:
    """The kind and the key of what a document defines (None when they cannot be told), and all that is wrong around its spec."""
    if not isinstance(document.value, dict):
        message = f"must be an object with kind, meshName and spec, found {show(document.value)}"
        return None, None, [_flaw(document, (), message)]
    kind, flaws = _kind(document)
    if kind is None:
        return None, None, flaws
    fields = name_fields(kind)
    names: dict[str, str] = {}
    for field in fields:
        longest = _LONGEST.get(field, _LONGEST_NAME)
        value = document.value.get(field)
        if value is None:
            flaws.append(_flaw(document, (field,), f"is required: a {kind} has {' and '.join(fields)}"))
        elif not isinstance(value, str):
            hint = ": put it in quotes" if isinstance(value, int | float) else ""
            flaws.append(_flaw(document, (field,), f"must be a string, found {show(value)}{hint}"))
        elif not 1 <= len(value) <= longest:
            flaws.append(_flaw(document, (field,), f"must have between 1 and {longest} characters, found {len(value)}"))
        else:
            names[field] = value
    known = {*fields, "kind", "spec", *_AROUND}
    for unknown in [part for part in document.children if part not in known]:
        flaws.append(_flaw(document, (unknown,), f"unknown field{did_you_mean(str(unknown), sorted(known))}"))
    if document.value.get("spec") is None and kind not in _NO_SPEC_NEEDED:
        flaws.append(_flaw(document, ("spec",), "is required; {} where there is nothing to say"))
    try:
        _Around.model_validate({field: value for field, value in document.value.items() if field in _AROUND})
    except ValidationError as error:
        flaws += [_flaw(document, path, message) for path, message in explain(_Around, error)]
    if len(names) != len(fields):
        return kind, None, flaws
    return kind, key_of(kind, names), flaws


def key_of(kind: Kind, names: Mapping[str, str]) -> Key:
    return Key(names["meshName"], kind, names[kind.name_field], names[kind.parent.name_field] if kind.parent else None)


_ANSWERS = frozenset(kind[0].lower() + kind[1:] for kind in _BARE_KINDS)  # the fields of describe's answers


def _kind(document: Node) -> tuple[Kind | None, list[Flaw]]:
    if "kind" in document.children:
        given = document.value.get("kind")
        if isinstance(given, str) and given in set(Kind):
            return Kind(given), []
        kinds = [kind.value for kind in Kind]
        hint = did_you_mean(given, kinds) if isinstance(given, str) else f"; it may be {', '.join(kinds)}"
        return None, [_flaw(document, ("kind",), f"unknown kind {show(given)}{hint}")]
    named = [kind for kind in _BARE_KINDS if document.value.get(kind.name_field) is not None]
    parents = {kind.parent for kind in named if kind.parent is not None}
    own = [kind for kind in named if kind not in parents]
    if len(own) > 1:
        fields = " and ".join(kind.name_field for kind in own)
        return None, [_flaw(document, (own[1].name_field,), f"ambiguous: {fields} name two resources; give kind")]
    if own:
        return own[0], []
    if document.value.get("meshName") is not None:
        return Kind.MESH, []
    fields = ", ".join(kind.name_field for kind in APP_MESH_KINDS)
    return None, [
        _flaw(document, (), f"is no App Mesh resource: it must have kind, or one of {fields}{_where_from(document)}")
    ]


def _where_from(document: Node) -> str:
    """What the aws command line leaves in a file is nearly a document: what is missing is said in its terms."""
    if "spec" in document.children:
        return "; names that the aws command line gave (--mesh-name, ...) belong into the file"
    wrapper = next((key for key in document.children if key in _ANSWERS), None)
    return f'; take what is inside "{wrapper}" (aws ... --query {wrapper})' if wrapper else ""


def _flaw(document: Node, path: Path, message: str) -> Flaw:
    return Flaw(path, document.at(path).line, message)
