"""Clusters: how clients reach a virtual node's listener, how its own Envoy reaches the application, how a gateway reaches itself.

A client's cluster depends on the target, on the client's TLS policy and on nothing else of the client, so that all clients without a
policy share it. Knows no listeners and no routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshagent.envoy import names
from meshagent.envoy.endpoints import lb_endpoint
from meshagent.envoy.memo import Digested, Reading
from meshagent.envoy.notices import Notice
from meshagent.envoy.protos import (
    address,
    any_of,
    bytes_of,
    circuit_breaker,
    cluster,
    config_source,
    duration,
    endpoint,
    endpoint_components,
    health_check,
    http,
    http_options,
    outlier_detection,
    percent,
    uint32,
    wrappers_pb2,
)
from meshagent.envoy.protos import protocol as protocols
from meshagent.envoy.routes import UNREACHABLE
from meshagent.envoy.services import ServicePort, Target
from meshagent.envoy.tls import ALPN, client_speaks
from meshagent.mesh.graph import View
from meshagent.specs.fields import IpPreference, PortProtocol
from meshagent.specs.keys import Key, Kind, mesh_key, service_key
from meshagent.specs.listeners import HealthCheckPolicy, Listener, OutlierDetection
from meshagent.specs.nodes import DnsResponseType, DnsServiceDiscovery, VirtualNodeSpec
from meshagent.specs.policies import EndpointSource
from meshagent.xds.snapshot import CLUSTER, Resource

UNLIMITED = 2147483647
CONNECT_MS = 1000
# App Mesh gave the local application 250 ms. On loopback only an Envoy that is itself held up takes that long: the
# application is not to blame.
APPLICATION_CONNECT_MS = 1000
PANIC_PERCENT = 50
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CODECS = {PortProtocol.HTTP: http.CodecClientType.HTTP1, PortProtocol.HTTP2: http.CodecClientType.HTTP2}
_KEEPALIVE_MS = (30_000, 5_000)

_LOOKUP = {
    None: cluster.Cluster.AUTO,
    IpPreference.IPV4_PREFERRED: cluster.Cluster.V4_PREFERRED,
    IpPreference.IPV6_PREFERRED: cluster.Cluster.AUTO,
    IpPreference.IPV4_ONLY: cluster.Cluster.V4_ONLY,
    IpPreference.IPV6_ONLY: cluster.Cluster.V6_ONLY,
}
_DNS_TYPES = {
    None: cluster.Cluster.LOGICAL_DNS,
    DnsResponseType.LOADBALANCER: cluster.Cluster.LOGICAL_DNS,
    DnsResponseType.ENDPOINTS: cluster.Cluster.STRICT_DNS,
}
_HTTP2 = (PortProtocol.HTTP2, PortProtocol.GRPC)


@dataclass(frozen=True)
class EgressCluster:
    """`by_eds` when its endpoints come as a load assignment of its name."""

    resource: Resource
    by_eds: bool
    notices: tuple[Notice, ...]


def egress_cluster(reading: Reading, target: Target, policy: Digested | None, trust_domain: str) -> EgressCluster:
    """`policy` holds the client's ClientPolicyTls for the backend."""
    spec = reading.spec(target.node)
    assert spec is not None, "a target's node is there"
    body: VirtualNodeSpec = spec.body
    position, listener = next(
        (at, each) for at, each in enumerate(body.listeners) if each.port_mapping.port == target.port
    )
    message = _cluster(target.cluster, CONNECT_MS, target.protocol)
    notices: list[Notice] = []
    dns = _resolved_by_envoy(reading, target.node, body, notices)
    if dns is not None:
        message.type = _DNS_TYPES[dns.response_type]
        message.dns_lookup_family = _LOOKUP[_ip_preference(reading, target.node, body).value]
        message.load_assignment.CopyFrom(_assignment(target.cluster, lb_endpoint(dns.hostname, target.port)))
    else:
        message.type = cluster.Cluster.EDS
        message.eds_cluster_config.eds_config.CopyFrom(ads_source())
    speaks = client_speaks(
        reading, target.node, target.port, target.protocol, policy.value if policy is not None else None, trust_domain
    )
    if speaks.socket is not None:
        message.transport_socket.CopyFrom(speaks.socket)
    message.transport_socket_matches.extend(speaks.matches)
    if listener.outlier_detection is not None:
        path = f"spec.listeners[{position}].outlierDetection"
        message.outlier_detection.CopyFrom(_outliers(listener.outlier_detection, target.node, path, notices))
    if listener.health_check is not None:
        message.health_checks.append(_health_check(listener.health_check))
        # Otherwise an endpoint that is gone stays until the check fails too.
        message.ignore_health_on_host_removal = True
    return EgressCluster(Resource.of(CLUSTER, target.cluster, bytes_of(message)), dns is None, tuple(notices))


def ingress_cluster(reading: Reading, node: Key, position: int, application: str) -> Resource:
    """From a node's Envoy to the application behind its listener at `position`, whose connectionPool limits it."""
    spec = reading.spec(node)
    assert spec is not None, "the node that is compiled is there"
    listener: Listener = spec.body.listeners[position]
    mapping = listener.port_mapping
    name = names.ingress_cluster(node.mesh, node.name, mapping.protocol, mapping.port)
    message = _cluster(name, APPLICATION_CONNECT_MS, mapping.protocol, listener.connection_pool)
    message.type = cluster.Cluster.STATIC
    message.load_assignment.CopyFrom(_assignment(name, lb_endpoint(application, mapping.port)))
    return Resource.of(CLUSTER, name, bytes_of(message))


def application_notices(reading: Reading, node: Key, application: str) -> tuple[Notice, ...]:
    """App Mesh looked for the application of a node that prefers IPv6 on ::1. Here where it listens is its host's to say."""
    spec = reading.spec(node)
    assert spec is not None, "the node that is compiled is there"
    if ":" in application or not spec.body.listeners:
        return ()
    preference = _ip_preference(reading, node, spec.body)
    if preference.value not in (IpPreference.IPV6_PREFERRED, IpPreference.IPV6_ONLY):
        return ()
    message = (
        f"{preference.value} says which addresses of a name count, and no more: the application of {node.path} is called on "
        f"{application}; where it listens on ::1, the placement's application must say so"
    )
    return (Notice(preference.resource, preference.path, message),)


def self_redirect_cluster(
    reading: Reading, gateway: Key, service: str, port: ServicePort, pool: Digested | None
) -> Resource:
    """From a gateway's routes to the listener inside the same Envoy where the virtual service's own routes apply.

    `pool` holds the connectionPool of the gateway's listener."""
    name = names.self_redirect_cluster(gateway.mesh, gateway.name, service, port.protocol, port.port)
    message = _cluster(name, APPLICATION_CONNECT_MS, port.protocol, pool.value if pool is not None else None)
    message.type = cluster.Cluster.STATIC
    message.alt_stat_name = names.self_redirect_stats(gateway.mesh, gateway.name, port.protocol)
    inside = address.EnvoyInternalAddress(
        server_listener_name=names.internal_listener(gateway.mesh, service, port.protocol, port.port)
    )
    there = endpoint_components.Endpoint(address=address.Address(envoy_internal_address=inside))
    message.load_assignment.CopyFrom(_assignment(name, endpoint_components.LbEndpoint(endpoint=there)))
    return Resource.of(CLUSTER, name, bytes_of(message))


def unreachable_cluster(reading: Reading) -> Resource:
    """No endpoints, ever: where routes send what has no target."""
    message = _cluster(UNREACHABLE, CONNECT_MS, PortProtocol.TCP)
    message.type = cluster.Cluster.STATIC
    return Resource.of(CLUSTER, UNREACHABLE, bytes_of(message))


_FAR_CONNECT_MS = 10_000  # out of the mesh, round the world perhaps


def pass_through_cluster(reading: Reading, mesh: str) -> Resource:
    """Wherever the caller meant to go."""
    message = _cluster(names.allow_all_cluster(mesh), _FAR_CONNECT_MS, PortProtocol.TCP)
    message.type = cluster.Cluster.ORIGINAL_DST
    message.lb_policy = cluster.Cluster.CLUSTER_PROVIDED
    return Resource.of(CLUSTER, message.name, bytes_of(message))


def ads_source() -> Any:
    return config_source.ConfigSource(
        ads=config_source.AggregatedConfigSource(),
        resource_api_version=config_source.ApiVersion.V3,
        initial_fetch_timeout=duration(0),
    )


def _cluster(name: str, connect_ms: int, protocol: PortProtocol, pool: Any = None) -> Any:
    message = cluster.Cluster(name=name, connect_timeout=duration(connect_ms))
    message.circuit_breakers.thresholds.append(_limits(pool))
    message.common_lb_config.healthy_panic_threshold.CopyFrom(percent.Percent(value=PANIC_PERCENT))
    if protocol is not PortProtocol.TCP:
        options = http_options.HttpProtocolOptions()
        if protocol in _HTTP2:
            keepalive = options.explicit_http_config.http2_protocol_options.connection_keepalive
            keepalive.interval.CopyFrom(duration(_KEEPALIVE_MS[0]))
            keepalive.timeout.CopyFrom(duration(_KEEPALIVE_MS[1]))
        else:
            options.explicit_http_config.http_protocol_options.CopyFrom(protocols.Http1ProtocolOptions())
        message.typed_extension_protocol_options[OPTIONS].CopyFrom(any_of(options))
    return message


def _limits(pool: Any) -> Any:
    """App Mesh's defaults are no limits at all; a connectionPool sets those that it names."""
    found = pool.member if pool is not None else None
    limits = {
        field: getattr(found, field, None) or UNLIMITED
        for field in ("max_connections", "max_pending_requests", "max_requests")
    }
    return circuit_breaker.CircuitBreakers.Thresholds(
        max_retries=uint32(UNLIMITED), **{field: uint32(limit) for field, limit in limits.items()}
    )


def _assignment(name: str, member: Any) -> Any:
    message = endpoint.ClusterLoadAssignment(cluster_name=name)
    message.endpoints.add(lb_endpoints=[member])
    return message


def _resolved_by_envoy(
    view: View, node: Key, body: VirtualNodeSpec, notices: list[Notice]
) -> DnsServiceDiscovery | None:
    """The name that Envoy resolves by itself; None where the endpoints come by EDS."""
    policy = view.spec(Key(node.mesh, Kind.VIRTUAL_NODE_POLICY, node.name))
    source = policy.body.endpoints if policy is not None else EndpointSource.BOTH
    found = body.service_discovery
    if found is not None and found.aws_cloud_map is not None and source is not EndpointSource.LEASES:
        message = (
            "Cloud Map is not asked: the node has no endpoints; give it the policy leases"
            if source is EndpointSource.DISCOVERY
            else "Cloud Map is not asked: the endpoints are those that have a lease"
        )
        notices.append(Notice(node, "spec.serviceDiscovery.awsCloudMap", message))
    if source is not EndpointSource.DISCOVERY:
        return None
    if found is None:
        message = (
            "the node's policy says discovery, and there is none: give it a serviceDiscovery, or the policy leases"
        )
        notices.append(Notice(node, "spec.serviceDiscovery", message))
        return None
    if found.dns is None or view.spec(service_key(node.mesh, found.dns.hostname)) is not None:
        # Envoy's resolver reads /etc/hosts, where a virtual service's name stands for its own address: it would call itself.
        return None
    return found.dns


@dataclass(frozen=True)
class _Preference:
    """What holds for a node, and where that is said."""

    value: IpPreference | None
    resource: Key
    path: str


def _ip_preference(view: View, node: Key, body: VirtualNodeSpec) -> _Preference:
    """The node's own, else its mesh's."""
    found = body.service_discovery
    if found is not None and found.member.ip_preference is not None:
        member = "dns" if found.dns is not None else "awsCloudMap"
        return _Preference(found.member.ip_preference, node, f"spec.serviceDiscovery.{member}.ipPreference")
    mesh = mesh_key(node.mesh)
    spec = view.spec(mesh)
    discovery = spec.body.service_discovery if spec is not None else None
    value = discovery.ip_preference if discovery is not None else None
    return _Preference(value, mesh, "spec.serviceDiscovery.ipPreference")


def _outliers(spec: OutlierDetection, node: Key, path: str, notices: list[Notice]) -> Any:
    """Server errors in a row and nothing else: Envoy's own statistical ejections are off. One host can always be ejected."""
    message = outlier_detection.OutlierDetection(
        consecutive_5xx=uint32(min(spec.max_server_errors, 0xFFFFFFFF)),
        max_ejection_percent=uint32(spec.max_ejection_percent),
        enforcing_success_rate=uint32(0),
        always_eject_one_host=wrappers_pb2.BoolValue(value=True),
    )
    for written, given, into in (
        ("interval", spec.interval, message.interval),
        ("baseEjectionDuration", spec.base_ejection_duration, message.base_ejection_time),
    ):
        if given.milliseconds > 0:
            into.CopyFrom(duration(given.milliseconds))
        else:
            notices.append(
                Notice(node, f"{path}.{written}", "0 is no time: Envoy's default holds; give it at least 1 ms")
            )
    return message


def _health_check(spec: HealthCheckPolicy) -> Any:
    message = health_check.HealthCheck(
        timeout=duration(spec.timeout_millis),
        interval=duration(spec.interval_millis),
        # Else Envoy waits 60 s between checks until the first request, and once more after it.
        no_traffic_interval=duration(spec.interval_millis),
        healthy_threshold=uint32(spec.healthy_threshold),
        unhealthy_threshold=uint32(spec.unhealthy_threshold),
    )
    if spec.protocol is PortProtocol.TCP:
        message.tcp_health_check.SetInParent()
        return message
    # The check may speak another HTTP than the listener is called with: over TLS it must not take the cluster's ALPN.
    message.tls_options.alpn_protocols.extend(ALPN[spec.protocol])
    if spec.protocol is PortProtocol.GRPC:
        message.grpc_health_check.SetInParent()
    else:
        message.http_health_check.path = spec.path or "/"
        message.http_health_check.codec_client_type = _CODECS[spec.protocol]
    return message
