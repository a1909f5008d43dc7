"""Who speaks TLS to whom: App Mesh's rules of negotiation, and the mesh's own mutual TLS where nobody says anything."""

from __future__ import annotations

from typing import Any

import pytest

from meshagent.envoy.protos import tls
from meshagent.envoy.tls import Speaks, client_speaks, node_accepts
from meshagent.mesh.graph import Mesh, View
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key, Kind, node_key
from meshagent.specs.spec import MODELS, Spec
from meshagent.specs.tls import ClientPolicyTls, ListenerTls

NODE = node_key("m", "n")
POLICY = Key("m", Kind.MESH_POLICY, "m")
FILE = {"file": {"certificateChain": "chain.pem", "privateKey": "key.pem"}}
ACM = {"acm": {"certificateArn": "arn:1"}}
TRUST = {"validation": {"trust": {"file": {"certificateChain": "ca.pem"}}}}
NAMELESS = {"validation": {**TRUST["validation"], "subjectAlternativeNames": {"match": {"exact": []}}}}
AUTHORITY = {"validation": {"trust": {"acm": {"certificateAuthorityArns": ["arn:2"]}}}}


def listener_tls(mode: str, certificate: dict[str, Any]) -> dict[str, Any]:
    return {"mode": mode, "certificate": certificate}


def view_of(protocol: str, server: dict[str, Any] | None, strict: bool) -> View:
    listener: dict[str, Any] = {"portMapping": {"port": 80, "protocol": protocol}}
    if server is not None:
        listener["tls"] = server
    bodies: list[tuple[Key, dict[str, Any]]] = [
        (NODE, {"listeners": [listener], "serviceDiscovery": {"dns": {"hostname": "n.internal"}}})
    ]
    if strict:
        bodies.append((POLICY, {"mutualTls": "STRICT"}))
    return View(Mesh.build([Spec(key, MODELS[key.kind].model_validate(body)) for key, body in bodies]))


def kind_of(speaks: Speaks) -> str:
    """plain, by-lease, mesh (the node's SPIFFE ID is asked for), policy (its trust file counts), unverified."""
    if speaks.matches:
        assert speaks.socket is None
        return "by-lease"
    if speaks.socket is None:
        return "plain"
    context = tls.UpstreamTlsContext()
    assert speaks.socket.typed_config.Unpack(context)
    if context.common_tls_context.HasField("combined_validation_context"):
        (san,) = (
            context.common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
        )
        assert san.matcher.exact == "spiffe://td/mesh/m/virtualNode/n"
        return "mesh"
    if context.common_tls_context.HasField("validation_context"):
        (san,) = context.common_tls_context.validation_context.match_typed_subject_alt_names
        assert (san.matcher.exact, context.sni) == ("n.internal", "n.internal")
        return "policy"
    return "unverified"


@pytest.mark.parametrize(
    ("protocol", "server", "policy", "strict", "expected"),
    [
        ("http", None, None, False, "by-lease"),
        ("grpc", None, None, False, "by-lease"),
        ("tcp", None, None, False, "plain"),
        ("http", None, None, True, "mesh"),
        ("tcp", None, None, True, "mesh"),
        ("http", listener_tls("DISABLED", FILE), None, True, "plain"),
        ("http", listener_tls("STRICT", FILE), None, False, "unverified"),
        ("http", listener_tls("PERMISSIVE", FILE), None, True, "unverified"),
        ("http", listener_tls("STRICT", ACM), None, False, "mesh"),
        ("http", None, TRUST, False, "policy"),
        ("tcp", None, TRUST, False, "policy"),
        ("http", None, NAMELESS, False, "policy"),
        ("http", listener_tls("DISABLED", FILE), TRUST, False, "policy"),
        ("http", listener_tls("STRICT", ACM), AUTHORITY, False, "mesh"),
        ("http", None, {**TRUST, "enforce": False}, False, "plain"),
        ("http", None, {**TRUST, "enforce": False}, True, "mesh"),
        ("http", listener_tls("PERMISSIVE", FILE), {**TRUST, "enforce": False}, False, "policy"),
        ("http", listener_tls("DISABLED", FILE), {**TRUST, "enforce": False}, False, "plain"),
        ("http", None, {**TRUST, "ports": [443]}, False, "by-lease"),
        ("http", None, {**TRUST, "ports": [80]}, False, "policy"),
        ("http", None, {**TRUST, "ports": []}, False, "policy"),
    ],
)
def test_how_a_client_speaks(
    protocol: str, server: dict[str, Any] | None, policy: dict[str, Any] | None, strict: bool, expected: str
) -> None:
    said = ClientPolicyTls.model_validate(policy) if policy is not None else None
    view = view_of(protocol, server, strict)
    assert kind_of(client_speaks(view, NODE, 80, PortProtocol(protocol), said, "td")) == expected


@pytest.mark.parametrize(
    ("protocol", "server", "strict", "expected"),
    [
        ("http", None, False, "both, certificates"),
        ("tcp", None, False, "plaintext"),
        ("http", None, True, "tls, certificates"),
        ("tcp", None, True, "tls, certificates"),
        ("http", listener_tls("DISABLED", FILE), True, "plaintext"),
        ("http", listener_tls("STRICT", FILE), False, "tls"),
        ("tcp", listener_tls("PERMISSIVE", FILE), True, "both"),
        ("http", {**listener_tls("STRICT", FILE), **TRUST}, False, "tls, certificates"),
        ("http", {**listener_tls("STRICT", FILE), **NAMELESS}, False, "tls, certificates"),
    ],
)
def test_what_a_listener_takes(protocol: str, server: dict[str, Any] | None, strict: bool, expected: str) -> None:
    said = ListenerTls.model_validate(server) if server is not None else None
    accepts = node_accepts(view_of(protocol, None, strict), NODE, said, PortProtocol(protocol), "td")
    takes = "both" if accepts.both else "tls" if accepts.tls is not None else "plaintext"
    assert takes + (", certificates" if accepts.client_certificates else "") == expected
