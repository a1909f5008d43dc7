"""App Mesh's matches as Envoy's RouteMatch, and the order in which routes are tried.

Envoy takes the first route that matches, App Mesh the best: so routes are laid out best first, by a key that depends on
nothing but the specs. Must not know clusters, nor what happens to a request that matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from meshagent.envoy import protos as pb
from meshagent.envoy.services import LAST_PRIORITY
from meshagent.specs.fields import HttpMethod
from meshagent.specs.gateways import GrpcGatewayRouteMatch, HostnameMatch, HttpGatewayRouteMatch
from meshagent.specs.matches import GrpcRouteMatch, HeaderMatch, HttpQueryParameter, HttpRouteMatch, ValueMatch

HttpMatch = HttpRouteMatch | HttpGatewayRouteMatch
GrpcMatch = GrpcRouteMatch | GrpcGatewayRouteMatch

# How narrow a path match is: an exact path before any regular expression before any prefix.
_EXACT, _REGEX, _PREFIX = 0, 1, 2

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_NOT_IN_A_HEADER = re.compile(r"[\x00\r\n]")
_LONGEST_PARAMETER_NAME = 1024


@dataclass(frozen=True)
class Unmatchable:
    """Part of a match that Envoy can't take, with its path inside the match. A route without it would take requests that were
    not meant for it, so such a route is left out as a whole."""

    path: str
    message: str


def http_match(match: HttpMatch) -> Any:
    """RouteMatch of an http or http2 route. A match that names no path matches every path."""
    result = pb.route_components.RouteMatch()
    if match.path is None:
        result.prefix = match.prefix or "/"
    elif match.path.exact is not None:
        result.path = match.path.exact
    else:
        result.safe_regex.regex = match.path.regex
    if match.method is not None:
        result.headers.add(name=":method").string_match.exact = match.method.value
    scheme = getattr(match, "scheme", None)
    if scheme is not None:
        result.headers.add(name=":scheme").string_match.exact = scheme.value
    _add_hostname(result, getattr(match, "hostname", None))
    for header in match.headers or ():
        _add_header(result, header)
    for parameter in match.query_parameters or ():
        _add_parameter(result, parameter)
    return result


def grpc_match(match: GrpcMatch) -> Any:
    """RouteMatch of a grpc route: /service/method, /service/ or every call; always only requests that are gRPC."""
    result = pb.route_components.RouteMatch()
    result.grpc.SetInParent()
    method = getattr(match, "method_name", None)
    if match.service_name and method:
        result.path = f"/{match.service_name}/{method}"
    elif match.service_name:
        result.prefix = f"/{match.service_name}/"
    else:
        result.prefix = "/"
    _add_hostname(result, getattr(match, "hostname", None))
    for entry in match.metadata or ():
        _add_header(result, entry)
    return result


def _add_hostname(result: Any, hostname: HostnameMatch | None) -> None:
    """On :authority, in any case and with or without a port. Not by virtual hosts' domains: Envoy would choose the domain first,
    and a route of a better priority under another domain would never be asked."""
    if hostname is None:
        return
    name = re.escape(hostname.exact) if hostname.exact is not None else f".*{re.escape(hostname.suffix or '')}"
    result.headers.add(name=":authority").string_match.safe_regex.regex = f"(?i){name}(:[0-9]+)?"


def _add_header(result: Any, header: HeaderMatch) -> None:
    matcher = result.headers.add(name=header.name, invert_match=bool(header.invert))
    if header.match is None:
        matcher.present_match = True
    else:
        _set_value(matcher, header.match)


def _set_value(matcher: Any, match: ValueMatch) -> None:
    if match.range is not None:
        # Envoy reads a header's number as an int64: bounds beyond that change nothing.
        matcher.range_match.start = max(match.range.start, _INT64_MIN)
        matcher.range_match.end = min(match.range.end, _INT64_MAX)
    elif match.regex is not None:
        matcher.string_match.safe_regex.regex = match.regex
    elif match.exact is not None:
        matcher.string_match.exact = match.exact
    elif match.prefix is not None:
        matcher.string_match.prefix = match.prefix
    else:
        matcher.string_match.suffix = match.suffix


def _add_parameter(result: Any, parameter: HttpQueryParameter) -> None:
    matcher = result.query_parameters.add(name=parameter.name)
    if parameter.match is None or parameter.match.exact is None:
        matcher.present_match = True
    else:
        matcher.string_match.exact = parameter.match.exact


def unmatchable(match: HttpMatch | GrpcMatch) -> Iterator[Unmatchable]:
    """What App Mesh's limits allow and Envoy's refuse: one such route would take its whole configuration with it."""
    entries = match.metadata if isinstance(match, GrpcMatch) else match.headers
    field = "metadata" if isinstance(match, GrpcMatch) else "headers"
    for at, entry in enumerate(entries or ()):
        if _NOT_IN_A_HEADER.search(entry.name):
            yield Unmatchable(f"{field}[{at}].name", "a header's name has no line break and no NUL in it")
    if isinstance(match, HttpMatch):
        for at, parameter in enumerate(match.query_parameters or ()):
            if not 1 <= len(parameter.name.encode()) <= _LONGEST_PARAMETER_NAME:
                problem = f"a query parameter's name has 1 to {_LONGEST_PARAMETER_NAME} bytes"
                yield Unmatchable(f"queryParameters[{at}].name", problem)


def impossible(match: HttpMatch | GrpcMatch) -> Iterator[Unmatchable]:
    """What is compiled as it stands and yet can never match."""
    if isinstance(match, HttpMatch) and match.method is HttpMethod.CONNECT:
        yield Unmatchable("method", "a CONNECT request carries no path and is not tunnelled: no request matches")


SortKey = tuple[int, int, int, int, int, int, str]


def sort_key(priority: int | None, match: HttpMatch | GrpcMatch, name: str) -> SortKey:
    """Best first: priority; an exact host, the longer suffix, any host; an exact path, a regular expression, the longer prefix;
    more conditions; the name, so that equal routes have one order on every server."""
    host_rank, host_length = _hostname_rank(getattr(match, "hostname", None))
    path_rank, path_length = _path_rank(match)
    return (
        LAST_PRIORITY if priority is None else priority,
        host_rank,
        -host_length,
        path_rank,
        -path_length,
        -_conditions(match),
        name,
    )


def _hostname_rank(hostname: HostnameMatch | None) -> tuple[int, int]:
    if hostname is None:
        return 2, 0
    if hostname.exact is not None:
        return 0, 0
    return 1, len(hostname.suffix or "")


def _path_rank(match: HttpMatch | GrpcMatch) -> tuple[int, int]:
    if isinstance(match, GrpcMatch):
        if match.service_name and getattr(match, "method_name", None):
            return _EXACT, 0
        return _PREFIX, len(match.service_name) + 2 if match.service_name else 1
    if match.path is None:
        return _PREFIX, len(match.prefix or "/")
    return (_EXACT, 0) if match.path.exact is not None else (_REGEX, 0)


def _conditions(match: HttpMatch | GrpcMatch) -> int:
    lists: Sequence[str] = ("headers", "query_parameters", "metadata")
    single = ("method", "scheme")
    return sum(len(getattr(match, name, None) or ()) for name in lists) + sum(
        getattr(match, name, None) is not None for name in single
    )
