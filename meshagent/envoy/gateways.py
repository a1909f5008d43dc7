"""A virtual gateway's proxy: its listeners, its routes to virtual services, and the loop by which these services' own routes apply.

A gateway route leads to a self_redirect cluster, whose one endpoint is a listener inside the same Envoy; that listener has the very routes
that the service's other callers have. See docs/decisions/0003-a-gateway-loops-through-internal-listeners.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshagent.envoy import names
from meshagent.envoy.backends import reached_way
from meshagent.envoy.clusters import self_redirect_cluster, unreachable_cluster
from meshagent.envoy.endpoints import every_address, socket_address
from meshagent.envoy.gatewayroutes import gateway_route_config
from meshagent.envoy.listeners import INBOUND, OUTBOUND, Part, egress_filter, http_chains, inspecting
from meshagent.envoy.memo import Digested, Reading
from meshagent.envoy.notices import Notice
from meshagent.envoy.protos import bytes_of, listener
from meshagent.envoy.retries import DEFAULT_IDLE_MS
from meshagent.envoy.routes import UNREACHABLE, clusters_named
from meshagent.envoy.services import ServicePort, route_specs, service_ports
from meshagent.envoy.tls import gateway_accepts, listener_notices
from meshagent.mesh.placement import Mode
from meshagent.specs.fields import PortProtocol
from meshagent.specs.gateways import VirtualGatewaySpec
from meshagent.specs.keys import Key, service_key
from meshagent.specs.listeners import VirtualGatewayListener
from meshagent.xds.snapshot import LISTENER, ROUTE, Resource


@dataclass
class _Loops:
    """The services' ports that a gateway's routes lead to, each with the connectionPool of the first listener that has one; whether any
    route leads nowhere."""

    pools: dict[tuple[str, ServicePort], Digested | None] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    unreachable: bool = False


def gateway_part(
    reading: Reading,
    gateway: Key,
    mode: Mode,
    address: str,
    policy: Digested | None,
    logging: Digested | None,
    trust_domain: str,
) -> Part:
    """`policy` holds the ClientPolicyTls of the gateway's backendDefaults; `address` is the host's, on which `bind` listens."""
    spec = reading.spec(gateway)
    assert spec is not None, "the gateway that is compiled is there"
    body: VirtualGatewaySpec = spec.body
    resources: list[Resource] = []
    notices: list[Notice] = []
    loops = _Loops()
    seen: set[int] = set()
    for position, each in enumerate(body.listeners):
        path = f"spec.listeners[{position}]"
        port = each.port_mapping.port
        if port in seen:
            notices.append(
                Notice(gateway, f"{path}.portMapping.port", f"port {port} has a listener already: this one is left out")
            )
            continue
        seen.add(port)
        notices.extend(_not_compiled(gateway, path, each))
        resources.append(_routes(reading, gateway, position, each, loops))
        bound = address if mode is Mode.BIND else every_address(address)
        resources.append(_listener(gateway, each, bound, len(body.listeners), logging, trust_domain))
    if loops.unreachable:
        resources.append(reading.once(unreachable_cluster))
    for (service, service_port), pool in loops.pools.items():
        resources.append(reading.once(self_redirect_cluster, gateway, service, service_port, pool))
        key = service_key(gateway.mesh, service)
        found = reading.once(reached_way, key, service_port, policy, trust_domain)
        resources.extend(found.resources)
        notices.extend(found.notices)
        resources.append(reading.once(internal_listener, key, service_port))
    return Part(tuple(resources), tuple(dict.fromkeys((*notices, *loops.notices))))


def internal_listener(reading: Reading, service: Key, port: ServicePort) -> Resource:
    """Logs nothing: the gateway's own listener has written the request down."""
    name = names.internal_listener(service.mesh, service.name, port.protocol, port.port)
    message = listener.Listener(name=name, traffic_direction=OUTBOUND)
    message.internal_listener.SetInParent()
    message.filter_chains.add(filters=[egress_filter(reading, service, port, None)])
    return Resource.of(LISTENER, name, bytes_of(message))


def _routes(
    reading: Reading,
    gateway: Key,
    position: int,
    each: VirtualGatewayListener,
    loops: _Loops,
) -> Resource:
    pool = None
    if each.connection_pool is not None:
        pool = Digested(each.connection_pool.model_dump_json(), each.connection_pool)

    def cluster_of(service: str, port: int | None) -> str | None:
        target = _service_port(reading, service_key(gateway.mesh, service), port)
        if target is None:
            return None
        loop = (service, target)
        known = loops.pools.get(loop)
        loops.pools[loop] = known if known is not None else pool
        if known is not None and pool is not None and known != pool:
            message = f"requests to {service} keep to the connectionPool of an earlier listener, which leads there too"
            loops.notices.append(Notice(gateway, f"spec.listeners[{position}].connectionPool", message))
        return names.self_redirect_cluster(gateway.mesh, gateway.name, service, target.protocol, target.port)

    port = each.port_mapping.port
    name = names.ingress_routes(port)
    config, found = gateway_route_config(name, port, route_specs(reading, gateway), cluster_of)
    loops.notices.extend(found)
    loops.unreachable |= UNREACHABLE in clusters_named(config)
    return Resource.of(ROUTE, name, bytes_of(config))


def _service_port(reading: Reading, service: Key, wanted: int | None) -> ServicePort | None:
    """The port that a gateway route means: the one it names, or the service's only one. Gateways speak no tcp."""
    ports = [each for each in service_ports(reading, service) if each.protocol is not PortProtocol.TCP]
    if wanted is not None:
        return next((each for each in ports if each.port == wanted), None)
    return ports[0] if len(ports) == 1 else None


def _listener(
    gateway: Key, each: VirtualGatewayListener, address: str, of: int, logging: Digested | None, trust_domain: str
) -> Resource:
    port, protocol = each.port_mapping.port, each.port_mapping.protocol
    accepts = gateway_accepts(gateway, each.tls, protocol, trust_domain)
    stats = "ingress" if of == 1 else f"ingress.{protocol}.{port}"
    name = names.gateway_listener(port)
    message = listener.Listener(name=name, address=socket_address(address, port), traffic_direction=INBOUND)
    if accepts.both:
        message.listener_filters.append(inspecting(()))
    message.filter_chains.extend(
        http_chains(accepts, stats, names.ingress_routes(port), protocol, logging, DEFAULT_IDLE_MS)
    )
    return Resource.of(LISTENER, name, bytes_of(message))


def _not_compiled(gateway: Key, path: str, each: VirtualGatewayListener) -> tuple[Notice, ...]:
    notices = listener_notices(gateway, path, each.tls)
    if each.health_check is None:
        return notices
    message = "is not compiled: no client in the mesh calls a gateway; its own agent probes it so"
    return (*notices, Notice(gateway, f"{path}.healthCheck", message))
