"""Stand-ins for the certificates that a proxy gets at run time, so that `envoy --mode validate` accepts its configuration anywhere.

A proxy's own identity is a file on its host, and an SDS provider's secrets are nowhere else; without them Envoy refuses the whole
configuration. Certificates that a document names as files stay as they are: whether these exist is for Envoy to say.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_BEGIN = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class StandIn:
    """PEM; the certificate is its own root."""

    certificate: str
    key: str


def stand_in() -> StandIn:
    """Of the private key 1: nobody can take it for a secret."""
    key = ec.derive_private_key(1, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, _BEGIN, _END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return StandIn(
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def with_stand_ins(form: Any, given: StandIn) -> Any:
    """Envoy's JSON with every secret that SDS would deliver replaced by the stand-in; what is demanded of a peer's names is kept."""
    if isinstance(form, list):
        return [with_stand_ins(each, given) for each in form]
    if not isinstance(form, dict):
        return form
    made = {key: with_stand_ins(value, given) for key, value in form.items()}
    if made.pop("tls_certificate_sds_secret_configs", None) is not None:
        certificate, key = {"inline_string": given.certificate}, {"inline_string": given.key}
        made["tls_certificates"] = [{"certificate_chain": certificate, "private_key": key}]
    if (combined := made.pop("combined_validation_context", None)) is not None:
        made["validation_context"] = {**combined.get("default_validation_context", {}), **_trust(given)}
    if made.pop("validation_context_sds_secret_config", None) is not None:
        made["validation_context"] = _trust(given)
    return made


def _trust(given: StandIn) -> dict[str, Any]:
    return {"trusted_ca": {"inline_string": given.certificate}}
