"""A virtual service as its callers need it: for each of its ports the routes, and the clusters and endpoints behind these.

The same for every caller without a TLS policy. Where callers find it, the listeners, is the matter of listeners.py and gateways.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshagent.envoy import names
from meshagent.envoy.clusters import egress_cluster, unreachable_cluster
from meshagent.envoy.endpoints import load_assignment
from meshagent.envoy.memo import Digested, Reading
from meshagent.envoy.notices import Notice
from meshagent.envoy.protos import bytes_of
from meshagent.envoy.routes import (
    UNREACHABLE,
    TcpTargets,
    clusters_named,
    direct_route_config,
    egress_route_config,
    tcp_idle_ms,
    tcp_targets,
)
from meshagent.envoy.services import (
    ServicePort,
    Target,
    provider,
    route_specs,
    router_targets,
    service_ports,
    unused_routes,
    weighted_target,
)
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key
from meshagent.xds.snapshot import ROUTE, Resource


@dataclass(frozen=True)
class Way:
    """How requests to one port of a virtual service go on: by `routes` (http, http2, grpc) or to `tcp`; neither where nothing leads on."""

    port: ServicePort
    routes: Resource | None
    tcp: TcpTargets | None
    targets: tuple[Target, ...]
    unreachable: bool
    notices: tuple[Notice, ...]

    @property
    def leads_on(self) -> bool:
        return self.routes is not None or self.tcp is not None


@dataclass(frozen=True)
class Reached:
    """Ways of a virtual service with what they need: routes, clusters, load assignments."""

    ways: tuple[Way, ...]
    resources: tuple[Resource, ...]
    notices: tuple[Notice, ...]


def way(reading: Reading, service: Key, port: ServicePort) -> Way:
    found = provider(reading, service)
    assert found is not None, "a service with ports has a provider"
    name = names.egress_routes(service.mesh, service.name, port.protocol, port.port)
    if found.node is not None:
        return _to_node(reading, service, found.node, port, name)
    assert found.router is not None
    routes = route_specs(reading, found.router)

    def cluster_of(node: str, node_port: int | None) -> str | None:
        target = weighted_target(reading, service.mesh, node, node_port, port)
        return target.cluster if target is not None else None

    targets = router_targets(reading, found.router, port)
    if port.protocol is PortProtocol.TCP:
        tcp, notices = tcp_targets(routes, port.port, cluster_of)
        if tcp is None:
            message = f"no tcp route leads from port {port.port}: it is not listened on"
            notices = [*notices, Notice(found.router, "spec.listeners", message)]
        named = frozenset(cluster for cluster, _ in tcp.weighted) if tcp is not None else frozenset()
        return _way(port, None, tcp, targets, named, notices)
    config, notices = egress_route_config(name, service, port.port, port.protocol, routes, cluster_of)
    resource = Resource.of(ROUTE, name, bytes_of(config))
    return _way(port, resource, None, targets, clusters_named(config), notices)


def reached_way(
    reading: Reading, service: Key, port: ServicePort, policy: Digested | None, trust_domain: str
) -> Reached:
    """One port's way. `policy` holds the caller's ClientPolicyTls for this backend."""
    found = reading.once(way, service, port)
    resources = [found.routes] if found.routes is not None else []
    notices = [*found.notices]
    if found.unreachable:
        resources.append(reading.once(unreachable_cluster))
    for target in found.targets:
        egress = reading.once(egress_cluster, target, policy, trust_domain)
        notices.extend(egress.notices)
        resources.append(egress.resource)
        if egress.by_eds:
            resources.append(reading.once(load_assignment, target))
    return Reached((found,), tuple(resources), tuple(dict.fromkeys(notices)))


def reached(reading: Reading, service: Key, policy: Digested | None, trust_domain: str) -> Reached:
    """The ways of all ports."""
    ports = service_ports(reading, service)
    notices: list[Notice] = []
    found = provider(reading, service)
    if found is None or not ports:
        notices.append(_leads_nowhere(reading, service))
    elif found.router is not None:
        notices.extend(unused_routes(reading, found.router, ports))
    each = [reading.once(reached_way, service, port, policy, trust_domain) for port in ports]
    return Reached(
        tuple(one for part in each for one in part.ways),
        tuple(one for part in each for one in part.resources),
        tuple(dict.fromkeys((*notices, *(one for part in each for one in part.notices)))),
    )


def _to_node(reading: Reading, service: Key, node: Key, port: ServicePort, name: str) -> Way:
    spec = reading.spec(node)
    assert spec is not None
    listener = next(each for each in spec.body.listeners if each.port_mapping.port == port.port)
    target = Target(node, port.port, port.protocol)
    if port.protocol is PortProtocol.TCP:
        tcp = TcpTargets(((target.cluster, 1),), tcp_idle_ms(listener))
        return Way(port, None, tcp, (target,), unreachable=False, notices=())
    config = direct_route_config(name, service, target.cluster, listener)
    return Way(port, Resource.of(ROUTE, name, bytes_of(config)), None, (target,), unreachable=False, notices=())


def _way(
    port: ServicePort,
    routes: Resource | None,
    tcp: TcpTargets | None,
    targets: tuple[Target, ...],
    named: frozenset[str],
    notices: list[Notice],
) -> Way:
    """Targets of routes that were left out are not carried."""
    carried = tuple(target for target in targets if target.cluster in named)
    return Way(port, routes, tcp, carried, UNREACHABLE in named, tuple(notices))


def _leads_nowhere(reading: Reading, service: Key) -> Notice:
    spec = reading.spec(service)
    if spec is None:
        return Notice(service, "", "is not defined: it is not listened on")
    if spec.body.provider is None:
        return Notice(
            service, "spec.provider", "there is none: it is not listened on; name a virtual node or virtual router"
        )
    if provider(reading, service) is None:
        return Notice(service, "spec.provider", "names what is not defined: it is not listened on")
    return Notice(
        service, "spec.provider", "what it names has no listener, or none that routes lead to: it is not listened on"
    )
