"""Listeners of virtual nodes and virtual gateways as frozen models: ports, pools, health checks, timeouts, outlier detection.

A gateway's classes differ from the node's only where a class here says so; a router's listener, a bare port, is in `services`.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from meshagent.specs.fields import Duration, Model, OneOf, Percent, Port, PortMapping, PortProtocol, Positive, Str
from meshagent.specs.tls import ListenerTls


class TcpPool(Model):
    max_connections: Positive


class HttpPool(Model):
    max_connections: Positive
    max_pending_requests: Positive | None = None


class RequestPool(Model):
    max_requests: Positive


class VirtualNodeConnectionPool(OneOf):
    grpc: RequestPool | None = None
    http: HttpPool | None = None
    http2: RequestPool | None = None
    tcp: TcpPool | None = None


class VirtualGatewayConnectionPool(OneOf):
    grpc: RequestPool | None = None
    http: HttpPool | None = None
    http2: RequestPool | None = None


class HealthCheckPolicy(Model):
    healthy_threshold: Annotated[StrictInt, Field(ge=2, le=10)]
    unhealthy_threshold: Annotated[StrictInt, Field(ge=2, le=10)]
    interval_millis: Annotated[StrictInt, Field(ge=5000, le=300000)]
    timeout_millis: Annotated[StrictInt, Field(ge=2000, le=60000)]
    protocol: PortProtocol
    path: Str | None = None
    port: Port | None = None


class HttpTimeout(Model):
    idle: Duration | None = None
    per_request: Duration | None = None


class TcpTimeout(Model):
    idle: Duration | None = None


class ListenerTimeout(OneOf):
    grpc: HttpTimeout | None = None
    http: HttpTimeout | None = None
    http2: HttpTimeout | None = None
    tcp: TcpTimeout | None = None


class OutlierDetection(Model):
    max_server_errors: Positive
    interval: Duration
    base_ejection_duration: Duration
    max_ejection_percent: Percent


class _Listener(Model):
    port_mapping: PortMapping
    health_check: HealthCheckPolicy | None = None
    tls: ListenerTls | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        port, protocol = self.port_mapping.port, self.port_mapping.protocol
        if self.health_check is not None and self.health_check.port not in (None, port):
            raise PydanticCustomError(
                "health_check_port", "healthCheck.port must be the listener's port {port}, found {found}",
                {"port": port, "found": self.health_check.port},
            )  # fmt: skip
        for field in ("connection_pool", "timeout"):
            union = getattr(self, field, None)
            if union is not None and getattr(union, protocol.value, None) is None:
                found = next(name for name in type(union).model_fields if getattr(union, name) is not None)
                raise PydanticCustomError(
                    "listener_protocol", "{field} must be given for the listener's protocol {protocol}, found {found}",
                    {"field": "connectionPool" if field == "connection_pool" else field, "protocol": protocol.value, "found": found},
                )  # fmt: skip
        return self


class Listener(_Listener):
    connection_pool: VirtualNodeConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    timeout: ListenerTimeout | None = None


class VirtualGatewayListener(_Listener):
    """No tcp, no timeout, no outlier detection."""

    connection_pool: VirtualGatewayConnectionPool | None = None

    @model_validator(mode="after")
    def _no_tcp(self) -> Self:
        for field, protocol in (
            ("portMapping", self.port_mapping.protocol),
            ("healthCheck", self.health_check and self.health_check.protocol),
        ):
            if protocol is PortProtocol.TCP:
                raise PydanticCustomError(
                    "gateway_protocol",
                    "{field}.protocol of a virtual gateway must be http, http2 or grpc, found tcp",
                    {"field": field},
                )
        return self
