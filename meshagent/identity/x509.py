"""Keys, certificate requests and certificates: P-256 throughout, PEM at the interfaces.

Who may have which certificate is decided elsewhere (identity.authority issues, the server decides); where the files lie and
who may read them, too. A request proves possession of a key and nothing more: the names that it asks for are ignored.

Certificates are backdated by BACKDATE seconds, for hosts whose clocks are behind.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshagent.identity import spiffe
from meshagent.identity.errors import IdentityError
from meshagent.identity.leaf import Leaf

BACKDATE = 300
REQUEST_LIMIT = 64 * 1024

_ORGANIZATION = "meshagent"


@dataclass(frozen=True)
class Issuer:
    """A certificate that may sign others, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def end(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key)


def new_key() -> bytes:
    """A P-256 private key, PKCS #8 PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def new_request(key_pem: bytes) -> bytes:
    """A certificate request that proves possession of the key; it asks for no names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(_ORGANIZATION))
    return builder.sign(_private_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose signature holds."""
    if len(request_pem) > REQUEST_LIMIT:
        raise IdentityError(f"certificate request: {len(request_pem)} bytes, must be at most {REQUEST_LIMIT}")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key, signed = request.public_key(), request.is_signature_valid
    except Exception as error:  # the parser raises many kinds, for what strangers send
        raise IdentityError(f"certificate request: must be PKCS #10 in PEM ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("certificate request: the key must be an elliptic curve key on P-256")
    if not signed:
        raise IdentityError("certificate request: its signature does not match its key")
    return key


def public_key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """A key's fingerprint: SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(_spki(key)).hexdigest()


def root_sha256(certificate_pem: bytes) -> str:
    """A root's fingerprint, as join tokens carry it: SHA-256 of the certificate's DER."""
    return hashlib.sha256(_certificates(certificate_pem)[0].public_bytes(serialization.Encoding.DER)).hexdigest()


def pinned_root(bundle_pem: bytes, sha256: str) -> bytes:
    """The one root of the bundle that has this fingerprint, as PEM; IdentityError when none has."""
    for certificate in _certificates(bundle_pem):
        if hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest() == sha256:
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise IdentityError(
        f"none of the server's roots has the SHA-256 {sha256[:16]}... that the join token names: this is another server, "
        "or its authority was replaced after the token was made"
    )


def read_leaf(chain_pem: bytes) -> Leaf:
    return _leaf(_certificates(chain_pem)[0])


def verified_leaf(chain_pem: bytes, bundle_pem: bytes, now: float, key_pem: bytes | None = None) -> Leaf:
    """The leaf of a chain that leads to one of the bundle's roots and is valid at `now`; with `key_pem`, also of exactly that key."""
    leaf, *between = _certificates(chain_pem)
    at = _utc(now)
    builder = verification.PolicyBuilder().store(verification.Store(_certificates(bundle_pem))).time(at)
    try:
        builder.build_client_verifier().verify(leaf, between)
    except verification.VerificationError as error:
        raise IdentityError(f"certificate chain: does not lead to a trusted root ({error})") from error
    if key_pem is not None and _spki(_private_key(key_pem).public_key()) != _spki(_public_key(leaf)):
        raise IdentityError("certificate chain: was made for another key than the one at hand")
    return _leaf(leaf)


def new_root(trust_domain: str, now: float, life: float) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"meshagent root {secrets.token_hex(4)}", trust_domain)
    builder = _builder(name, name, key.public_key(), now, now + life)
    builder = _with_authority(builder, trust_domain, path_length=1)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Issuer(builder.sign(key, hashes.SHA256()), key)


def new_intermediate(root: Issuer, trust_domain: str, now: float, life: float) -> Issuer:
    """Ends no later than its root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"meshagent intermediate {secrets.token_hex(4)}", trust_domain)
    builder = _builder(name, root.certificate.subject, key.public_key(), now, min(now + life, root.end))
    builder = _with_authority(builder, trust_domain, path_length=0)
    return Issuer(_signed(builder, key.public_key(), root), key)


def new_leaf(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    uri: str,
    now: float,
    life: float,
    dns_names: Sequence[str] = (),
    addresses: Sequence[str] = (),
) -> bytes:
    """A certificate for both ends of mutual TLS, with exactly one URI name: leaf and issuer as PEM. Ends no later than its issuer."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    builder = _builder(_name(_ORGANIZATION), issuer.certificate.subject, key, now, min(now + life, issuer.end))
    builder = (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    return _signed(builder, key, issuer).public_bytes(serialization.Encoding.PEM) + issuer.certificate_pem


def load_issuer(certificate_pem: bytes, key_pem: bytes) -> Issuer:
    return Issuer(_certificates(certificate_pem)[0], _private_key(key_pem))


def public_key_of(key_pem: bytes) -> ec.EllipticCurvePublicKey:
    return _private_key(key_pem).public_key()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATE))
        .not_valid_after(_utc(end))
    )


def _with_authority(builder: x509.CertificateBuilder, trust_domain: str, path_length: int) -> x509.CertificateBuilder:
    name = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, issuer: Issuer) -> x509.Certificate:
    above = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:  # X.520 ends it at 64 characters; the whole trust domain is in the URI name
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:64]))
    return x509.Name(parts)


def _leaf(certificate: x509.Certificate) -> Leaf:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError("certificate: has no SPIFFE ID") from error
    if len(uris) != 1:
        raise IdentityError(f"certificate: must have exactly one URI name, a SPIFFE ID, found {len(uris)}")
    return Leaf(
        serial=certificate.serial_number.to_bytes(20, "big").lstrip(b"\0").hex(),
        issued=certificate.not_valid_before_utc.timestamp() + BACKDATE,
        end=certificate.not_valid_after_utc.timestamp(),
        spiffe_id=spiffe.parse(uris[0]),
        public_key_sha256=public_key_sha256(_public_key(certificate)),
    )


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise IdentityError(f"certificates: must be one or more X.509 certificates in PEM ({error})") from error


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("certificate: the key must be an elliptic curve key on P-256")
    return key


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"private key: must be PKCS #8 in PEM, without a password ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("private key: must be an elliptic curve key on P-256")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
