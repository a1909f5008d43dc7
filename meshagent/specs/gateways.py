"""VirtualGatewaySpec and GatewayRouteSpec as frozen models: what is let into a mesh, and under which name and path it goes on.

Whether a target is defined is a Problem of `meshagent.mesh`, never an error here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from meshagent.specs.fields import Model, Port, Priority, ResourceName, Str, Text253, Text255
from meshagent.specs.listeners import VirtualGatewayListener
from meshagent.specs.logs import Logging
from meshagent.specs.matches import AnyHttpMatch, Headers
from meshagent.specs.routes import one_route
from meshagent.specs.tls import BackendDefaults


class VirtualGatewaySpec(Model):
    listeners: tuple[VirtualGatewayListener, ...]
    backend_defaults: BackendDefaults | None = None
    logging: Logging | None = None


class HostnameMatch(Model):
    exact: Text253 | None = None
    suffix: Text253 | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.exact is None) == (self.suffix is None):
            raise PydanticCustomError("one_of", "exactly one of exact, suffix must be set")
        return self


class Toggle(StrEnum):
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class HostnameRewrite(Model):
    default_target_hostname: Toggle | None = None


class PathRewrite(Model):
    exact: Text255 | None = None


class PrefixRewrite(Model):
    default_prefix: Toggle | None = None
    value: Text255 | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.default_prefix is not None and self.value is not None:
            raise PydanticCustomError("prefix_rewrite", "defaultPrefix and value exclude each other")
        if self.value is not None and not (self.value.startswith("/") and self.value.endswith("/")):
            raise PydanticCustomError(
                "prefix_rewrite", 'value must start and end with "/", found "{value}"', {"value": self.value}
            )
        return self


class HttpRewrite(Model):
    hostname: HostnameRewrite | None = None
    path: PathRewrite | None = None
    prefix: PrefixRewrite | None = None

    @model_validator(mode="after")
    def _prefix_or_path(self) -> Self:
        if self.prefix is not None and self.path is not None:
            raise PydanticCustomError("rewrite", "prefix and path exclude each other")
        return self


class GrpcRewrite(Model):
    hostname: HostnameRewrite | None = None


class TargetVirtualService(Model):
    virtual_service_name: ResourceName


class GatewayRouteTarget(Model):
    virtual_service: TargetVirtualService
    port: Port | None = None


class HttpGatewayRouteAction(Model):
    target: GatewayRouteTarget
    rewrite: HttpRewrite | None = None


class GrpcGatewayRouteAction(Model):
    target: GatewayRouteTarget
    rewrite: GrpcRewrite | None = None


_RESERVED_PREFIXES = ("/aws-appmesh", "/aws-app-mesh")
_RESERVED_SERVICES = ("aws.app-mesh", "aws.appmesh")


class HttpGatewayRouteMatch(AnyHttpMatch):
    hostname: HostnameMatch | None = None

    @model_validator(mode="after")
    def _not_reserved(self) -> Self:
        if self.prefix is not None and self.prefix.startswith(_RESERVED_PREFIXES):
            raise PydanticCustomError("reserved", "the prefixes /aws-appmesh* and /aws-app-mesh* are reserved")
        return self


class GrpcGatewayRouteMatch(Model):
    service_name: Str | None = None
    hostname: HostnameMatch | None = None
    metadata: Headers | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _not_reserved(self) -> Self:
        if self.service_name is not None and self.service_name.startswith(_RESERVED_SERVICES):
            raise PydanticCustomError("reserved", "the service names aws.app-mesh* and aws.appmesh* are reserved")
        return self


class HttpGatewayRoute(Model):
    match: HttpGatewayRouteMatch
    action: HttpGatewayRouteAction


class GrpcGatewayRoute(Model):
    match: GrpcGatewayRouteMatch
    action: GrpcGatewayRouteAction


class GatewayRouteSpec(Model):
    priority: Priority | None = None
    http_route: HttpGatewayRoute | None = None
    http2_route: HttpGatewayRoute | None = None
    grpc_route: GrpcGatewayRoute | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        one_route(self, ("http_route", "http2_route", "grpc_route"))
        return self
