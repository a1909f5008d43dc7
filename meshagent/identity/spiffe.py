"""SPIFFE IDs: the names that stand in certificates.

    spiffe://TD/mesh/M/virtualNode/N      a proxy of a virtual node
    spiffe://TD/mesh/M/virtualGateway/G   a proxy of a virtual gateway
    spiffe://TD/host/NAME                 a host's agent
    spiffe://TD/server                    the control plane

Paths are resource paths as they stand everywhere else, percent-encoded names and all. Agents use this module: it must not know the
models of the specs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

from meshagent.identity.errors import IdentityError

URI_LIMIT = 2048
TRUST_DOMAIN_LIMIT = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+")


class IdKind(StrEnum):
    WORKLOAD = "workload"
    HOST = "host"
    SERVER = "server"


# The literal words of each kind's path; None stands for a name.
_SHAPES: tuple[tuple[IdKind, tuple[str | None, ...]], ...] = (
    (IdKind.WORKLOAD, ("mesh", None, "virtualNode", None)),
    (IdKind.WORKLOAD, ("mesh", None, "virtualGateway", None)),
    (IdKind.HOST, ("host", None)),
    (IdKind.SERVER, ("server",)),
)


@dataclass(frozen=True)
class SpiffeId:
    """`path` has no leading slash: for a workload it is the resource path of its node or gateway."""

    trust_domain: str
    path: str
    kind: IdKind

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.path}"

    @property
    def host(self) -> str:
        """The host's name, decoded; "" where this is no host."""
        return unquote(self.path.removeprefix("host/")) if self.kind is IdKind.HOST else ""


def check_trust_domain(trust_domain: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(trust_domain) or len(trust_domain) > TRUST_DOMAIN_LIMIT:
        raise IdentityError(
            f"trust domain {trust_domain[:80]!r}: must be 1 to {TRUST_DOMAIN_LIMIT} lower-case letters, digits, dots, dashes "
            "and underscores, such as mesh.example.com"
        )
    return trust_domain


def workload_id(trust_domain: str, resource_path: str) -> str:
    """The URI of a node's or gateway's proxies: `resource_path` such as mesh/shop/virtualNode/web."""
    return _checked(trust_domain, resource_path, IdKind.WORKLOAD, "mesh/shop/virtualNode/web")


def host_id(trust_domain: str, name: str) -> str:
    """The URI of a host's agent."""
    return _checked(trust_domain, f"host/{quote(name, safe='')}", IdKind.HOST, "host/web-1")


def server_id(trust_domain: str) -> str:
    """The URI of the control plane: every server has the same."""
    return _checked(trust_domain, "server", IdKind.SERVER, "server")


def server_name(trust_domain: str) -> str:
    """The DNS name in every server certificate: what agents verify, whatever address they dialled."""
    return f"server.{check_trust_domain(trust_domain)}"


def parse(uri: str) -> SpiffeId:
    """Raises IdentityError for whatever is not one of the shapes above."""
    if len(uri.encode()) > URI_LIMIT:
        raise IdentityError(f"SPIFFE ID {uri[:80]}...: longer than {URI_LIMIT} bytes")
    if not uri.startswith("spiffe://"):
        raise IdentityError(f"{uri[:200]!r} is not a SPIFFE ID: must begin with spiffe://")
    trust_domain, _, path = uri.removeprefix("spiffe://").partition("/")
    check_trust_domain(trust_domain)
    segments = path.split("/")
    if all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        for kind, shape in _SHAPES:
            if len(shape) == len(segments) and all(
                word in (None, segment) for word, segment in zip(shape, segments, strict=True)
            ):
                return SpiffeId(trust_domain, path, kind)
    raise IdentityError(
        f"SPIFFE ID {uri[:200]!r}: the path must be mesh/M/virtualNode/N, mesh/M/virtualGateway/G, host/NAME or server"
    )


def _checked(trust_domain: str, path: str, kind: IdKind, example: str) -> str:
    check_trust_domain(trust_domain)
    uri = f"spiffe://{trust_domain}/{path}"
    if parse(uri).kind is not kind:
        raise IdentityError(f"{path!r} cannot be the path of a {kind}'s SPIFFE ID: must be like {example}")
    return uri
