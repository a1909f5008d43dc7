"""The bootstrap of one generation of a proxy: who it is, where its configuration comes from, its admin socket. All else comes over ADS.

Pure: a JSON document from values. The clusters that it names depend on nothing dynamic, and certificates come from files beside ADS, so
that an Envoy starts with nothing but its agent, or serves on without it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from meshagent.host.supervisor import EnvoySpec, intent

_TYPE = "type.googleapis.com/envoy"
_RELAY = "relay"
# Of the listener that opens all others, and of its routes.
GATE = "gate"
# App Mesh's name for it, which the `sds` certificates of specs are compiled to.
_SDS = "static_cluster_sds_unix_socket"
# Each downstream connection may hold a second descriptor, upstream; some are for files and listeners.
_DESCRIPTORS_PER_CONNECTION = 2
_LEAST_CONNECTIONS = 1024
# Past this an RE2 program is a mistake or an attack: App Mesh's own limit.
_RE2_ERROR_LEVEL = 1000
_AGENT: dict[str, Any] = {
    "envoy_grpc": {
        "cluster_name": _RELAY,
        # The default waits up to 10 s for a relay that is back at once.
        "retry_policy": {"retry_back_off": {"base_interval": "0.2s", "max_interval": "2s"}},
    }
}


@dataclass(frozen=True)
class Node:
    """Who the proxy is towards whoever configures it: the placement's id and its resource's path."""

    id: str
    cluster: str


def document(node: Node, spec: EnvoySpec, open_files: int) -> dict[str, Any]:
    """`open_files` is the limit of open files under which Envoy will run."""
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            # From here the supervisor learns what runs when the state file is lost.
            "metadata": {"generation": asdict(intent(spec))},
        },
        "admin": {"address": {"pipe": {"path": str(spec.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [_AGENT],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": _clusters(spec), "listeners": [_gate()]},
        # Gateways loop through listeners inside Envoy.
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {"@type": f"{_TYPE}.extensions.bootstrap.internal_listener.v3.InternalListener"},
            }
        ],
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": {"re2": {"max_program_size": {"error_level": _RE2_ERROR_LEVEL}}}},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": str(
                            max(_LEAST_CONNECTIONS, open_files // _DESCRIPTORS_PER_CONNECTION)
                        ),
                    },
                }
            ]
        },
        "stats_config": {"use_all_default_tags": True},
    }


def text(node: Node, spec: EnvoySpec, open_files: int) -> str:
    return json.dumps(document(node, spec, open_files), indent=1) + "\n"


def _gate() -> dict[str, Any]:
    """It listens nowhere, and Envoy nowhere else before it has its routes."""
    source = {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [_AGENT],
        },
    }
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": GATE,
        "rds": {"route_config_name": GATE, "config_source": source},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    connections = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": GATE,
        "bind_to_port": False,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [connections]}],
    }


def _clusters(spec: EnvoySpec) -> list[dict[str, Any]]:
    sockets = {_RELAY: spec.relay_socket, _SDS: spec.sds_socket}
    return [_socket_cluster(name, str(socket)) for name, socket in sockets.items() if socket is not None]


def _socket_cluster(name: str, socket: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}
                },
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    }
