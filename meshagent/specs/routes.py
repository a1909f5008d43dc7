"""RouteSpec as a frozen model: weighted targets, retries and timeouts of the routes of a virtual router.

Whether a target is defined is a Problem of `meshagent.mesh`, never an error here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from meshagent.specs.fields import Duration, Model, Percent, Port, Priority, ResourceName, Retries, Text25
from meshagent.specs.listeners import HttpTimeout, TcpTimeout
from meshagent.specs.matches import GrpcRouteMatch, HttpRouteMatch, TcpRouteMatch


class WeightedTarget(Model):
    virtual_node: ResourceName
    weight: Percent
    port: Port | None = None


class RouteAction(Model):
    weighted_targets: Annotated[tuple[WeightedTarget, ...], Field(min_length=1, max_length=10)]


class TcpRetryEvent(StrEnum):
    CONNECTION_ERROR = "connection-error"


class GrpcRetryEvent(StrEnum):
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    INTERNAL = "internal"
    RESOURCE_EXHAUSTED = "resource-exhausted"
    UNAVAILABLE = "unavailable"


class HttpRetryPolicy(Model):
    max_retries: Retries
    per_retry_timeout: Duration
    http_retry_events: Annotated[tuple[Text25, ...] | None, Field(min_length=1, max_length=25)] = None
    tcp_retry_events: Annotated[tuple[TcpRetryEvent, ...] | None, Field(min_length=1, max_length=1)] = None


class GrpcRetryPolicy(HttpRetryPolicy):
    grpc_retry_events: Annotated[tuple[GrpcRetryEvent, ...] | None, Field(min_length=1, max_length=5)] = None


class HttpRoute(Model):
    match: HttpRouteMatch
    action: RouteAction
    retry_policy: HttpRetryPolicy | None = None
    timeout: HttpTimeout | None = None


class GrpcRoute(Model):
    match: GrpcRouteMatch
    action: RouteAction
    retry_policy: GrpcRetryPolicy | None = None
    timeout: HttpTimeout | None = None


class TcpRoute(Model):
    action: RouteAction
    match: TcpRouteMatch | None = None
    timeout: TcpTimeout | None = None


def one_route(spec: Model, fields: tuple[str, ...]) -> None:
    """Raises unless exactly one of these fields is set: for the specs that have a priority beside their union."""
    given = [field for field in fields if getattr(spec, field) is not None]
    if len(given) != 1:
        names = {
            "http_route": "httpRoute",
            "http2_route": "http2Route",
            "grpc_route": "grpcRoute",
            "tcp_route": "tcpRoute",
        }
        raise PydanticCustomError(
            "one_route", "exactly one of {members} must be set, found {found}",
            {"members": ", ".join(names[f] for f in fields), "found": " and ".join(names[f] for f in given) or "none"},
        )  # fmt: skip


class RouteSpec(Model):
    """Exactly one of the four; `priority` 0 is looked at first, none last."""

    priority: Priority | None = None
    http_route: HttpRoute | None = None
    http2_route: HttpRoute | None = None
    grpc_route: GrpcRoute | None = None
    tcp_route: TcpRoute | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        one_route(self, ("http_route", "http2_route", "grpc_route", "tcp_route"))
        return self
