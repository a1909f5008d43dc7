"""/v1 but for documents: joining, tokens, hosts, endpoints, status, accepting, draining (docs/operator-api.md).

Reads requests and checks them; what they ask for is done by Operations, which the control plane gives. Two paths are
unsigned: the bundle, which a host checks by its token, and the join, whose credential is the token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.routing import Route

from meshagent.api.errors import BadRequestException
from meshagent.api.requests import answering, body_of, caller_of, segments_of

UNSIGNED = frozenset({"/v1/bundle", "/v1/join"})
LONGEST_TOKEN_LIFE = 30 * 86400
DEFAULT_TOKEN_LIFE = 3600
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_HOST_WORDS = "1 to 253 letters, digits, dots, dashes and underscores, a letter or digit first and last"


class Operations(Protocol):
    """Answers are JSON objects as docs/operator-api.md has them; refusals are ApiErrors."""

    async def bundle(self) -> Mapping[str, Any]: ...

    async def join(self, token: str, host: str, csr: bytes) -> Mapping[str, Any]:
        """The same key may come again with the same token: a reply may have been lost."""

    async def status(self) -> Mapping[str, Any]: ...

    async def hosts(self, selector: str) -> Mapping[str, Any]:
        """Of all hosts, or those that a selector picks."""

    async def delete_host(self, host: str, who: str) -> Mapping[str, Any]: ...

    async def endpoints(self) -> Mapping[str, Any]: ...

    async def create_token(
        self, placements: Sequence[str], life_seconds: float, host: str | None, who: str
    ) -> Mapping[str, Any]: ...

    async def tokens(self) -> Mapping[str, Any]: ...

    async def delete_token(self, token: str, who: str) -> Mapping[str, Any]: ...

    async def accept_host(self, host: str, who: str) -> Mapping[str, Any]: ...

    async def accept_all(self, who: str) -> Mapping[str, Any]: ...

    async def drain(self, host: str | None, proxy: str | None, drained: bool, who: str) -> Mapping[str, Any]:
        """One of a host and a proxy is given."""


class Operator:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def bundle(self, request: Request) -> Any:
        return await self._operations.bundle()

    async def join(self, request: Request) -> Any:
        body = _only(await body_of(request), "token", "host", "csr")
        host = _host(_text(body, "host"))
        return await self._operations.join(_text(body, "token"), host, _text(body, "csr").encode())

    async def status(self, request: Request) -> Any:
        return await self._operations.status()

    async def hosts(self, request: Request) -> Any:
        return await self._operations.hosts(request.query_params.get("selector", ""))

    async def delete_host(self, request: Request) -> Any:
        return await self._operations.delete_host(_last(request, "/v1/hosts/"), caller_of(request))

    async def endpoints(self, request: Request) -> Any:
        return await self._operations.endpoints()

    async def create_token(self, request: Request) -> Any:
        body = _only(await body_of(request), "placements", "lifeSeconds", "host")
        placements = body.get("placements")
        if not isinstance(placements, list) or not placements or not all(isinstance(one, str) for one in placements):
            raise BadRequestException("placements must be a list of resource paths such as mesh/shop/virtualNode/web")
        life = body.get("lifeSeconds", DEFAULT_TOKEN_LIFE)
        if isinstance(life, bool) or not isinstance(life, int | float) or not 0 < life <= LONGEST_TOKEN_LIFE:
            raise BadRequestException(f"lifeSeconds must be more than 0 and at most {LONGEST_TOKEN_LIFE}")
        host = _host(_text(body, "host")) if body.get("host") is not None else None
        return await self._operations.create_token(placements, float(life), host, caller_of(request))

    async def tokens(self, request: Request) -> Any:
        return await self._operations.tokens()

    async def delete_token(self, request: Request) -> Any:
        return await self._operations.delete_token(_last(request, "/v1/tokens/"), caller_of(request))

    async def accept(self, request: Request) -> Any:
        body = _only(await body_of(request), "host", "all")
        match body:
            case {"all": True, **rest} if not rest:
                return await self._operations.accept_all(caller_of(request))
            case {"host": str() as host, **rest} if host and not rest:
                return await self._operations.accept_host(host, caller_of(request))
        raise BadRequestException('the body must be {"host": NAME} or {"all": true}')

    async def drain(self, request: Request) -> Any:
        return await self._drain(request, True)

    async def undrain(self, request: Request) -> Any:
        return await self._drain(request, False)

    async def _drain(self, request: Request, drained: bool) -> Any:
        match _only(await body_of(request), "host", "proxy"):
            case {"host": str() as host, **rest} if host and not rest:
                return await self._operations.drain(host, None, drained, caller_of(request))
            case {"proxy": str() as proxy, **rest} if proxy and not rest:
                return await self._operations.drain(None, proxy, drained, caller_of(request))
        raise BadRequestException('the body must be {"host": NAME} or {"proxy": ID}')


def routes(operations: Operations) -> list[Route]:
    operator = Operator(operations)
    table = (
        ("GET", "/v1/bundle", operator.bundle),
        ("POST", "/v1/join", operator.join),
        ("GET", "/v1/status", operator.status),
        ("GET", "/v1/hosts", operator.hosts),
        ("DELETE", "/v1/hosts/{name:path}", operator.delete_host),
        ("GET", "/v1/endpoints", operator.endpoints),
        ("POST", "/v1/tokens", operator.create_token),
        ("GET", "/v1/tokens", operator.tokens),
        ("DELETE", "/v1/tokens/{id:path}", operator.delete_token),
        ("POST", "/v1/accept", operator.accept),
        ("POST", "/v1/drain", operator.drain),
        ("POST", "/v1/undrain", operator.undrain),
    )
    return [Route(path, answering(endpoint), methods=[method]) for method, path, endpoint in table]


def _only(body: Mapping[str, Any], *fields: str) -> Mapping[str, Any]:
    if unknown := sorted(set(body) - set(fields)):
        raise BadRequestException(f"unknown field {unknown[0][:40]!r}: the body has {', '.join(fields)}")
    return body


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise BadRequestException(f"{field} must be a text that is not empty")
    return value


def _host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise BadRequestException(f"host {name[:40]!r}: must be {_HOST_WORDS}")
    return name


def _last(request: Request, prefix: str) -> str:
    """The one segment after `prefix`."""
    segments = segments_of(request, prefix)
    if len(segments) != 1:
        raise BadRequestException(f"{prefix} is followed by one name")
    return segments[0]
