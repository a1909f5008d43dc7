"""From a request to what an operation needs, and from what it says to a response: JSON in and out, errors in App Mesh's form.

Knows no operation.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from meshagent.api.errors import (
    ApiError,
    BadRequestException,
    Fault,
    InternalServerErrorException,
    ServiceUnavailableException,
    UnknownOperationException,
)
from meshagent.specs.documents import SpecError
from meshagent.store.base import StoreError

DEFAULT_REGION = "us-east-1"

Endpoint = Callable[[Request], Awaitable[Any]]
_log = logging.getLogger(__name__)
_CREDENTIAL = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]{1,32})/")


def answering(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint's value as JSON, its ApiErrors in App Mesh's form; what nobody foresaw is logged and says no more than that."""

    async def answer(request: Request) -> Response:
        try:
            return _json(200, await endpoint(request))
        except ApiError as error:
            return _json(error.status, error.body(), error)
        except StoreError as error:
            unavailable = ServiceUnavailableException(f"the store did not answer: {error}")
            return _json(unavailable.status, unavailable.body(), unavailable)
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            defect = InternalServerErrorException("the server failed to answer: its log says why")
            return _json(defect.status, defect.body(), defect)

    return answer


def _json(status: int, body: Any, error: ApiError | None = None) -> Response:
    headers = {"x-amzn-RequestId": str(uuid.uuid4()), **(error.headers if error else {})}
    content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Response(content, status, headers, "application/json")


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body, {} for an empty one; BadRequestException says what else was found."""
    content = await request.body()
    if not content:
        return {}
    try:
        body = json.loads(content.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number)
        # A lone surrogate is no text: it could be kept nowhere.
        json.dumps(body, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequestException("the body is nested too deeply") from error
    except ValueError as error:
        raise BadRequestException(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestException(f"the body must be a JSON object, found {json.dumps(body)[:40]}")
    return body


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice in one object")
    return members


def _no_number(literal: str) -> None:
    raise ValueError(f"{literal} is no number of JSON")


def segments_of(request: Request, prefix: str) -> tuple[str, ...]:
    """The path's segments after `prefix`, each decoded by itself: a%2Fb is one name, a/b are two."""
    raw = request.scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw is not None else request.url.path
    _, found, rest = path.partition(prefix)
    try:
        segments = tuple(unquote(segment, errors="strict") for segment in rest.split("/"))
    except UnicodeDecodeError as error:
        raise BadRequestException(f"the path {path} does not decode to UTF-8") from error
    if not found or not all(segments):
        raise UnknownOperationException(f"{request.method} {path} is no operation of this API")
    return segments


def region_of(request: Request) -> str:
    """The region that the request was signed for; it makes no difference but to ARNs."""
    region = getattr(request.state, "region", None)
    if isinstance(region, str) and region:
        return region
    found = _CREDENTIAL.search(request.headers.get("authorization", ""))
    return found[1] if found else DEFAULT_REGION


def caller_of(request: Request) -> str:
    """The access key's id by which the request was signed, "" where nobody asked for one."""
    return str(getattr(request.state, "access_key", ""))


def refused(errors: Iterable[SpecError]) -> ApiError:
    """The errors of documents as one answer."""
    faults = [Fault(error.resource, error.path, error.message, error.file, error.line) for error in errors]
    return BadRequestException.of(faults)
