"""What a listener does with a connection: an HTTP connection manager whose routes come by RDS, or a tcp_proxy.

Behaviour is App Mesh's: paths are normalised, websockets pass on http listeners, the client's address is taken from the connection, and
no caller can override timeouts or retries by x-envoy-* headers. Knows no specs but `logging`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshagent.envoy.accesslogs import access_logs
from meshagent.envoy.clusters import ads_source
from meshagent.envoy.memo import Digested
from meshagent.envoy.protos import any_of, duration, hcm, listener_components, router, tcp_proxy, uint32
from meshagent.envoy.retries import DEFAULT_IDLE_MS
from meshagent.specs.fields import PortProtocol

NOBODY = "0.0.0.0"
_MANAGER = hcm.HttpConnectionManager

TCP_CONNECT_ATTEMPTS = 3


def http_filter(
    stat_prefix: str,
    routes: str,
    protocol: PortProtocol,
    logging: Digested | None,
    *,
    idle_ms: int = DEFAULT_IDLE_MS,
    client_certificates: bool = False,
) -> Any:
    """`routes` names the route configuration, `idle_ms` limits streams that no route was found for yet; with `client_certificates` the
    next hop is told the caller's identity in x-forwarded-client-cert."""
    message = _MANAGER(
        stat_prefix=stat_prefix,
        rds=hcm.Rds(route_config_name=routes, config_source=ads_source()),
        access_log=_logs(logging),
        stream_idle_timeout=duration(idle_ms),
        merge_slashes=True,
    )
    message.normalize_path.value = True
    # Nobody counts as internal: x-envoy-* headers of callers are dropped, whatever x-forwarded-for says. Without any range Envoy would
    # take private addresses for internal ones.
    message.internal_address_config.cidr_ranges.add(address_prefix=NOBODY, prefix_len=uint32(32))
    if protocol is PortProtocol.HTTP:
        message.upgrade_configs.add(upgrade_type="websocket")
    if client_certificates:
        message.forward_client_cert_details = _MANAGER.SANITIZE_SET
        message.set_current_client_cert_details.uri = True
    message.http_filters.add(name="envoy.filters.http.router", typed_config=any_of(router.Router()))
    return listener_components.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=any_of(message)
    )


def tcp_filter(stat_prefix: str, weighted: Sequence[tuple[str, int]], idle_ms: int, logging: Digested | None) -> Any:
    """`weighted` are clusters and their weights, all above 0; an `idle_ms` of 0 is no limit."""
    message = tcp_proxy.TcpProxy(stat_prefix=stat_prefix, idle_timeout=duration(idle_ms), access_log=_logs(logging))
    # Before a byte has been sent another endpoint, or the same again, does as well.
    message.max_connect_attempts.value = TCP_CONNECT_ATTEMPTS
    if len(weighted) == 1:
        message.cluster = weighted[0][0]
    else:
        for cluster, weight in weighted:
            message.weighted_clusters.clusters.add(name=cluster, weight=weight)
    return listener_components.Filter(name="envoy.filters.network.tcp_proxy", typed_config=any_of(message))


def _logs(logging: Digested | None) -> list[Any]:
    return access_logs(logging.value) if logging is not None else []
