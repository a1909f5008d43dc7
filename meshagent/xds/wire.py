"""Requests and responses to protobuf messages and back, and how large they may be. The only place that knows both
forms."""

from __future__ import annotations

from typing import Any

from meshagent.protos import discovery
from meshagent.xds.messages import Request, Response
from meshagent.xds.snapshot import Resource

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA_METHOD = "DeltaAggregatedResources"
SOTW_METHOD = "StreamAggregatedResources"

# One message at most, either way: far above what one proxy's configuration takes, far below what a process can hold.
MAX_MESSAGE_BYTES = 64 << 20

_SIZES = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES))

# A peer that is gone without a word is noticed within 40 s, by either side.
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_SIZES,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_SIZES,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

# google.rpc.Code.INVALID_ARGUMENT, which the protocol asks for in a NACK.
_INVALID_ARGUMENT = 3


def delta_request(message: Any) -> Request:
    return Request(
        message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=_error(message),
    )


def sotw_request(message: Any) -> Request:
    return Request(
        message.type_url,
        nonce=message.response_nonce,
        error=_error(message),
        names=tuple(message.resource_names),
        version=message.version_info,
    )


def _error(message: Any) -> str | None:
    if not message.HasField("error_detail"):
        return None
    return str(message.error_detail.message) or f"refused without words, code {message.error_detail.code}"


def delta_response(response: Response) -> Any:
    message = discovery.DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        system_version_info=response.system_version,
    )
    for resource in response.resources:
        added = message.resources.add(name=resource.name, version=resource.version)
        added.resource.type_url, added.resource.value = resource.type_url, resource.body
    return message


def sotw_response(response: Response) -> Any:
    message = discovery.DiscoveryResponse(
        type_url=response.type_url, nonce=response.nonce, version_info=response.system_version
    )
    for resource in response.resources:
        message.resources.add(type_url=resource.type_url, value=resource.body)
    return message


def delta_request_message(request: Request, node: Any = None) -> Any:
    """The client's side. `node` goes with the first request of a stream only."""
    message = discovery.DeltaDiscoveryRequest(
        node=node,
        type_url=request.type_url,
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=dict(request.initial_versions),
        response_nonce=request.nonce,
    )
    if request.error is not None:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = request.error
    return message


def delta_response_values(message: Any) -> Response:
    """The client's side."""
    return Response(
        message.type_url,
        message.nonce,
        tuple(
            Resource(message.type_url, resource.name, resource.version, resource.resource.value)
            for resource in message.resources
        ),
        tuple(message.removed_resources),
        message.system_version_info,
    )
