"""Keys and certificates are worked on in a process of their own, where this one has no X.509 loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshagent.agent import certificates
from meshagent.identity import leaf, x509
from meshagent.identity.errors import IdentityError
from tests.agent.authority import Authority

WEB = "mesh/shop/virtualNode/web"
SCRIPT = """
import sys
from meshagent.agent import __main__, certificates
import meshagent.host.systemd
key, request = certificates.new_request()
assert key.startswith(b"-----BEGIN PRIVATE KEY-----") and request.startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
assert not [name for name in sys.modules if "cryptography" in name]
"""


@pytest.fixture(params=["apart", "here"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "apart":
        monkeypatch.delitem(sys.modules, "meshagent.identity.x509")
    return str(request.param)


def test_the_daemon_makes_keys_without_loading_what_they_need() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_is_signed_for_a_new_request_is_checked_with_its_key(place: str) -> None:
    authority = Authority()
    key, request = certificates.new_request()
    chain = authority.sign(request, WEB)
    expected = x509.read_leaf(chain)
    assert certificates.read_leaf(chain) == expected
    assert certificates.checked_leaf(chain, authority.bundle, key) == expected
    assert certificates.checked_leaf(chain, authority.bundle) == expected


def test_faults_are_said_in_the_same_words(place: str) -> None:
    authority = Authority()
    _, request = certificates.new_request()
    chain = authority.sign(request, WEB)
    with pytest.raises(IdentityError, match=r"must be one or more X\.509 certificates in PEM"):
        certificates.read_leaf(b"not a certificate \xff")
    with pytest.raises(IdentityError, match="does not lead to a trusted root"):
        certificates.checked_leaf(chain, Authority().bundle)
    with pytest.raises(IdentityError, match="was made for another key"):
        certificates.checked_leaf(chain, authority.bundle, certificates.new_request()[0])


def test_a_python_that_cannot_run_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "meshagent.identity.x509")
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(IdentityError, match="cannot run /nowhere/python3 to work on certificates: No such file"):
        certificates.new_request()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IdentityError, match="ended with status 1: it said nothing"):
        certificates.new_request()


def test_a_note_speaks_of_its_own_chain_only() -> None:
    authority = Authority()
    _, request = certificates.new_request()
    made = x509.read_leaf(authority.sign(request, WEB))
    text = leaf.note(made, "aa").encode()
    assert leaf.noted(text, "aa") == made
    assert leaf.noted(text, "bb") is None
    timeless = [text.replace(str(made.end).encode(), forged) for forged in (b"NaN", b"Infinity", b"-1e999")]
    assert text not in timeless
    nonsense = (b"", b"[]", b"{", b"[" * 100_000, b'{"chain_sha256": "aa"}', b'{"chain_sha256": "aa", "spiffe_id": 2}')
    assert [leaf.noted(each, "aa") for each in (*nonsense, *timeless)] == [None] * 9
