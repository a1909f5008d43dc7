"""What App Mesh's specs say about TLS, as frozen models: of listeners (termination) and of client policies (origination).

The twins that the API model keeps for gateways (VirtualGatewayListenerTls and so on) are these same classes. Nothing here reads a
certificate: paths, ARNs and secret names are text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from meshagent.specs.fields import Bool, FilePath, Model, OneOf, Port, Str, Text254


class FileCertificate(Model):
    certificate_chain: FilePath
    private_key: FilePath


class SdsSecret(Model):
    secret_name: Str


class AcmCertificate(Model):
    certificate_arn: Str


class FileTrust(Model):
    certificate_chain: FilePath


class AcmTrust(Model):
    certificate_authority_arns: Annotated[tuple[Str, ...], Field(min_length=1, max_length=3)]


class SubjectAlternativeNameMatchers(Model):
    exact: tuple[Text254, ...]


class SubjectAlternativeNames(Model):
    match: SubjectAlternativeNameMatchers


class ListenerTrust(OneOf):
    """Trust in clients: no ACM here."""

    file: FileTrust | None = None
    sds: SdsSecret | None = None


class ClientTrust(OneOf):
    acm: AcmTrust | None = None
    file: FileTrust | None = None
    sds: SdsSecret | None = None


class ListenerTlsValidationContext(Model):
    trust: ListenerTrust
    subject_alternative_names: SubjectAlternativeNames | None = None


class TlsValidationContext(Model):
    trust: ClientTrust
    subject_alternative_names: SubjectAlternativeNames | None = None


class ListenerTlsCertificate(OneOf):
    acm: AcmCertificate | None = None
    file: FileCertificate | None = None
    sds: SdsSecret | None = None


class ClientTlsCertificate(OneOf):
    file: FileCertificate | None = None
    sds: SdsSecret | None = None


class TlsMode(StrEnum):
    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLED = "DISABLED"


class ListenerTls(Model):
    mode: TlsMode
    certificate: ListenerTlsCertificate
    validation: ListenerTlsValidationContext | None = None


class ClientPolicyTls(Model):
    validation: TlsValidationContext
    certificate: ClientTlsCertificate | None = None
    enforce: Bool | None = None
    ports: tuple[Port, ...] | None = None


class ClientPolicy(Model):
    tls: ClientPolicyTls | None = None


class BackendDefaults(Model):
    client_policy: ClientPolicy | None = None
