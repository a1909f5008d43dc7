"""A model's refusals in plain words: what the field must be, and what was found. Knows pydantic's error types; nothing of documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from meshagent.specs.fields import Model
from meshagent.specs.tree import Path, show

Schema = Mapping[str, Any]


def explain(model: type[Model], error: ValidationError) -> list[tuple[Path, str]]:
    """All that the model refused, as (path inside it, what would be right)."""
    schema = _schema(model)
    return [
        (tuple(found["loc"]), _sentence(schema, found))
        for found in error.errors(include_url=False, include_context=True, include_input=True)
        if not _follows(found)
    ]


def _follows(found: Any) -> bool:
    """Whether it says no more than that some of a list's items are bad, which is said of each: pydantic counts the good ones."""
    given = found.get("input")
    return found["type"] == "too_short" and isinstance(given, list) and len(given) >= found["ctx"]["min_length"]


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean "x"?`, or all that is known when nothing is near."""
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), list(folded), n=1)
    if near:
        return f"; did you mean {show(folded[near[0]])}?"
    return f"; it may be {_listed(known)}" if known else ""


def _sentence(schema: Schema, found: Any) -> str:
    kind, path, given = found["type"], tuple(found["loc"]), found.get("input")
    if kind == "extra_forbidden":
        known = _walk(schema, path[:-1]).get("properties", {})
        return f"unknown field{did_you_mean(str(path[-1]), list(known))}"
    if kind in _NUMBERS:
        return f"must be {_NUMBERS[kind]}{_bounds(_walk(schema, path))}, found {show(given)}"
    sentence = _SENTENCES.get(kind)
    if sentence is None:
        # Our own validators speak in whole sentences already.
        return str(found["msg"])
    return f"{sentence(found.get('ctx', {}))}" + ("" if kind == "missing" else f", found {_found(kind, given)}")


_NUMBERS = {
    "int_type": "a whole number ",
    "int_from_float": "a whole number ",
    "greater_than_equal": "",
    "less_than_equal": "",
}
_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is required",
    "enum": lambda ctx: f"must be one of {_unquoted(ctx['expected'])}",
    "string_type": lambda ctx: "must be a string",
    "bool_type": lambda ctx: "must be true or false",
    "string_too_short": lambda ctx: f"must have at least {_counted(ctx['min_length'], 'character')}",
    "string_too_long": lambda ctx: f"must have at most {_counted(ctx['max_length'], 'character')}",
    "string_pattern_mismatch": lambda ctx: f"must match {ctx['pattern']}",
    "too_short": lambda ctx: f"must have at least {_counted(ctx['min_length'], 'item')}",
    "too_long": lambda ctx: f"must have at most {_counted(ctx['max_length'], 'item')}",
    "tuple_type": lambda ctx: "must be a list",
    "model_type": lambda ctx: "must be an object",
    "model_attributes_type": lambda ctx: "must be an object",
    "dict_type": lambda ctx: "must be an object",
}


def _found(kind: str, given: object) -> str:
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long") and isinstance(
        given, str | list | tuple
    ):
        return str(len(given))
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"{show(given)}: put it in quotes"
    return show(given)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return "of at most 64 bits" if low is None else f"at least {low}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _unquoted(expected: str) -> str:
    """pydantic writes 'http', 'tcp' or 'grpc'."""
    return expected.replace(" or ", ", ").replace("'", "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]


@lru_cache(maxsize=32)
def _schema(model: type[Model]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _walk(schema: Schema, path: Path) -> Schema:
    """The JSON Schema of the place a path leads to; an empty one where it leads nowhere."""
    here = _resolved(schema, schema)
    for part in path:
        below = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
        here = _resolved(schema, below)
    return here


def _resolved(root: Schema, schema: Schema) -> Schema:
    for _ in range(8):
        if "$ref" in schema:
            schema = root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {})
        elif "anyOf" in schema:
            schema = next((option for option in schema["anyOf"] if option.get("type") != "null"), {})
        else:
            break
    return schema
