"""Who asks: the host that a verified certificate names, as long as its name is its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import unquote

from meshagent.errors import MeshagentError
from meshagent.identity import x509
from meshagent.identity.errors import IdentityError
from meshagent.identity.leaf import Leaf
from meshagent.server.records import HostRecord


class NotAllowed(MeshagentError):
    """The peer is not who may ask this."""


def peer_certificate(authenticated: Mapping[str, Iterable[bytes]], trust_domain: str) -> Leaf:
    """The certificate in gRPC's auth context, which TLS has verified; NotAllowed when it is no host's of this trust domain."""
    for pem in authenticated.get("x509_pem_cert", ()):
        with suppress(IdentityError):
            leaf = x509.read_leaf(pem)
            if leaf.spiffe_id.trust_domain == trust_domain and leaf.spiffe_id.host:
                return leaf
    raise NotAllowed(f"the certificate is no host's of trust domain {trust_domain}: connect with a host's identity")


def admitted(leaf: Leaf, record: HostRecord | None) -> HostRecord:
    """The record of the host that shows this certificate; NotAllowed when there is none, or when the name was joined anew since: who had it
    before must not have it back. Both times are the authority's, in whole seconds, and a join is noted before its certificate is issued."""
    host = leaf.spiffe_id.host
    if record is None:
        raise NotAllowed(unknown_host(host))
    if leaf.issued < record.joined:
        raise NotAllowed(
            f"host {host!r} has joined anew since this certificate was issued: whoever shows it may join again with a new token"
        )
    return record


def peer_address(peer: str) -> str:
    """The IP address in gRPC's name for a connection's other end: ipv4:10.0.0.5:4711 or ipv6:%5B2001:db8::1%5D:4711."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def unknown_host(host: str) -> str:
    return (
        f"host {host!r} is not known here: it was removed, or this server has lost its records; it keeps what it has, and may join "
        "again with a new token"
    )
