"""Stand-in certificates for what the golden cases name: certs/ from specs, tls/ as an agent lays it out."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_SECRETS = {
    "sds-certificate.yaml": """\
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: default
  tls_certificate:
    certificate_chain: {filename: tls/current/chain.pem}
    private_key: {filename: tls/current/key.pem}
""",
    "sds-validation.yaml": """\
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: trust
  validation_context:
    trusted_ca: {filename: tls/current/bundle.pem}
""",
}


class Authority:
    """Signs identities of a mesh for a test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _signed(self._key, "root", self._key.public_key(), "root", None)

    def write_identity(self, directory: Path, spiffe_id: str) -> None:
        """tls/ as an agent lays it out, with a certificate of that id."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _signed(self._key, "root", key.public_key(), "leaf", spiffe_id)
        current = directory / "tls" / "current"
        current.mkdir(parents=True)
        (current / "chain.pem").write_bytes(leaf.public_bytes(_PEM))
        (current / "bundle.pem").write_bytes(self._certificate.public_bytes(_PEM))
        (current / "key.pem").write_bytes(_private(key))
        for name, text in _SECRETS.items():
            (directory / "tls" / name).write_text(text)


def write_certificates(directory: Path) -> None:
    """All from one self-signed pair."""
    chain, key = _pair()
    for folder, trust in ((directory / "certs", "ca.pem"), (directory / "tls" / "current", "bundle.pem")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("chain.pem", chain), ("key.pem", key), (trust, chain)):
            (folder / name).write_bytes(content)
    for name, text in _SECRETS.items():
        (directory / "tls" / name).write_text(text)


@cache
def _pair() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    return _signed(key, "stand-in", key.public_key(), "stand-in", None).public_bytes(_PEM), _private(key)


def _signed(
    issuer_key: ec.EllipticCurvePrivateKey, issuer: str, key: ec.EllipticCurvePublicKey, subject: str, uri: str | None
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
