"""SPIFFE IDs: built, read back, and refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.identity import spiffe
from meshagent.identity.errors import IdentityError
from meshagent.identity.spiffe import IdKind, SpiffeId
from meshagent.specs.keys import Key, gateway_key, node_key

NAMES = st.text(min_size=1, max_size=60, alphabet=st.characters(codec="utf-8")).filter(
    lambda name: name not in (".", "..")
)


@given(NAMES, NAMES)
def test_every_node_s_and_gateway_s_path_is_an_identity(mesh: str, name: str) -> None:
    for key in (node_key(mesh, name), gateway_key(mesh, name)):
        found = spiffe.parse(spiffe.workload_id("mesh.local", key.path))
        assert found == SpiffeId("mesh.local", key.path, IdKind.WORKLOAD)
        assert Key.parse(found.path) == key
        assert str(found) == f"spiffe://mesh.local/{key.path}"


@given(NAMES)
def test_host_names_come_back(name: str) -> None:
    found = spiffe.parse(spiffe.host_id("td", name))
    assert (found.kind, found.host) == (IdKind.HOST, name)


def test_server() -> None:
    assert spiffe.server_id("mesh.local") == "spiffe://mesh.local/server"
    assert spiffe.parse("spiffe://mesh.local/server").kind is IdKind.SERVER
    assert spiffe.parse("spiffe://mesh.local/server").host == ""
    assert spiffe.server_name("mesh.local") == "server.mesh.local"


@pytest.mark.parametrize("trust_domain", ["", "Mesh", "a/b", "a b", "é", "a:1", "a@b", "x" * 256, "a\n"])
def test_trust_domains_that_are_none(trust_domain: str) -> None:
    with pytest.raises(IdentityError, match="trust domain"):
        spiffe.server_id(trust_domain)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://mesh.local/server",
        "SPIFFE://mesh.local/server",
        "spiffe://mesh.local",
        "spiffe://mesh.local/",
        "spiffe://mesh.local/server/",
        "spiffe://mesh.local//server",
        "spiffe://mesh.local/servers",
        "spiffe://mesh.local/host/",
        "spiffe://mesh.local/host/.",
        "spiffe://mesh.local/host/..",
        "spiffe://mesh.local/host/a/b",
        "spiffe://mesh.local/host/a b",
        "spiffe://mesh.local/host/a%2fb",
        "spiffe://mesh.local/host/a%",
        "spiffe://mesh.local/host/a?x=1",
        "spiffe://mesh.local/host/a#x",
        "spiffe://mesh.local/host/é",
        "spiffe://mesh.local/mesh/shop/virtualRouter/r",
        "spiffe://mesh.local/mesh/shop",
        "spiffe://mesh.local:8080/server",
        "spiffe://user@mesh.local/server",
        f"spiffe://mesh.local/host/{'x' * 2048}",
    ],
)
def test_uris_that_are_none(uri: str) -> None:
    with pytest.raises(IdentityError):
        spiffe.parse(uri)


def test_one_kind_cannot_be_built_as_another() -> None:
    with pytest.raises(IdentityError, match="workload"):
        spiffe.workload_id("mesh.local", "host/web-1")
    with pytest.raises(IdentityError, match="workload"):
        spiffe.workload_id("mesh.local", "server")


def test_names_too_long_for_a_uri_are_said() -> None:
    path = f"mesh/{quote('é' * 255, safe='')}/virtualNode/{quote('é' * 255, safe='')}"
    with pytest.raises(IdentityError, match="2048 bytes"):
        spiffe.workload_id("mesh.local", path)
