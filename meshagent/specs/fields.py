"""The building blocks of the spec models: frozen, camelCase on the wire, unknown fields refused, unions of exactly one member.

Limits are those of App Mesh's API model 2019-01-25; lengths count characters.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """A struct of App Mesh's model. Attributes are snake_case, the wire is camelCase."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=False, validate_by_alias=True
    )

    def wire(self) -> dict[str, Any]:
        """The App Mesh JSON form: what was given and nothing that was not."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OneOf(Model):
    """A union of App Mesh: exactly one member must be set."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            members = ", ".join(to_camel(name) for name in type(self).model_fields)
            found = " and ".join(to_camel(name) for name in given) or "none"
            raise PydanticCustomError(
                "one_of", "exactly one of {members} must be set, found {found}", {"members": members, "found": found}
            )
        return self

    @property
    def member(self) -> Any:
        """The one member that is set."""
        return next(value for name in type(self).model_fields if (value := getattr(self, name)) is not None)


Bool = StrictBool
Str = StrictStr


# Text50: from 1 to 50 characters.
Text25 = Annotated[StrictStr, Field(min_length=1, max_length=25)]
Text50 = Annotated[StrictStr, Field(min_length=1, max_length=50)]
Text100 = Annotated[StrictStr, Field(min_length=1, max_length=100)]
Text253 = Annotated[StrictStr, Field(min_length=1, max_length=253)]
Text254 = Annotated[StrictStr, Field(min_length=1, max_length=254)]
Text255 = Annotated[StrictStr, Field(min_length=1, max_length=255)]
Text1000 = Annotated[StrictStr, Field(min_length=1, max_length=1000)]
Text1024 = Annotated[StrictStr, Field(min_length=1, max_length=1024)]

ResourceName = Annotated[StrictStr, Field(min_length=1, max_length=255)]
FilePath = Annotated[StrictStr, Field(min_length=1, max_length=255)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
# App Mesh's integers have 32 bits, and so have Envoy's.
Positive = Annotated[StrictInt, Field(ge=1, le=2147483647)]
Retries = Annotated[StrictInt, Field(ge=0, le=2147483647)]
Percent = Annotated[StrictInt, Field(ge=0, le=100)]
Priority = Annotated[StrictInt, Field(ge=0, le=1000)]


_LONGEST_SECONDS = 9_223_372_035


class DurationUnit(StrEnum):
    SECONDS = "s"
    MILLISECONDS = "ms"


class Duration(Model):
    value: Annotated[StrictInt, Field(ge=0)] | None = None
    unit: DurationUnit | None = None

    @model_validator(mode="after")
    def _of_64_bits(self) -> Self:
        """Envoy counts durations in nanoseconds."""
        if self.milliseconds > _LONGEST_SECONDS * 1000:
            raise PydanticCustomError("duration", "must be at most {seconds} s", {"seconds": _LONGEST_SECONDS})
        return self

    @property
    def milliseconds(self) -> int:
        """Both fields are optional in App Mesh's model; a missing value counts as 0, a missing unit as milliseconds."""
        return (self.value or 0) * (1000 if self.unit is DurationUnit.SECONDS else 1)


class PortProtocol(StrEnum):
    HTTP = "http"
    TCP = "tcp"
    HTTP2 = "http2"
    GRPC = "grpc"


class IpPreference(StrEnum):
    IPV6_PREFERRED = "IPv6_PREFERRED"
    IPV4_PREFERRED = "IPv4_PREFERRED"
    IPV4_ONLY = "IPv4_ONLY"
    IPV6_ONLY = "IPv6_ONLY"


class HttpMethod(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class PortMapping(Model):
    port: Port
    protocol: PortProtocol
