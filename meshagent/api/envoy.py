"""/v1/envoy: versions of Envoy for the fleet (docs/operator-api.md). Reads requests and checks them; Operations does what they ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.routing import Route

from meshagent.api.errors import BadRequestException
from meshagent.api.requests import answering, body_of, caller_of, segments_of

MOST_AT_ONCE = 1000
OWN = "own"
_RELEASES = "/v1/envoy/releases/"
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 2048
_SCOPE_WORDS = 'one of "host": NAME, "selector": "zone=a,role=web", "all": true'

# ("host", NAME), ("selector", TEXT) or ("all", "").
Target = tuple[str, str]


class Operations(Protocol):
    """Answers are JSON objects as docs/operator-api.md has them; refusals are ApiErrors."""

    async def list(self) -> Mapping[str, Any]: ...

    async def name_release(self, version: str, url: str, sha256: str, who: str) -> Mapping[str, Any]: ...

    async def forget_release(self, version: str, who: str) -> Mapping[str, Any]: ...

    async def use(self, version: str, target: Target, at_once: int, who: str) -> Mapping[str, Any]: ...

    async def unset(self, target: Target, who: str) -> Mapping[str, Any]: ...

    async def resume(self, target: Target | None, who: str) -> Mapping[str, Any]:
        """None: of the only one that has stopped."""

    async def abort(self, target: Target | None, who: str) -> Mapping[str, Any]:
        """None: of the only one that is under way."""


class Envoys:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def list(self, request: Request) -> Any:
        return await self._operations.list()

    async def name_release(self, request: Request) -> Any:
        body = _only(await body_of(request), "version", "url", "sha256")
        version, sha256, url = _version(body), str(body.get("sha256", "")).lower(), body.get("url", "")
        if not _SHA256.fullmatch(sha256):
            raise BadRequestException(
                "sha256 must be the 64 hexadecimal digits of the file's SHA-256: without it nobody knows what hosts would run"
            )
        if not isinstance(url, str) or len(url) > _LONGEST or (url and not _fetchable(url)):
            raise BadRequestException(
                'url must be such as https://files.example.com/envoy-1.40.1, or "" for a file that hosts have'
            )
        return await self._operations.name_release(version, url, sha256, caller_of(request))

    async def forget_release(self, request: Request) -> Any:
        segments = segments_of(request, _RELEASES)
        if len(segments) != 1:
            raise BadRequestException(f"{_RELEASES} is followed by one version")
        return await self._operations.forget_release(segments[0], caller_of(request))

    async def use(self, request: Request) -> Any:
        body = _only(await body_of(request), "version", "host", "selector", "all", "atOnce")
        version = OWN if body.get("version") == OWN else _version(body)
        at_once = body.get("atOnce", 1)
        if isinstance(at_once, bool) or not isinstance(at_once, int) or not 1 <= at_once <= MOST_AT_ONCE:
            raise BadRequestException(f"atOnce must be a number of hosts from 1 to {MOST_AT_ONCE}")
        return await self._operations.use(version, _target(body), at_once, caller_of(request))

    async def unset(self, request: Request) -> Any:
        body = _only(await body_of(request), "host", "selector", "all")
        return await self._operations.unset(_target(body), caller_of(request))

    async def resume(self, request: Request) -> Any:
        body = _only(await body_of(request), "host", "selector", "all")
        return await self._operations.resume(_target(body) if body else None, caller_of(request))

    async def abort(self, request: Request) -> Any:
        body = _only(await body_of(request), "host", "selector", "all")
        return await self._operations.abort(_target(body) if body else None, caller_of(request))


def routes(operations: Operations) -> list[Route]:
    envoys = Envoys(operations)
    table = (
        ("GET", "/v1/envoy", envoys.list),
        ("POST", "/v1/envoy/releases", envoys.name_release),
        ("DELETE", "/v1/envoy/releases/{version:path}", envoys.forget_release),
        ("POST", "/v1/envoy/use", envoys.use),
        ("POST", "/v1/envoy/unset", envoys.unset),
        ("POST", "/v1/envoy/resume", envoys.resume),
        ("POST", "/v1/envoy/abort", envoys.abort),
    )
    return [Route(path, answering(endpoint), methods=[method]) for method, path, endpoint in table]


def _target(body: Mapping[str, Any]) -> Target:
    match {key: value for key, value in body.items() if key in ("host", "selector", "all")}:
        case {"all": True, **rest} if not rest:
            return "all", ""
        case {"host": str() as host, **rest} if host and not rest:
            return "host", host
        case {"selector": str() as selector, **rest} if selector and not rest:
            return "selector", selector
    raise BadRequestException(f"the body must have {_SCOPE_WORDS}")


def _version(body: Mapping[str, Any]) -> str:
    version = body.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise BadRequestException("version must be as the Envoy itself reports it, such as 1.40.0")
    return version


def _only(body: Mapping[str, Any], *fields: str) -> Mapping[str, Any]:
    if unknown := sorted(set(body) - set(fields)):
        raise BadRequestException(f"unknown field {unknown[0][:40]!r}: the body has {', '.join(fields)}")
    return body


def _fetchable(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname) and url.isprintable() and " " not in url
