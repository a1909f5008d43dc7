"""Keys, requests and certificates, looked at with cryptography's own parser and verifier."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography import x509 as certificates
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshagent.identity import spiffe, x509
from meshagent.identity.errors import IdentityError
from meshagent.identity.x509 import Issuer

NOW = float(int(time.time()))
URI = spiffe.workload_id("mesh.local", "mesh/shop/virtualNode/web")


@pytest.fixture(scope="module")
def root() -> Issuer:
    return x509.new_root("mesh.local", NOW, 86400 * 3650)


@pytest.fixture(scope="module")
def intermediate(root: Issuer) -> Issuer:
    return x509.new_intermediate(root, "mesh.local", NOW, 86400 * 365)


def chain(intermediate: Issuer, key: bytes, uri: str = URI, life: float = 3600.0) -> bytes:
    return x509.new_leaf(intermediate, x509.requested_key(x509.new_request(key)), uri, NOW, life)


def test_a_leaf_has_one_uri_and_both_usages(intermediate: Issuer) -> None:
    leaf, *rest = certificates.load_pem_x509_certificates(chain(intermediate, x509.new_key()))
    assert rest == [intermediate.certificate]
    names = leaf.extensions.get_extension_for_class(certificates.SubjectAlternativeName).value
    assert [name.value for name in names] == [URI]
    usages = leaf.extensions.get_extension_for_class(certificates.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not leaf.extensions.get_extension_for_class(certificates.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(certificates.KeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign


def test_k4_certificates_are_backdated_by_five_minutes(intermediate: Issuer) -> None:
    (leaf, _) = certificates.load_pem_x509_certificates(chain(intermediate, x509.new_key()))
    assert leaf.not_valid_before_utc.timestamp() == NOW - 300
    assert leaf.not_valid_after_utc.timestamp() == NOW + 3600


def test_read_and_verified(root: Issuer, intermediate: Issuer) -> None:
    key = x509.new_key()
    made = chain(intermediate, key)
    leaf = x509.read_leaf(made)
    assert (leaf.issued, leaf.end, str(leaf.spiffe_id)) == (NOW, NOW + 3600, URI)
    assert len(leaf.serial) % 2 == 0 and int(leaf.serial, 16) > 0
    assert leaf.public_key_sha256 == x509.public_key_sha256(x509.public_key_of(key))
    assert x509.verified_leaf(made, root.certificate_pem, NOW, key) == leaf


def test_serials_differ(intermediate: Issuer) -> None:
    assert len({x509.read_leaf(chain(intermediate, x509.new_key())).serial for _ in range(20)}) == 20


def test_server_certificates_carry_names_and_addresses(root: Issuer, intermediate: Issuer) -> None:
    key = x509.public_key_of(x509.new_key())
    uri = spiffe.server_id("mesh.local")
    made = x509.new_leaf(intermediate, key, uri, NOW, 3600, ["localhost", "server.mesh.local"], ["127.0.0.1", "::1"])
    (leaf, _) = certificates.load_pem_x509_certificates(made)
    names = leaf.extensions.get_extension_for_class(certificates.SubjectAlternativeName).value
    assert names.get_values_for_type(certificates.DNSName) == ["localhost", "server.mesh.local"]
    assert [str(a) for a in names.get_values_for_type(certificates.IPAddress)] == ["127.0.0.1", "::1"]
    verifier = certificates.verification.PolicyBuilder().store(certificates.verification.Store([root.certificate]))
    verified = verifier.build_server_verifier(certificates.DNSName("server.mesh.local"))
    assert len(verified.verify(leaf, [intermediate.certificate])) == 3


@pytest.mark.parametrize("moment", [NOW - 301, NOW + 3601])
def test_not_valid_at_other_times(root: Issuer, intermediate: Issuer, moment: float) -> None:
    with pytest.raises(IdentityError, match="does not lead to a trusted root"):
        x509.verified_leaf(chain(intermediate, x509.new_key()), root.certificate_pem, moment)


def test_another_root_another_key_no_intermediate(root: Issuer, intermediate: Issuer) -> None:
    key = x509.new_key()
    made = chain(intermediate, key)
    other = x509.new_root("mesh.local", NOW, 3600)
    with pytest.raises(IdentityError, match="trusted root"):
        x509.verified_leaf(made, other.certificate_pem, NOW)
    with pytest.raises(IdentityError, match="another key"):
        x509.verified_leaf(made, root.certificate_pem, NOW, x509.new_key())
    leaf_only = made[: made.index(b"-----END CERTIFICATE-----") + 26]
    with pytest.raises(IdentityError, match="trusted root"):
        x509.verified_leaf(leaf_only, root.certificate_pem, NOW)
    assert x509.verified_leaf(made, other.certificate_pem + root.certificate_pem, NOW, key)


def test_a_leaf_signs_nobody(root: Issuer, intermediate: Issuer) -> None:
    key = x509.new_key()
    made = chain(intermediate, key)
    (leaf, _) = certificates.load_pem_x509_certificates(made)
    impostor = Issuer(leaf, serialization.load_pem_private_key(key, None))  # type: ignore[arg-type]
    forged = x509.new_leaf(impostor, x509.public_key_of(x509.new_key()), spiffe.server_id("mesh.local"), NOW, 60)
    with pytest.raises(IdentityError, match="trusted root"):
        x509.verified_leaf(forged + made, root.certificate_pem, NOW)


def test_nothing_outlives_its_issuer(root: Issuer) -> None:
    short = x509.new_intermediate(root, "mesh.local", NOW, 100)
    assert x509.read_leaf(chain(short, x509.new_key(), life=3600)).end == NOW + 100
    dying = x509.new_root("mesh.local", NOW, 50)
    assert x509.new_intermediate(dying, "mesh.local", NOW, 1000).end == NOW + 50


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    names = certificates.SubjectAlternativeName([certificates.UniformResourceIdentifier("spiffe://mesh.local/server")])
    builder = certificates.CertificateSigningRequestBuilder().subject_name(
        certificates.Name([certificates.NameAttribute(NameOID.COMMON_NAME, "server.mesh.local")])
    )
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def test_names_in_a_request_are_ignored(intermediate: Issuer) -> None:
    key = x509.requested_key(_request(ec.generate_private_key(ec.SECP256R1())))
    (leaf, _) = certificates.load_pem_x509_certificates(x509.new_leaf(intermediate, key, URI, NOW, 60))
    assert b"server.mesh.local" not in leaf.public_bytes(serialization.Encoding.DER)
    assert x509.read_leaf(x509.new_leaf(intermediate, key, URI, NOW, 60)).spiffe_id == spiffe.parse(URI)


def test_requests_that_are_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(IdentityError, match="P-256"):
            x509.requested_key(_request(key))
    pem = x509.new_request(x509.new_key())
    der = bytearray(base64.b64decode("".join(pem.decode().splitlines()[1:-1])))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    tampered = b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(IdentityError, match=r"signature does not match|must be PKCS"):
        x509.requested_key(tampered)
    for junk in (b"", b"-----BEGIN", b"\0" * 100, pem[:100], b"x" * 70_000):
        with pytest.raises(IdentityError, match="certificate request"):
            x509.requested_key(junk)


def test_roots_are_pinned_by_their_fingerprint(root: Issuer) -> None:
    other = x509.new_root("mesh.local", NOW, 3600)
    bundle = other.certificate_pem + root.certificate_pem
    sha256 = root.certificate.fingerprint(hashes.SHA256()).hex()
    assert x509.root_sha256(root.certificate_pem) == sha256
    assert x509.pinned_root(bundle, sha256) == root.certificate_pem
    with pytest.raises(IdentityError, match="another server"):
        x509.pinned_root(other.certificate_pem, sha256)


def test_files_that_are_not_what_they_should_be(root: Issuer) -> None:
    for junk in (b"", b"junk", x509.new_key()):
        with pytest.raises(IdentityError, match="certificates: must be"):
            x509.read_leaf(junk)
        if junk != b"":
            with pytest.raises(IdentityError):
                x509.verified_leaf(root.certificate_pem, junk, NOW)
    for junk in (b"", b"junk", root.certificate_pem):
        with pytest.raises(IdentityError, match="private key: must be"):
            x509.public_key_of(junk)
    with pytest.raises(IdentityError, match="SPIFFE ID"):
        x509.read_leaf(root.certificate_pem)  # its only URI has no path


def test_an_issuer_comes_back(intermediate: Issuer) -> None:
    again = x509.load_issuer(intermediate.certificate_pem, intermediate.key_pem)
    assert again.certificate == intermediate.certificate and again.key_pem == intermediate.key_pem
    assert "PRIVATE" not in repr(again)
