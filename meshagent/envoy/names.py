"""What things are called inside Envoy. The names are App Mesh's: dashboards and alarms are built on them, so they never change.

Only strings: nothing here knows messages or specs.
"""

from __future__ import annotations

REDIRECT_INGRESS = "lds_ingress_0.0.0.0_15000"
REDIRECT_EGRESS = "lds_egress_0.0.0.0_15001"
REDIRECT_INGRESS_STATS = "0.0.0.0_15000"
REDIRECT_EGRESS_STATS = "0.0.0.0_15001"

# Filter chains for what is no service of the mesh.
ALLOWED, ALLOWED_AWS = "allow-all", "allow-aws"

# The socket of an SDS provider beside Envoy; the agent's bootstrap has it where one is configured.
SDS_CLUSTER = "static_cluster_sds_unix_socket"


def egress_cluster(mesh: str, node: str, protocol: str, port: int) -> str:
    return f"cds_egress_{mesh}_{node}_{protocol}_{port}"


def ingress_cluster(mesh: str, node: str, protocol: str, port: int) -> str:
    return f"cds_ingress_{mesh}_{node}_{protocol}_{port}"


def self_redirect_cluster(mesh: str, gateway: str, service: str, protocol: str, port: int) -> str:
    """A gateway's way into its own egress for one virtual service's port."""
    return f"cds_ingress_{mesh}_{gateway}_self_redirect_{service}_{protocol}_{port}"


def self_redirect_stats(mesh: str, gateway: str, protocol: str) -> str:
    """The name under which App Mesh counted all that a gateway sends on."""
    return f"cds_ingress_{mesh}_{gateway}_self_redirect_{protocol}_15001"


def allow_all_cluster(mesh: str) -> str:
    return f"cds_egress_{mesh}_mesh-allow-all"


def egress_routes(mesh: str, service: str, protocol: str, port: int) -> str:
    return f"rds_egress_{mesh}_{service}_{protocol}_{port}"


def ingress_routes(port: int) -> str:
    """`http` stands for http, http2 and grpc alike."""
    return f"rds_ingress_http_{port}"


def ingress_listener(address: str, port: int) -> str:
    return f"lds_ingress_{address}_{port}"


def egress_listener(address: str, port: int) -> str:
    return f"lds_egress_{address}_{port}"


def gateway_listener(port: int) -> str:
    return f"lds_ingress_0.0.0.0_port_{port}"


def internal_listener(mesh: str, service: str, protocol: str, port: int) -> str:
    """Where a gateway's self_redirect cluster leads: one listener inside Envoy for each virtual service and port."""
    return f"lds_egress_internal_{mesh}_{service}_{protocol}_{port}"
