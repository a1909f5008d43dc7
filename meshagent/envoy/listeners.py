"""Listeners of a virtual node's proxy, in the modes bind and redirect.

bind: one listener for each port, on the host's address (ingress) or on the service's own loopback address (egress). redirect: one listener
each way under App Mesh's name, with a filter chain for each port, or for each service's address and port, of the connection's original
destination. Chains are serialised once and joined: a listener's bytes are its head's and its chains' one after the other, which is how
protobuf merges repeated fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from meshagent.envoy import names
from meshagent.envoy.backends import reached, way
from meshagent.envoy.clusters import application_notices, ingress_cluster
from meshagent.envoy.endpoints import socket_address
from meshagent.envoy.filters import http_filter, tcp_filter
from meshagent.envoy.memo import Digested, Reading
from meshagent.envoy.notices import Notice
from meshagent.envoy.protos import (
    any_of,
    bytes_of,
    core,
    listener,
    listener_components,
    original_dst,
    tls_inspector,
    uint32,
)
from meshagent.envoy.retries import idle_ms
from meshagent.envoy.routes import ingress_route_config, tcp_idle_ms
from meshagent.envoy.services import ServicePort
from meshagent.envoy.tls import Accepts, listener_notices, node_accepts
from meshagent.mesh.placement import service_address
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key
from meshagent.specs.listeners import Listener
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.xds.snapshot import LISTENER, ORDER, ROUTE, Resource

INBOUND, OUTBOUND = core.TrafficDirection.INBOUND, core.TrafficDirection.OUTBOUND
EGRESS_STATS = "egress"


@dataclass(frozen=True)
class Part:
    """What one listener of a node, or one backend, adds to a proxy. `chains` are serialised Listeners of one filter chain each."""

    resources: tuple[Resource, ...] = ()
    notices: tuple[Notice, ...] = ()
    chains: tuple[bytes, ...] = ()

    @cached_property
    def by_type(self) -> tuple[dict[str, Resource], ...]:
        """The resources by name, a dict for each type of ORDER; not to be changed."""
        tables: dict[str, dict[str, Resource]] = {type_url: {} for type_url in ORDER}
        for each in self.resources:
            tables[each.type_url][each.name] = each
        return tuple(tables.values())


# --- Egress ---------------------------------------------------------------------------------------------------------------------


def bound_backend(
    reading: Reading, service: Key, slot: int, policy: Digested | None, logging: Digested | None, trust_domain: str
) -> Part:
    """bind: a virtual service's own address has a listener for each of its ports."""
    found = reading.once(reached, service, policy, trust_domain)
    if not found.ways:
        return Part(notices=found.notices)
    index = reading.index(service)
    if index is None:
        return Part(notices=(*found.notices, _no_index(service)))
    address = service_address(slot, index)
    listeners = [
        reading.once(bound_egress_listener, service, each.port, address, logging)
        for each in found.ways
        if each.leads_on
    ]
    return Part((*found.resources, *listeners), found.notices)


def bound_egress_listener(
    reading: Reading, service: Key, port: ServicePort, address: str, logging: Digested | None
) -> Resource:
    name = names.egress_listener(address, port.port)
    message = listener.Listener(name=name, address=socket_address(address, port.port), traffic_direction=OUTBOUND)
    message.filter_chains.add(filters=[egress_filter(reading, service, port, logging)])
    return Resource.of(LISTENER, name, bytes_of(message))


def redirected_backend(
    reading: Reading, service: Key, slot: int, policy: Digested | None, logging: Digested | None, trust_domain: str
) -> Part:
    """redirect: filter chains that match the service's address, in slot 0 and in the placement's own, and each of its ports."""
    found = reading.once(reached, service, policy, trust_domain)
    if not found.ways:
        return Part(notices=found.notices)
    index = reading.index(service)
    if index is None:
        return Part(notices=(*found.notices, _no_index(service)))
    addresses = tuple(dict.fromkeys((service_address(0, index), service_address(slot, index))))
    chains = tuple(
        reading.once(redirected_egress_chain, service, each.port, addresses, logging)
        for each in found.ways
        if each.leads_on
    )
    return Part(found.resources, found.notices, chains)


def redirected_egress_chain(
    reading: Reading, service: Key, port: ServicePort, addresses: tuple[str, ...], logging: Digested | None
) -> bytes:
    match = listener_components.FilterChainMatch(destination_port=uint32(port.port))
    for address in addresses:
        match.prefix_ranges.add(address_prefix=address, prefix_len=uint32(32))
    filters = [egress_filter(reading, service, port, logging)]
    chain = listener_components.FilterChain(filter_chain_match=match, filters=filters)
    return bytes_of(listener.Listener(filter_chains=[chain]))


def redirect_egress_listener(reading: Reading, port: int, chains: Sequence[bytes]) -> Resource:
    """`chains` are those of all backends."""
    return Resource.of(LISTENER, names.REDIRECT_EGRESS, b"".join((reading.once(redirect_egress_head, port), *chains)))


def redirect_egress_head(reading: Reading, port: int) -> bytes:
    return bytes_of(
        listener.Listener(
            name=names.REDIRECT_EGRESS,
            address=socket_address("127.0.0.1", port),
            stat_prefix=names.REDIRECT_EGRESS_STATS,
            traffic_direction=OUTBOUND,
            listener_filters=[_original_dst()],
        )
    )


def egress_filter(reading: Reading, service: Key, port: ServicePort, logging: Digested | None) -> Any:
    """For a way that leads on. Only tcp's depends on the routes: others name theirs, whatever these say."""
    if port.protocol is not PortProtocol.TCP:
        routes = names.egress_routes(service.mesh, service.name, port.protocol, port.port)
        return http_filter(EGRESS_STATS, routes, port.protocol, logging)
    tcp = reading.once(way, service, port).tcp
    assert tcp is not None, "only ways that lead on are listened on"
    return tcp_filter(EGRESS_STATS, tcp.weighted, tcp.idle_ms, logging)


def _no_index(service: Key) -> Notice:
    return Notice(service, "", "has no address yet: it is not listened on")


# --- Ingress --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inbound:
    """One listener of the node as it was read."""

    listener: Listener
    accepts: Accepts
    chains: tuple[Any, ...]
    cluster: Resource
    routes: Resource | None

    @property
    def port(self) -> int:
        return self.listener.port_mapping.port

    @property
    def resources(self) -> tuple[Resource, ...]:
        return (self.cluster, self.routes) if self.routes is not None else (self.cluster,)


def bound_ingress(
    reading: Reading, node: Key, address: str, application: str, logging: Digested | None, trust_domain: str
) -> Part:
    """bind: a listener on the host's address for each of the node's. None where the application is said to listen there itself: what comes
    in would go from Envoy to Envoy in circles."""
    inbound, notices = _inbound(reading, node, application, logging, trust_domain)
    if inbound and address == application:
        text = (
            f"not compiled: the application's address is the host's, {address}, and it and Envoy can't both listen there; give the "
            "placement another application address, or the mode redirect"
        )
        return Part(notices=(*notices, Notice(node, "spec.listeners", text)))
    resources = [resource for each in inbound for resource in each.resources]
    for each in inbound:
        name = names.ingress_listener(address, each.port)
        message = listener.Listener(name=name, address=socket_address(address, each.port), traffic_direction=INBOUND)
        if each.accepts.both:
            message.listener_filters.append(inspecting(()))
        message.filter_chains.extend(each.chains)
        resources.append(Resource.of(LISTENER, name, bytes_of(message)))
    return Part(tuple(resources), notices)


def redirected_ingress(
    reading: Reading,
    node: Key,
    wildcard: str,
    port: int,
    application: str,
    logging: Digested | None,
    trust_domain: str,
) -> Part:
    """redirect: one listener, on which connections to all of the node's ports come in; none where the node has none."""
    inbound, notices = _inbound(reading, node, application, logging, trust_domain)
    if not inbound:
        return Part(notices=notices)
    message = listener.Listener(
        name=names.REDIRECT_INGRESS,
        address=socket_address(wildcard, port),
        stat_prefix=names.REDIRECT_INGRESS_STATS,
        traffic_direction=INBOUND,
        listener_filters=[_original_dst()],
    )
    if any(each.accepts.both for each in inbound):
        message.listener_filters.append(inspecting([each.port for each in inbound if not each.accepts.both]))
    for each in inbound:
        for chain in each.chains:
            chain.filter_chain_match.destination_port.value = each.port
            message.filter_chains.append(chain)
    resources = [resource for each in inbound for resource in each.resources]
    return Part((*resources, Resource.of(LISTENER, names.REDIRECT_INGRESS, bytes_of(message))), notices)


def _inbound(
    reading: Reading, node: Key, application: str, logging: Digested | None, trust_domain: str
) -> tuple[list[_Inbound], tuple[Notice, ...]]:
    spec = reading.spec(node)
    assert spec is not None, "the node that is compiled is there"
    body: VirtualNodeSpec = spec.body
    found: dict[int, _Inbound] = {}
    notices = [*application_notices(reading, node, application)]
    for position, each in enumerate(body.listeners):
        port, protocol = each.port_mapping.port, each.port_mapping.protocol
        path = f"spec.listeners[{position}]"
        if port in found:
            notices.append(
                Notice(node, f"{path}.portMapping.port", f"port {port} has a listener already: this one is left out")
            )
            continue
        notices.extend(listener_notices(node, path, each.tls))
        accepts = node_accepts(reading, node, each.tls, protocol, trust_domain)
        cluster = reading.once(ingress_cluster, node, position, application)
        stats = "ingress" if len(body.listeners) == 1 else f"ingress.{protocol}.{port}"
        routes = None
        if protocol is PortProtocol.TCP:
            one = tcp_filter(stats, [(cluster.name, 1)], tcp_idle_ms(each), logging)
            chains = filter_chains(accepts, one, one)
        else:
            routes = reading.once(ingress_routes, node, position)
            chains = http_chains(accepts, stats, routes.name, protocol, logging, _stream_idle_ms(each))
        found[port] = _Inbound(each, accepts, chains, cluster, routes)
    return list(found.values()), tuple(notices)


def ingress_routes(reading: Reading, node: Key, position: int) -> Resource:
    spec = reading.spec(node)
    assert spec is not None
    each: Listener = spec.body.listeners[position]
    mapping = each.port_mapping
    name = names.ingress_routes(mapping.port)
    cluster = names.ingress_cluster(node.mesh, node.name, mapping.protocol, mapping.port)
    return Resource.of(ROUTE, name, bytes_of(ingress_route_config(name, cluster, each)))


def http_chains(
    accepts: Accepts, stats: str, routes: str, protocol: PortProtocol, logging: Digested | None, stream_idle_ms: int
) -> tuple[Any, ...]:
    plain = http_filter(stats, routes, protocol, logging, idle_ms=stream_idle_ms)
    over_tls = http_filter(
        stats, routes, protocol, logging, idle_ms=stream_idle_ms, client_certificates=accepts.client_certificates
    )
    return filter_chains(accepts, over_tls, plain)


def filter_chains(accepts: Accepts, over_tls: Any, plain: Any) -> tuple[Any, ...]:
    """One chain for what the listener takes, or two that the transport protocol tells apart."""
    chain, match = listener_components.FilterChain, listener_components.FilterChainMatch
    chains = []
    if accepts.tls is not None:
        chains.append(chain(name="tls", transport_socket=accepts.tls, filters=[over_tls]))
    if accepts.plaintext:
        chains.append(chain(name="plaintext", filters=[plain]))
    if accepts.both:
        chains[0].filter_chain_match.CopyFrom(match(transport_protocol="tls"))
        chains[1].filter_chain_match.CopyFrom(match(transport_protocol="raw_buffer"))
    return tuple(chains)


def _stream_idle_ms(each: Listener) -> int:
    timeout = getattr(each.timeout, each.port_mapping.protocol.value) if each.timeout is not None else None
    return idle_ms(timeout)


# --- Listener filters -----------------------------------------------------------------------------------------------------------


def _original_dst() -> Any:
    return listener_components.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=any_of(original_dst.OriginalDst())
    )


def inspecting(disabled_ports: Sequence[int]) -> Any:
    """Off for ports where nothing depends on it: a client of a protocol in which the server speaks first would wait for it in vain."""
    message = listener_components.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=any_of(tls_inspector.TlsInspector())
    )
    rules = [_of_port(port) for port in disabled_ports]
    if len(rules) == 1:
        message.filter_disabled.CopyFrom(rules[0])
    elif rules:
        message.filter_disabled.or_match.rules.extend(rules)
    return message


def inspecting_only(port: int) -> Any:
    """On for one port alone."""
    message = inspecting(())
    message.filter_disabled.not_match.CopyFrom(_of_port(port))
    return message


def _of_port(port: int) -> Any:
    predicate = listener_components.ListenerFilterChainMatchPredicate
    return predicate(destination_port_range={"start": port, "end": port + 1})
