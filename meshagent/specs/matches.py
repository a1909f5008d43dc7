"""What a route or a gateway route matches, as frozen models: paths, headers, query parameters, gRPC services and metadata.

Only what App Mesh's API model says of them is checked; whether Envoy can express a pattern, the compiler says.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from meshagent.specs.fields import Bool, HttpMethod, Model, OneOf, Port, Str, Text50, Text255


class MatchRange(Model):
    """`start` included, `end` not."""

    start: StrictInt
    end: StrictInt

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.end <= self.start:
            raise PydanticCustomError(
                "range",
                "end must be greater than start, found {start} to {end}",
                {"start": self.start, "end": self.end},
            )
        return self


class ValueMatch(OneOf):
    """HeaderMatchMethod, GrpcRouteMetadataMatchMethod and GrpcMetadataMatchMethod are one shape."""

    exact: Text255 | None = None
    prefix: Text255 | None = None
    range: MatchRange | None = None
    regex: Text255 | None = None
    suffix: Text255 | None = None


class HeaderMatch(Model):
    """A header or a gRPC metadata entry; without `match`, that it is present."""

    name: Text50
    match: ValueMatch | None = None
    invert: Bool | None = None


class HttpPathMatch(Model):
    exact: Text255 | None = None
    regex: Text255 | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.exact is None) == (self.regex is None):
            raise PydanticCustomError("one_of", "exactly one of exact, regex must be set")
        return self


class QueryParameterMatch(Model):
    exact: Str | None = None


class HttpQueryParameter(Model):
    """Without `match.exact`, that the parameter is present."""

    name: Str
    match: QueryParameterMatch | None = None


Headers = Annotated[tuple[HeaderMatch, ...], Field(min_length=1, max_length=10)]
QueryParameters = Annotated[tuple[HttpQueryParameter, ...], Field(min_length=1, max_length=10)]


class HttpScheme(StrEnum):
    HTTP = "http"
    HTTPS = "https"


class AnyHttpMatch(Model):
    """What the matches of routes and of gateway routes have in common."""

    prefix: Str | None = None
    path: HttpPathMatch | None = None
    headers: Headers | None = None
    query_parameters: QueryParameters | None = None
    method: HttpMethod | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        if self.prefix is not None and self.path is not None:
            raise PydanticCustomError("path_match", "prefix and path exclude each other")
        for field, value in (
            ("prefix", self.prefix),
            ("path.exact", self.path.exact if self.path is not None else None),
        ):
            if value is not None and not value.startswith("/"):
                raise PydanticCustomError(
                    "path_match", '{field} must start with "/", found "{value}"', {"field": field, "value": value}
                )
        return self


class HttpRouteMatch(AnyHttpMatch):
    scheme: HttpScheme | None = None


class GrpcRouteMatch(Model):
    service_name: Str | None = None
    method_name: Text50 | None = None
    metadata: Headers | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _method_of_a_service(self) -> Self:
        if self.method_name is not None and self.service_name is None:
            raise PydanticCustomError("grpc_match", "methodName needs serviceName")
        return self


class TcpRouteMatch(Model):
    port: Port | None = None
