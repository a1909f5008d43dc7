"""A virtual gateway's routes as Envoy's configuration: which virtual service a request goes to, and under which host and path.

Only the choice and the rewrite are made here. A gateway loops through its own egress, where the service's own routes give the
request its timeouts and retries: so here it has none, and nothing cuts it short. Must not know listeners or clusters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from meshagent.envoy import protos as pb
from meshagent.envoy.matches import sort_key
from meshagent.envoy.notices import Notice
from meshagent.envoy.routes import UNREACHABLE, checked_match, route_config
from meshagent.envoy.services import WIRE_FIELDS
from meshagent.specs.gateways import (
    GatewayRouteSpec,
    GrpcGatewayRoute,
    HostnameRewrite,
    HttpGatewayRoute,
    HttpGatewayRouteMatch,
    HttpRewrite,
    PrefixRewrite,
    Toggle,
)
from meshagent.specs.keys import Key
from meshagent.specs.spec import Spec

# (virtual service's name, target.port) -> the cluster that leads to it; None when there is none.
ClusterOfService = Callable[[str, int | None], str | None]

_FIELDS = ("http_route", "http2_route", "grpc_route")


def gateway_route_config(
    name: str, port: int, routes: Sequence[Spec], cluster_of_service: ClusterOfService
) -> tuple[Any, list[Notice]]:
    """RouteConfiguration of one listener of a gateway. `routes` are all of the gateway's; those for another port are passed over.

    A route's type need not be the listener's protocol: what Envoy's listeners take is told from the connection itself, and App Mesh
    says nowhere that they must agree."""
    notices: list[Notice] = []
    made: list[tuple[tuple[Any, ...], Any]] = []
    for spec in routes:
        field, route = _route(spec.body)
        if route.match.port not in (None, port):
            continue
        path = f"spec.{WIRE_FIELDS[field]}"
        if (matched := checked_match(route.match, spec.key, f"{path}.match", notices)) is None:
            continue
        result = pb.route_components.Route(name=spec.key.name, match=matched)
        _set_target(result.route, route, spec.key, path, cluster_of_service, notices)
        rewrite = route.action.rewrite
        _set_host(result.route, rewrite.hostname if rewrite is not None else None, route)
        if isinstance(route, HttpGatewayRoute):
            _set_path(result.route, route.match, route.action.rewrite, spec.key, path, notices)
        result.route.timeout.CopyFrom(pb.duration(0))
        result.route.idle_timeout.CopyFrom(pb.duration(0))
        made.append((sort_key(spec.body.priority, route.match, spec.key.name), result))
    return route_config(name, "gateway", [result for _, result in sorted(made, key=lambda each: each[0])]), notices


def _route(body: GatewayRouteSpec) -> tuple[str, HttpGatewayRoute | GrpcGatewayRoute]:
    return next((field, route) for field in _FIELDS if (route := getattr(body, field)) is not None)


def _set_target(
    action: Any,
    route: HttpGatewayRoute | GrpcGatewayRoute,
    key: Key,
    path: str,
    cluster_of_service: ClusterOfService,
    notices: list[Notice],
) -> None:
    target = route.action.target
    service = target.virtual_service.virtual_service_name
    cluster = cluster_of_service(service, target.port)
    if cluster is None:
        wanted = (
            f"is not called on port {target.port}, or is not defined"
            if target.port is not None
            else "is not defined or leads nowhere, or is called on several ports and target.port is not given here"
        )
        message = f"the virtual service {service} {wanted}: these requests fail"
        notices.append(Notice(key, f"{path}.action.target", message))
    action.cluster = cluster or UNREACHABLE


def _set_host(action: Any, rewrite: HostnameRewrite | None, route: HttpGatewayRoute | GrpcGatewayRoute) -> None:
    """By default the request goes on under the virtual service's name."""
    if rewrite is None or rewrite.default_target_hostname is not Toggle.DISABLED:
        action.host_rewrite_literal = route.action.target.virtual_service.virtual_service_name


def _set_path(
    action: Any, match: HttpGatewayRouteMatch, rewrite: HttpRewrite | None, key: Key, path: str, notices: list[Notice]
) -> None:
    """By default a matched prefix becomes "/"; an exact path and a regular expression stay, unless a path is given."""
    at = f"{path}.action.rewrite"
    if rewrite is not None and rewrite.path is not None and rewrite.path.exact is not None:
        if match.path is None:
            # Envoy's prefix_rewrite would change no more than the prefix.
            action.regex_rewrite.pattern.regex = "^/.*"
            action.regex_rewrite.substitution = _literal(rewrite.path.exact)
        else:
            action.prefix_rewrite = rewrite.path.exact
        return
    prefix_rewrite = rewrite.prefix if rewrite is not None else None
    if match.path is not None:
        if prefix_rewrite is not None and prefix_rewrite.value is not None:
            message = "has no effect: the route matches a whole path, no prefix; rewrite.path.exact replaces it"
            notices.append(Notice(key, f"{at}.prefix", message))
        return
    _set_prefix(action, match.prefix or "/", prefix_rewrite)


def _set_prefix(action: Any, prefix: str, rewrite: PrefixRewrite | None) -> None:
    """/chapter/1 under the prefix /chapter becomes /1, and not //1 as replacing the bare prefix by "/" would make it."""
    if rewrite is not None and rewrite.default_prefix is Toggle.DISABLED:
        return
    value = rewrite.value if rewrite is not None and rewrite.value is not None else "/"
    if value == prefix:
        return
    if prefix.endswith("/"):
        action.prefix_rewrite = value
    else:
        action.regex_rewrite.pattern.regex = f"^{re.escape(prefix)}/?"
        action.regex_rewrite.substitution = _literal(value)


def _literal(text: str) -> str:
    r"""\1 in a substitution would be a group of the pattern."""
    return text.replace("\\", "\\\\")
