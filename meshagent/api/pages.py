"""Pages of a list: App Mesh's limit and nextToken. A token says after which name to go on, so that what is created or deleted in
between moves no other item to a page where it is missed. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TypeVar

from meshagent.api.errors import BadRequestException

MAX_LIMIT = 100
T = TypeVar("T")


def page(items: Mapping[str, T], collection: str, limit: str | None, token: str | None) -> tuple[list[T], str | None]:
    """The items of one page, ordered by name, and the token of the next one. `collection` is what the token is good for."""
    size = _size(limit)
    after = _after(token, collection) if token else ""
    names = sorted(name for name in items if name > after)
    shown = names[:size]
    following = _token(shown[-1], collection) if len(names) > size else None
    return [items[name] for name in shown], following


def _size(limit: str | None) -> int:
    if limit is None:
        return MAX_LIMIT
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LIMIT):
        raise BadRequestException(f"limit must be between 1 and {MAX_LIMIT}, found {limit[:40]}")
    return int(limit)


def _token(name: str, collection: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([collection, name]).encode()).decode().rstrip("=")


def _after(token: str, collection: str) -> str:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, RecursionError):
        content = None
    match content:
        case [str() as of, str() as name] if of == collection:
            return name
    raise BadRequestException("nextToken is not one that this list gave: leave it out to start anew")
