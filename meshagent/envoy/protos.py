"""Envoy's configuration messages under short names: the door through which the compiler takes them in.

Everything here comes from xds-protos, which has no type information: all of it is Any. What the agent needs (the discovery messages) is in
`meshagent.protos`, so that it never loads what is here. This module knows no mesh: only messages, durations and deterministic bytes.
"""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.cluster.v3 import circuit_breaker_pb2 as circuit_breaker
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.cluster.v3 import outlier_detection_pb2 as outlier_detection
from envoy.config.core.v3 import address_pb2 as address
from envoy.config.core.v3 import base_pb2 as core
from envoy.config.core.v3 import config_source_pb2 as config_source
from envoy.config.core.v3 import grpc_service_pb2 as grpc_service
from envoy.config.core.v3 import health_check_pb2 as health_check
from envoy.config.core.v3 import protocol_pb2 as protocol
from envoy.config.core.v3 import substitution_format_string_pb2 as format_string
from envoy.config.endpoint.v3 import endpoint_components_pb2 as endpoint_components
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.listener.v3 import listener_components_pb2 as listener_components
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.route.v3 import route_components_pb2 as route_components
from envoy.config.route.v3 import route_pb2 as route
from envoy.extensions.access_loggers.file.v3 import file_pb2 as file_access_log
from envoy.extensions.bootstrap.internal_listener.v3 import internal_listener_pb2 as internal_listener
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2 as original_dst
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2 as tls_inspector
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as tcp_proxy
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as previous_hosts
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2 as raw_buffer
from envoy.extensions.transport_sockets.tls.v3 import common_pb2 as tls_common
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as tls_secret
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_options
from envoy.type.matcher.v3 import metadata_pb2 as metadata_matcher
from envoy.type.matcher.v3 import path_pb2 as path_matcher
from envoy.type.matcher.v3 import regex_pb2 as regex
from envoy.type.matcher.v3 import string_pb2 as string_matcher
from envoy.type.v3 import http_pb2 as http
from envoy.type.v3 import percent_pb2 as percent
from envoy.type.v3 import range_pb2 as int_range
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2

__all__ = [
    "accesslog",
    "address",
    "any_of",
    "bootstrap",
    "bytes_of",
    "circuit_breaker",
    "cluster",
    "config_source",
    "core",
    "duration",
    "endpoint",
    "endpoint_components",
    "file_access_log",
    "format_string",
    "grpc_service",
    "hcm",
    "health_check",
    "http",
    "http_options",
    "int_range",
    "internal_listener",
    "listener",
    "listener_components",
    "metadata_matcher",
    "original_dst",
    "outlier_detection",
    "path_matcher",
    "percent",
    "previous_hosts",
    "protocol",
    "raw_buffer",
    "regex",
    "route",
    "route_components",
    "router",
    "string_matcher",
    "struct_pb2",
    "tcp_proxy",
    "tls",
    "tls_common",
    "tls_inspector",
    "tls_secret",
    "uint32",
    "wrappers_pb2",
]


def bytes_of(message: Any) -> bytes:
    """Equal messages give equal bytes, in every process: versions are hashes of them."""
    return bytes(message.SerializeToString(deterministic=True))


def any_of(message: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def duration(milliseconds: int) -> Any:
    return duration_pb2.Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def uint32(value: int) -> Any:
    return wrappers_pb2.UInt32Value(value=value)
