"""From documents to Specs, with every error of every document at once, each with file, line and path; and back.

Two forms are read: `{kind, meshName, ..., spec}`, in YAML or JSON, several a file; and the bare input of App Mesh's create and update
calls, whose kind its names tell. Reading files is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from meshagent.errors import MeshagentError
from meshagent.specs.keys import Key, Kind
from meshagent.specs.naming import best_name, identify, names_of
from meshagent.specs.regexes import flaw_of
from meshagent.specs.spec import MODELS, Source, Spec
from meshagent.specs.texts import read
from meshagent.specs.tree import MAX_LENGTH, Flaw, Node, Path, dotted, oversize, printable, tree_of
from meshagent.specs.words import explain

_LONGEST_MESSAGE = 400


@dataclass(frozen=True)
class SpecError:
    """One thing wrong with a document. `resource` is its path, or the best name for what has none; `path` leads from the document's root
    to the field; `line` is 0 where there is no text."""

    file: str
    line: int
    resource: str
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.resource, self.path, self.message) if part)


class SpecErrors(MeshagentError):
    """A spec was refused; `errors` are all the reasons."""

    def __init__(self, errors: tuple[SpecError, ...]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


@dataclass(frozen=True)
class Loaded:
    """What could be read, and what was wrong. A document with an error gives no spec."""

    specs: tuple[Spec, ...] = ()
    errors: tuple[SpecError, ...] = ()


def parse_text(text: str, filename: str) -> Loaded:
    """All documents of a text. Raises nothing, whatever the text is."""
    found = read(text)
    loaded = [_parse(tree, flaws, Source(filename, tree.line)) for tree, flaws in found.documents]
    return merge((*loaded, Loaded(errors=tuple(_error(Source(filename), "", flaw) for flaw in found.flaws))))


def parse_document(document: Mapping[str, Any], source: Source) -> Loaded:
    """One document that is parsed JSON already. Errors carry the source's file and line, for nothing finer is known."""
    return _parse(*tree_of(document), source)


def parse_spec(key: Key, spec: object, source: Source) -> Spec:
    """The spec of a resource whose key is known, as an API call brings it. Raises SpecErrors with all that is wrong in it;
    paths start at `spec`."""
    tree, flaws = tree_of(spec, ("spec",))
    body, wrong = _body(key.kind, tree, ("spec",))
    if not flaws and not wrong:
        return Spec(key, body, source)
    known = {flaw.path for flaw in flaws}
    found = (*flaws, *(flaw for flaw in wrong if flaw.path not in known))
    raise SpecErrors(tuple(_error(source, key.path, flaw) for flaw in found))


def document(spec: Spec) -> dict[str, Any]:
    """The inverse of parsing: {kind, names, spec}."""
    return {"kind": spec.key.kind.value, **names_of(spec.key), "spec": spec.body.wire()}


def merge(loaded: Iterable[Loaded]) -> Loaded:
    """Several texts' documents as one. What defines a resource again is an error that names both places."""
    specs: dict[Key, Spec] = {}
    errors: list[SpecError] = []
    for part in loaded:
        errors += part.errors
        for spec in part.specs:
            first = specs.setdefault(spec.key, spec)
            if first is not spec:
                message = f"is defined twice, the first time at {first.source}: keep one"
                errors.append(SpecError(spec.source.file, spec.source.line, spec.key.path, "", message))
    return Loaded(tuple(specs.values()), tuple(errors))


def _parse(tree: Node, broken: tuple[Flaw, ...], source: Source) -> Loaded:
    """`broken` is what was found wrong when the tree was made."""
    if tree.length > MAX_LENGTH:
        return Loaded(errors=(_error(source, best_name(tree), oversize((), tree.line, tree.length)),))
    kind, key, flaws = identify(tree)
    resource = key.path if key is not None else best_name(tree)
    body = None
    if kind is None:
        flaws = [] if broken else flaws
    elif not any(flaw.path == ("spec",) for flaw in flaws):
        spec = tree.children.get("spec")
        body, wrong = _body(kind, spec if spec is not None and spec.value is not None else _empty(tree), ("spec",))
        flaws += wrong
    # A value that was refused when the tree was made is absent from it, and would be missed here a second time.
    known = {flaw.path for flaw in broken}
    flaws = [*broken, *(flaw for flaw in flaws if flaw.path not in known)]
    if flaws or key is None:
        return Loaded(errors=tuple(_error(source, resource, flaw) for flaw in sorted(flaws, key=_by_line)))
    return Loaded((Spec(key, body, source),))


def _by_line(flaw: Flaw) -> int:
    return flaw.line


def _empty(tree: Node) -> Node:
    return Node({}, tree.line, {}, 1)


def _body(kind: Kind, tree: Node, root: Path) -> tuple[Any, list[Flaw]]:
    """The model of the kind, or why there is none. `tree` is the spec's; `root` goes before every path."""
    flaws = [Flaw((*root, *path), tree.at(path).line, message) for path, message in _bad_regexes(tree, ())]
    model = MODELS[kind]
    body = None
    try:
        body = model.model_validate(tree.value)
    except ValidationError as error:
        flaws += [Flaw((*root, *path), tree.at(path).line, message) for path, message in explain(model, error)]
    return body, flaws


def _bad_regexes(tree: Node, path: Path) -> Iterator[tuple[Path, str]]:
    """Every field of App Mesh's that is called regex holds one."""
    for part, node in tree.children.items():
        if part == "regex" and isinstance(node.value, str) and (flaw := flaw_of(node.value)):
            yield (*path, part), f"is not a regular expression of RE2: {flaw}"
        else:
            yield from _bad_regexes(node, (*path, part))


def _error(source: Source, resource: str, flaw: Flaw) -> SpecError:
    message = printable(flaw.message)
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}..."
    return SpecError(source.file, flaw.line or source.line, resource, dotted(flaw.path), message)
