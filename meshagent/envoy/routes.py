"""A virtual service's routes, a listener's way to its application, and a tcp route's targets, as Envoy's configuration.

Pure functions over specs: what a route matches is in matches.py, how it retries and times out in retries.py, a gateway's routes in
gatewayroutes.py. Which clusters there are comes in as a function; this module must not know endpoints, listeners or TLS.

What no route matches is answered with 404: there is no catch-all. A share of requests whose target is not there is answered with
503 and stays its share: moving it to the other targets would hide the mistake and put load on them that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meshagent.envoy import protos as pb
from meshagent.envoy.matches import GrpcMatch, HttpMatch, grpc_match, http_match, impossible, sort_key, unmatchable
from meshagent.envoy.notices import Notice
from meshagent.envoy.retries import default_retry, idle_ms, request_ms, retry_policy
from meshagent.envoy.services import LAST_PRIORITY, ROUTE_FIELDS, WIRE_FIELDS
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key
from meshagent.specs.listeners import HttpTimeout, Listener
from meshagent.specs.routes import GrpcRoute, HttpRoute, RouteSpec, TcpRoute, WeightedTarget
from meshagent.specs.spec import Spec

# (virtual node's name, weightedTargets[].port) -> the cluster of the listener that is meant; None when there is none.
ClusterOf = Callable[[str, int | None], str | None]

# A cluster without endpoints, the same for all: where shares go whose target is not there. Who compiles adds it to each snapshot
# whose routes name it (see clusters_named).
UNREACHABLE = "meshagent_unreachable"


@dataclass(frozen=True)
class TcpTargets:
    """Where a tcp_proxy sends connections: clusters with weights above 0. Empty: nowhere, connections are closed."""

    weighted: tuple[tuple[str, int], ...]
    idle_ms: int


def egress_route_config(
    name: str, service: Key, port: int, protocol: PortProtocol, routes: Sequence[Spec], cluster_of: ClusterOf
) -> tuple[Any, list[Notice]]:
    """RouteConfiguration of one port of a virtual service that a router provides.

    `routes` are all of the router's; those of another protocol or for another port are passed over (services.unused_routes names
    those that no port carries)."""
    notices: list[Notice] = []
    field = ROUTE_FIELDS[protocol]
    made: list[tuple[tuple[Any, ...], Any]] = []
    for spec in routes:
        route: HttpRoute | GrpcRoute | None = getattr(spec.body, field)
        if route is None or route.match.port not in (None, port):
            continue
        path = f"spec.{WIRE_FIELDS[field]}"
        if (matched := checked_match(route.match, spec.key, f"{path}.match", notices)) is None:
            continue
        result = pb.route_components.Route(name=spec.key.name, match=matched)
        action = result.route
        weighted = _weights(
            route.action.weighted_targets, cluster_of, spec.key, f"{path}.action.weightedTargets", notices
        )
        _set_clusters(action, weighted)
        _set_timeouts(action, route.timeout)
        retry, wrong = retry_policy(route.retry_policy)
        notices.extend(Notice(spec.key, f"{path}.retryPolicy" + (f".{at}" if at else ""), text) for at, text in wrong)
        if retry is not None:
            action.retry_policy.CopyFrom(retry)
        made.append((sort_key(spec.body.priority, route.match, spec.key.name), result))
    return route_config(name, service.name, [result for _, result in sorted(made, key=lambda each: each[0])]), notices


def direct_route_config(name: str, service: Key, cluster: str, listener: Listener) -> Any:
    """RouteConfiguration of a virtual service that a virtual node provides: everything goes to it, with the default retries and
    its listener's timeouts."""
    result = _everything(cluster, _listener_timeout(listener))
    result.route.retry_policy.CopyFrom(default_retry())
    return route_config(name, service.name, [result])


def ingress_route_config(name: str, cluster: str, listener: Listener) -> Any:
    """RouteConfiguration from a node's listener to its application. Retries are the client's Envoy's."""
    return route_config(name, "ingress", [_everything(cluster, _listener_timeout(listener))])


def route_config(name: str, host: str, routes: Sequence[Any]) -> Any:
    """One virtual host takes every host name: whoever came to this listener asked for this service."""
    result = pb.route.RouteConfiguration(name=name)
    result.virtual_hosts.add(name=host, domains=["*"], routes=routes)
    return result


def checked_match(match: HttpMatch | GrpcMatch, key: Key, path: str, notices: list[Notice]) -> Any | None:
    """The RouteMatch; None, with notices, when Envoy can't take it: then the whole route is left out."""
    if refused := list(unmatchable(match)):
        notices.extend(Notice(key, f"{path}.{each.path}", f"{each.message}; the route is left out") for each in refused)
        return None
    notices.extend(Notice(key, f"{path}.{each.path}", each.message) for each in impossible(match))
    return grpc_match(match) if isinstance(match, GrpcMatch) else http_match(match)


def tcp_targets(routes: Sequence[Spec], port: int, cluster_of: ClusterOf) -> tuple[TcpTargets | None, list[Notice]]:
    """The tcp route that a port has: of several the one of the best priority, then one that names the port, then by name. None when
    there is none. Shares of targets that are not there go to UNREACHABLE."""
    fitting = sorted((spec for spec in routes if _fits(spec.body, port)), key=_tcp_order)
    if not fitting:
        return None, []
    chosen = fitting[0]
    notices = [
        Notice(spec.key, "spec.tcpRoute", f"never used: connections to port {port} take the route {chosen.key.name}")
        for spec in fitting[1:]
    ]
    route: TcpRoute = chosen.body.tcp_route
    path = "spec.tcpRoute.action.weightedTargets"
    weighted = _weights(route.action.weighted_targets, cluster_of, chosen.key, path, notices)
    return TcpTargets(
        tuple((cluster, weight) for cluster, weight in weighted if weight), idle_ms(route.timeout)
    ), notices


def tcp_idle_ms(listener: Listener) -> int:
    """Of a node's tcp listener, and of a tcp service that the node itself provides."""
    return idle_ms(listener.timeout.tcp if listener.timeout else None)


def clusters_named(config: Any) -> frozenset[str]:
    """Every cluster to which a RouteConfiguration can send a request."""
    found = set()
    for host in config.virtual_hosts:
        for route in host.routes:
            if route.route.cluster:
                found.add(route.route.cluster)
            found.update(each.name for each in route.route.weighted_clusters.clusters)
    return frozenset(found)


def _fits(body: RouteSpec, port: int) -> bool:
    return body.tcp_route is not None and (body.tcp_route.match is None or body.tcp_route.match.port in (None, port))


def _tcp_order(spec: Spec) -> tuple[int, bool, str]:
    match = spec.body.tcp_route.match
    priority = LAST_PRIORITY if spec.body.priority is None else spec.body.priority
    return priority, match is None or match.port is None, spec.key.name


def _weights(
    targets: Iterable[WeightedTarget], cluster_of: ClusterOf, key: Key, path: str, notices: list[Notice]
) -> list[tuple[str, int]]:
    """Clusters and their weights in the order written, targets of one cluster added up; the total is above 0."""
    weights: dict[str, int] = {}
    for at, target in enumerate(targets):
        cluster = cluster_of(target.virtual_node, target.port)
        if cluster is None:
            wanted = (
                f"has no listener on port {target.port}, or is not defined"
                if target.port is not None
                else "is not defined, or has none or several listeners and no port is given here"
            )
            message = f"the virtual node {target.virtual_node} {wanted}: its share of requests fails"
            notices.append(Notice(key, f"{path}[{at}].virtualNode", message))
        weights[cluster or UNREACHABLE] = weights.get(cluster or UNREACHABLE, 0) + target.weight
    if sum(weights.values()) == 0:
        notices.append(Notice(key, path, "all weights are 0, so that requests go nowhere: give one target a weight"))
        return [(UNREACHABLE, 1)]
    return list(weights.items())


def _set_clusters(action: Any, weighted: list[tuple[str, int]]) -> None:
    """A target of weight 0 keeps its place among others: its connections stay warm for the next shift of traffic."""
    if len(weighted) == 1:
        action.cluster = weighted[0][0]
        return
    for cluster, weight in weighted:
        action.weighted_clusters.clusters.add(name=cluster, weight=pb.uint32(weight))


def _set_timeouts(action: Any, timeout: HttpTimeout | None) -> None:
    """Both always written: Envoy's own defaults are other ones, and 0 means no limit to both."""
    action.timeout.CopyFrom(pb.duration(request_ms(timeout)))
    action.idle_timeout.CopyFrom(pb.duration(idle_ms(timeout)))


def _everything(cluster: str, timeout: HttpTimeout | None) -> Any:
    result = pb.route_components.Route(match=pb.route_components.RouteMatch(prefix="/"))
    result.route.cluster = cluster
    _set_timeouts(result.route, timeout)
    return result


def _listener_timeout(listener: Listener) -> HttpTimeout | None:
    """Of an http, http2 or grpc listener."""
    if listener.timeout is None:
        return None
    timeout: HttpTimeout | None = getattr(listener.timeout, listener.port_mapping.protocol.value)
    return timeout
