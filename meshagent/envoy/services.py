"""Where a virtual service leads: its ports, the routes behind each, and the virtual nodes' listeners that these name.

Both the route configurations and the clusters are made from what this says, so that neither names what the other lacks. Knows specs and
the view of the mesh; no Envoy message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshagent.envoy import names
from meshagent.envoy.notices import Notice
from meshagent.mesh.graph import View
from meshagent.specs.fields import PortMapping, PortProtocol
from meshagent.specs.keys import Key, node_key, router_key
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.specs.routes import RouteAction, RouteSpec
from meshagent.specs.services import VirtualServiceSpec
from meshagent.specs.spec import Spec

ROUTE_FIELDS = {
    PortProtocol.HTTP: "http_route",
    PortProtocol.HTTP2: "http2_route",
    PortProtocol.GRPC: "grpc_route",
    PortProtocol.TCP: "tcp_route",
}
WIRE_FIELDS = {
    "http_route": "httpRoute",
    "http2_route": "http2Route",
    "grpc_route": "grpcRoute",
    "tcp_route": "tcpRoute",
}
# A route without a priority comes after all that have one (0 to 1000).
LAST_PRIORITY = 1001


@dataclass(frozen=True, order=True)
class ServicePort:
    """A port on which a virtual service is called, and what is spoken there."""

    port: int
    protocol: PortProtocol


@dataclass(frozen=True, order=True)
class Target:
    """One listener of a virtual node, and the cluster by which clients reach it."""

    node: Key
    port: int
    protocol: PortProtocol

    @property
    def cluster(self) -> str:
        return names.egress_cluster(self.node.mesh, self.node.name, self.protocol, self.port)


@dataclass(frozen=True)
class RouteOf:
    """A route of a router; `protocol` is that of its type."""

    key: Key
    spec: RouteSpec
    protocol: PortProtocol

    @property
    def field(self) -> str:
        """As in the document: httpRoute."""
        return WIRE_FIELDS[ROUTE_FIELDS[self.protocol]]

    @property
    def action(self) -> RouteAction:
        action: RouteAction = getattr(self.spec, ROUTE_FIELDS[self.protocol]).action
        return action

    @property
    def match_port(self) -> int | None:
        match = getattr(self.spec, ROUTE_FIELDS[self.protocol]).match
        return None if match is None else match.port


@dataclass(frozen=True)
class Provider:
    """What stands behind a virtual service; exactly one of the two."""

    node: Key | None = None
    router: Key | None = None


def provider(view: View, service: Key) -> Provider | None:
    """None when the service is not there, says nothing, or names what is not there."""
    spec = view.spec(service)
    body: VirtualServiceSpec | None = spec.body if spec else None
    if body is None or body.provider is None:
        return None
    if body.provider.virtual_node is not None:
        node = node_key(service.mesh, body.provider.virtual_node.virtual_node_name)
        return Provider(node=node) if view.spec(node) else None
    assert body.provider.virtual_router is not None
    router = router_key(service.mesh, body.provider.virtual_router.virtual_router_name)
    return Provider(router=router) if view.spec(router) else None


def node_ports(view: View, node: Key) -> tuple[ServicePort, ...]:
    spec = view.spec(node)
    body: VirtualNodeSpec | None = spec.body if spec else None
    return _ports(each.port_mapping for each in body.listeners) if body else ()


def service_ports(view: View, service: Key) -> tuple[ServicePort, ...]:
    """Ascending. A router without listeners is called on those of the nodes that its routes name."""
    found = provider(view, service)
    if found is None:
        return ()
    if found.node is not None:
        return node_ports(view, found.node)
    assert found.router is not None
    spec = view.spec(found.router)
    assert spec is not None
    if spec.body.listeners:
        return _ports(each.port_mapping for each in spec.body.listeners)
    ports: dict[int, ServicePort] = {}
    for route in _routes(view, found.router):
        for weighted in route.action.weighted_targets:
            for each in node_ports(view, node_key(service.mesh, weighted.virtual_node)):
                if each.protocol is route.protocol and weighted.port in (None, each.port):
                    ports.setdefault(each.port, each)
    return tuple(sorted(ports.values()))


def unused_routes(view: View, router: Key, ports: Iterable[ServicePort]) -> tuple[Notice, ...]:
    """Routes that none of the router's ports carries."""
    ports = tuple(ports)
    return tuple(
        Notice(
            each.key,
            f"spec.{each.field}",
            f"no listener of {router.path} carries it (they are {_listed(ports)}): give the route the type and match.port of one",
        )
        for each in _routes(view, router)
        if not any(each.protocol is port.protocol and each.match_port in (None, port.port) for port in ports)
    )


def weighted_target(view: View, mesh: str, name: str, port: int | None, service_port: ServicePort) -> Target | None:
    """The listener that a weighted target means: the one it names by its port, the node's only one, or the one on the service's own
    port. None when there is none."""
    node = node_key(mesh, name)
    listeners = node_ports(view, node)
    if port is not None:
        found = next((each for each in listeners if each.port == port), None)
    elif len(listeners) == 1:
        found = listeners[0]
    else:
        found = next((each for each in listeners if each == service_port), None)
    return Target(node, found.port, found.protocol) if found else None


def router_targets(view: View, router: Key, port: ServicePort) -> tuple[Target, ...]:
    """All listeners of nodes that a router's port can lead to, sorted."""
    reached = {
        weighted_target(view, router.mesh, weighted.virtual_node, weighted.port, port)
        for route in _routes(view, router)
        if route.protocol is port.protocol and route.match_port in (None, port.port)
        for weighted in route.action.weighted_targets
    }
    return tuple(sorted(target for target in reached if target is not None))


def route_specs(view: View, parent: Key) -> tuple[Spec, ...]:
    """Of a router or a gateway, by name."""
    return tuple(spec for key in view.children(parent) if (spec := view.spec(key)) is not None)


def _routes(view: View, router: Key) -> Iterator[RouteOf]:
    for spec in route_specs(view, router):
        protocol = next(each for each, field in ROUTE_FIELDS.items() if getattr(spec.body, field) is not None)
        yield RouteOf(spec.key, spec.body, protocol)


def _ports(mappings: Iterable[PortMapping]) -> tuple[ServicePort, ...]:
    """One entry a port: of two listeners on one port the first counts."""
    ports: dict[int, ServicePort] = {}
    for each in mappings:
        ports.setdefault(each.port, ServicePort(each.port, each.protocol))
    return tuple(sorted(ports.values()))


def _listed(ports: Iterable[ServicePort]) -> str:
    return ", ".join(f"{each.protocol} {each.port}" for each in ports) or "none"
