"""Load assignments: a virtual node's endpoints on one of its listeners' ports. The same for every client."""

from __future__ import annotations

from typing import Any

from meshagent.envoy.memo import Reading
from meshagent.envoy.protos import address, bytes_of, endpoint, endpoint_components, health_check
from meshagent.envoy.services import Target
from meshagent.envoy.tls import endpoint_metadata
from meshagent.mesh.placement import Endpoint, Health
from meshagent.xds.snapshot import ENDPOINT, Resource

_HEALTH = {
    Health.HEALTHY: health_check.HealthStatus.HEALTHY,
    Health.UNHEALTHY: health_check.HealthStatus.UNHEALTHY,
    Health.DRAINING: health_check.HealthStatus.DRAINING,
}


def load_assignment(reading: Reading, target: Target) -> Resource:
    """Named as its cluster; without localities where there are no endpoints, so that requests fail at once (503)."""
    message = endpoint.ClusterLoadAssignment(cluster_name=target.cluster)
    endpoints = sorted(reading.endpoints(target.node), key=lambda each: (each.address, each.placement))
    if endpoints:
        message.endpoints.add(lb_endpoints=[_lb_endpoint(each, target.port) for each in endpoints])
    return Resource.of(ENDPOINT, target.cluster, bytes_of(message))


def _lb_endpoint(each: Endpoint, port: int) -> Any:
    message = lb_endpoint(each.address, port)
    message.health_status = _HEALTH[each.health]
    if each.leased:
        message.metadata.CopyFrom(endpoint_metadata())
    return message


def lb_endpoint(host: str, port: int) -> Any:
    """One address, or name, of a load assignment."""
    return endpoint_components.LbEndpoint(endpoint=endpoint_components.Endpoint(address=socket_address(host, port)))


def every_address(beside: str) -> str:
    """The wildcard for a listener on a host with that address: both families where it is IPv6."""
    return "::" if ":" in beside else "0.0.0.0"


def socket_address(host: str, port: int) -> Any:
    if host == "::":
        return address.Address(socket_address=address.SocketAddress(address=host, port_value=port, ipv4_compat=True))
    return address.Address(socket_address=address.SocketAddress(address=host, port_value=port))
