"""Problem: something that is defined and cannot work as it stands, for what another resource says or is not there.

App Mesh accepts such definitions, and so do we: a problem is shown, never raised, and goes away when the other resource
comes. What one document can say about itself alone is checked in meshagent.specs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key, Kind, gateway_key, mesh_key, node_key, router_key, service_key
from meshagent.specs.policies import EndpointSource

if TYPE_CHECKING:
    from meshagent.mesh.graph import Mesh


@dataclass(frozen=True)
class Problem:
    """`path` leads from the resource's spec to the field at fault, as in `action.weightedTargets[0].virtualNode`; empty where the
    resource as a whole is meant."""

    resource: Key
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.resource.path, self.path, self.message) if part)


def problems_of(mesh: Mesh) -> tuple[Problem, ...]:
    """Sorted by resource, in each by where its spec says it."""
    found = [
        Problem(mesh_key(name), "", "is not defined, but resources of it are")
        for name in mesh.meshes
        if mesh.spec(mesh_key(name)) is None
    ]
    for key in sorted(mesh.specs, key=lambda key: key.path):
        check = _CHECKS.get(key.kind)
        if check is not None:
            found += [Problem(key, path, message) for path, message in check(mesh, key, mesh.specs[key].body)]
    return tuple(found)


_Found = Iterator[tuple[str, str]]  # the path inside the spec, and the message


def _virtual_node(mesh: Mesh, key: Key, body: Any) -> _Found:
    yield from _repeated_ports(body.listeners)
    if body.listeners and body.service_discovery is None and _endpoint_source(mesh, key) is not EndpointSource.LEASES:
        yield "serviceDiscovery", "is required beside listeners, unless a VirtualNodePolicy says `endpoints: leases`"
    first: dict[str, int] = {}
    for place, backend in enumerate(body.backends):
        path = f"backends[{place}].virtualService.virtualServiceName"
        name = backend.member.virtual_service_name
        if name in first:
            yield path, f'"{name}" is a backend already, as backends[{first[name]}]'
            continue
        first[name] = place
        if mesh.spec(service_key(key.mesh, name)) is None:
            yield path, _undefined("virtual service", name)


def _virtual_service(mesh: Mesh, key: Key, body: Any) -> _Found:
    if body.provider is None:
        yield "provider", "is not given: nothing serves this name"
    elif (provider := body.provider.virtual_node) is not None:
        node = _body(mesh, node_key(key.mesh, provider.virtual_node_name))
        path = "provider.virtualNode.virtualNodeName"
        if node is None:
            yield path, _undefined("virtual node", provider.virtual_node_name)
        elif not node.listeners:
            yield path, f'the virtual node "{provider.virtual_node_name}" has no listener'
    else:
        provider = body.provider.virtual_router
        if mesh.spec(router_key(key.mesh, provider.virtual_router_name)) is None:
            path = "provider.virtualRouter.virtualRouterName"
            yield path, _undefined("virtual router", provider.virtual_router_name)


def _virtual_router(mesh: Mesh, key: Key, body: Any) -> _Found:
    yield from _repeated_ports(body.listeners)
    if not mesh.children(key):
        yield "", "has no route"


def _route(mesh: Mesh, key: Key, body: Any) -> _Found:
    field, protocol, route = _given(body)
    router = _body(mesh, router_key(key.mesh, key.parent or ""))
    if router is None:
        yield "", _undefined("virtual router", key.parent or "")
    else:
        port = route.match.port if route.match is not None else None
        yield from _against_listeners(field, protocol, port, f'the virtual router "{key.parent}"', router.listeners)
    targets = route.action.weighted_targets
    if not any(target.weight for target in targets):
        yield f"{field}.action.weightedTargets", "have no weight together: at least one must be above 0"
    for place, target in enumerate(targets):
        path = f"{field}.action.weightedTargets[{place}]"
        node = _body(mesh, node_key(key.mesh, target.virtual_node))
        if node is None:
            yield f"{path}.virtualNode", _undefined("virtual node", target.virtual_node)
            continue
        whose = f'the virtual node "{target.virtual_node}"'
        wrong = _port_flaw(target.port, whose, node.listeners)
        if wrong is not None:
            yield f"{path}.{wrong[0] or 'virtualNode'}", wrong[1]
            continue
        listener = _listener(node.listeners, target.port)
        if listener.protocol is not protocol:
            yield f"{path}.virtualNode", _mismatch(f"{whose} listens with", listener, protocol)


def _virtual_gateway(mesh: Mesh, key: Key, body: Any) -> _Found:
    yield from _repeated_ports(body.listeners)
    if not body.listeners:
        yield "listeners", "are none: nothing enters here"


def _gateway_route(mesh: Mesh, key: Key, body: Any) -> _Found:
    field, protocol, route = _given(body)
    gateway = _body(mesh, gateway_key(key.mesh, key.parent or ""))
    if gateway is None:
        yield "", _undefined("virtual gateway", key.parent or "")
    else:
        whose = f'the virtual gateway "{key.parent}"'
        if route.match.port is not None or len(gateway.listeners) == 1:
            yield from _against_listeners(field, protocol, route.match.port, whose, gateway.listeners)
        # Without a port it holds for every listener of its protocol.
        elif all(each.port_mapping.protocol is not protocol for each in gateway.listeners):
            yield field, f"{whose} has no listener for {protocol}"
    target = route.action.target
    path = f"{field}.action.target"
    name = target.virtual_service.virtual_service_name
    service = _body(mesh, service_key(key.mesh, name))
    if service is None:
        yield f"{path}.virtualService.virtualServiceName", _undefined("virtual service", name)
        return
    provider = _provider(mesh, key.mesh, service)
    if provider is None or not provider.listeners:
        return  # the service's own problem, named there
    wrong = _port_flaw(target.port, f'the provider of "{name}"', provider.listeners)
    if wrong is not None:
        yield f"{path}.{wrong[0] or 'virtualService.virtualServiceName'}", wrong[1]
    elif (listener := _listener(provider.listeners, target.port)).protocol is PortProtocol.TCP:
        path = f"{path}.virtualService.virtualServiceName"
        yield path, _mismatch(f'the provider of "{name}" listens with', listener, protocol)


def _virtual_node_policy(mesh: Mesh, key: Key, body: Any) -> _Found:
    if mesh.spec(node_key(key.mesh, key.name)) is None:
        yield "", _undefined("virtual node", key.name)


_CHECKS: Mapping[Kind, Callable[[Mesh, Key, Any], _Found]] = {
    Kind.VIRTUAL_NODE: _virtual_node,
    Kind.VIRTUAL_SERVICE: _virtual_service,
    Kind.VIRTUAL_ROUTER: _virtual_router,
    Kind.ROUTE: _route,
    Kind.VIRTUAL_GATEWAY: _virtual_gateway,
    Kind.GATEWAY_ROUTE: _gateway_route,
    Kind.VIRTUAL_NODE_POLICY: _virtual_node_policy,
}

_ROUTES = (
    ("http_route", "httpRoute", PortProtocol.HTTP),
    ("http2_route", "http2Route", PortProtocol.HTTP2),
    ("grpc_route", "grpcRoute", PortProtocol.GRPC),
    ("tcp_route", "tcpRoute", PortProtocol.TCP),
)


def _given(body: Any) -> tuple[str, PortProtocol, Any]:
    """The one route of a route's or a gateway route's spec: its field, its protocol, itself."""
    return next(
        (field, protocol, route)
        for attribute, field, protocol in _ROUTES
        if (route := getattr(body, attribute, None)) is not None
    )


def _body(mesh: Mesh, key: Key) -> Any:
    spec = mesh.spec(key)
    return None if spec is None else spec.body


def _provider(mesh: Mesh, name: str, service: Any) -> Any:
    """The node or router that provides a service; None where there is none."""
    if service.provider is None:
        return None
    if service.provider.virtual_node is not None:
        return _body(mesh, node_key(name, service.provider.virtual_node.virtual_node_name))
    return _body(mesh, router_key(name, service.provider.virtual_router.virtual_router_name))


def _endpoint_source(mesh: Mesh, node: Key) -> EndpointSource:
    policy = _body(mesh, Key(node.mesh, Kind.VIRTUAL_NODE_POLICY, node.name))
    return EndpointSource.BOTH if policy is None else policy.endpoints


def _undefined(what: str, name: str) -> str:
    return f'the {what} "{name}" is not defined'


def _mismatch(who: str, listener: Any, protocol: PortProtocol) -> str:
    return f"{who} {listener.protocol} on port {listener.port}, the route is for {protocol}"


def _ports(listeners: Iterable[Any]) -> str:
    return ", ".join(str(listener.port_mapping.port) for listener in listeners)


def _listener(listeners: Sequence[Any], port: int | None) -> Any:
    """The port mapping that a reference with this port (None: the only one) leads to; `_port_flaw` has said that there is one."""
    return next(each.port_mapping for each in listeners if port in (None, each.port_mapping.port))


def _port_flaw(port: int | None, whose: str, listeners: Sequence[Any]) -> tuple[str, str] | None:
    """Why a reference to a port (None: not given) leads to no listener: (the field, or "" for the reference itself; the message)."""
    if not listeners:
        return "", f"{whose} has no listener"
    if port is None and len(listeners) > 1:
        return "port", f"is required: {whose} listens on {_ports(listeners)}"
    if port is not None and all(each.port_mapping.port != port for each in listeners):
        return "port", f"{whose} does not listen on {port}, but on {_ports(listeners)}"
    return None


def _against_listeners(
    field: str, protocol: PortProtocol, port: int | None, whose: str, listeners: Sequence[Any]
) -> _Found:
    """What keeps a route from being reached through the listeners of its router or gateway. A router without any takes its targets'."""
    if not listeners:
        return
    wrong = _port_flaw(port, whose, listeners)
    if wrong is not None:
        yield f"{field}.match.port", wrong[1]
    elif (listener := _listener(listeners, port)).protocol is not protocol:
        yield field, _mismatch(f"{whose} listens with", listener, protocol)


def _repeated_ports(listeners: Sequence[Any]) -> _Found:
    first: dict[int, int] = {}
    for place, listener in enumerate(listeners):
        port = listener.port_mapping.port
        if port in first:
            yield f"listeners[{place}].portMapping.port", f"{port} is taken already by listeners[{first[port]}]"
        first.setdefault(port, place)
