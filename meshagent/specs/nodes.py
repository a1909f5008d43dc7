"""VirtualNodeSpec as a frozen model: how a node is found, and what it calls.

Whether what it calls is defined is a Problem of `meshagent.mesh`, never an error here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictStr

from meshagent.specs.fields import IpPreference, Model, OneOf, Str, Text1024
from meshagent.specs.listeners import Listener
from meshagent.specs.logs import Logging
from meshagent.specs.tls import BackendDefaults, ClientPolicy


class AwsCloudMapInstanceAttribute(Model):
    key: Annotated[StrictStr, Field(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9!-~]+$")]
    value: Annotated[
        StrictStr,
        Field(min_length=1, max_length=1024, pattern=r"^([a-zA-Z0-9!-~][ \ta-zA-Z0-9!-~]*){0,1}[a-zA-Z0-9!-~]{0,1}$"),
    ]


class AwsCloudMapServiceDiscovery(Model):
    namespace_name: Text1024
    service_name: Text1024
    attributes: tuple[AwsCloudMapInstanceAttribute, ...] | None = None
    ip_preference: IpPreference | None = None


class DnsResponseType(StrEnum):
    LOADBALANCER = "LOADBALANCER"
    ENDPOINTS = "ENDPOINTS"


class DnsServiceDiscovery(Model):
    hostname: Str
    response_type: DnsResponseType | None = None
    ip_preference: IpPreference | None = None


class ServiceDiscovery(OneOf):
    aws_cloud_map: AwsCloudMapServiceDiscovery | None = None
    dns: DnsServiceDiscovery | None = None


class VirtualServiceBackend(Model):
    virtual_service_name: Str
    client_policy: ClientPolicy | None = None


class Backend(OneOf):
    virtual_service: VirtualServiceBackend | None = None


class VirtualNodeSpec(Model):
    listeners: tuple[Listener, ...] = ()
    service_discovery: ServiceDiscovery | None = None
    backends: tuple[Backend, ...] = ()
    backend_defaults: BackendDefaults | None = None
    logging: Logging | None = None
