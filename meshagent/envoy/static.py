"""A snapshot as one static configuration, for `envoy --mode validate`: that looks at nothing which comes over ADS.

Route configurations go into the listeners, load assignments into the clusters. What needs no proxy and no server to be checked.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict

from meshagent.envoy import names
from meshagent.envoy.clusters import OPTIONS
from meshagent.envoy.protos import (
    any_of,
    bootstrap,
    bytes_of,
    cluster,
    endpoint,
    hcm,
    http_options,
    internal_listener,
    listener,
    route,
)
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot

_MESSAGES = {
    CLUSTER: cluster.Cluster,
    ENDPOINT: endpoint.ClusterLoadAssignment,
    LISTENER: listener.Listener,
    ROUTE: route.RouteConfiguration,
}
_MANAGER = "envoy.filters.network.http_connection_manager"


def message_of(resource: Resource) -> Any:
    """The message that a resource of one of the four types holds."""
    return _MESSAGES[resource.type_url].FromString(resource.body)


def static_form(snapshot: Snapshot) -> Snapshot:
    """Listeners and clusters alone, with what they refer to inlined."""
    routes = {name: message_of(each) for name, each in snapshot.of(ROUTE).items()}
    assignments = {name: message_of(each) for name, each in snapshot.of(ENDPOINT).items()}
    listeners = [_with_routes(message_of(each), routes) for each in snapshot.of(LISTENER).values()]
    clusters = [_with_endpoints(message_of(each), assignments) for each in snapshot.of(CLUSTER).values()]
    resources = [
        *(Resource.of(LISTENER, each.name, bytes_of(each)) for each in listeners),
        *(Resource.of(CLUSTER, each.name, bytes_of(each)) for each in clusters),
    ]
    return Snapshot.build(resources, snapshot.stamp)


def static_bootstrap(snapshot: Snapshot) -> dict[str, Any]:
    """All of a snapshot as the configuration file of an Envoy of its own. It names tls/ files relative to the working directory."""
    static = static_form(snapshot)
    message = bootstrap.Bootstrap()
    message.node.id = message.node.cluster = "validate"
    extension = message.bootstrap_extensions.add(name="envoy.bootstrap.internal_listener")
    extension.typed_config.CopyFrom(any_of(internal_listener.InternalListener()))
    message.static_resources.listeners.extend(message_of(each) for each in static.of(LISTENER).values())
    message.static_resources.clusters.extend(message_of(each) for each in static.of(CLUSTER).values())
    message.static_resources.clusters.append(_sds_provider())
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _with_routes(message: Any, routes: dict[str, Any]) -> Any:
    for chain in message.filter_chains:
        for each in chain.filters:
            if each.name != _MANAGER:
                continue
            manager = hcm.HttpConnectionManager()
            each.typed_config.Unpack(manager)
            manager.route_config.CopyFrom(routes[manager.rds.route_config_name])
            each.typed_config.CopyFrom(any_of(manager))
    return message


def _with_endpoints(message: Any, assignments: dict[str, Any]) -> Any:
    if message.type == cluster.Cluster.EDS:
        message.type = cluster.Cluster.STATIC
        message.ClearField("eds_cluster_config")
        message.load_assignment.CopyFrom(assignments[message.name])
    return message


def _sds_provider() -> Any:
    """Stands for the one that an agent's bootstrap may have."""
    message = cluster.Cluster(name=names.SDS_CLUSTER, type=cluster.Cluster.STATIC)
    message.load_assignment.cluster_name = names.SDS_CLUSTER
    member = message.load_assignment.endpoints.add().lb_endpoints.add()
    member.endpoint.address.pipe.path = "sds.sock"
    options = http_options.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    message.typed_extension_protocol_options[OPTIONS].CopyFrom(any_of(options))
    return message
