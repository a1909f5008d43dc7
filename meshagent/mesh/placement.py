"""Placement and Endpoint: where proxies run, and where requests can go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from meshagent.specs.keys import Key

SLOTS = 64
SERVICES_PER_SLOT = 1 << 16
REDIRECT_INGRESS_PORT = 15000
REDIRECT_EGRESS_PORT = 15001


class Mode(StrEnum):
    BIND = "bind"
    REDIRECT = "redirect"
    INTERCEPT = "intercept"


@dataclass(frozen=True)
class Placement:
    """One proxy on one host.

    `id` is short and stable over restarts. `address` is the host's, on which ingress listens in bind mode; `application` the address on
    which the application itself listens. `slot` (0 to 63) is this placement's alone on its machine."""

    id: str
    host: str
    resource: Key
    mode: Mode
    slot: int
    address: str
    application: str = "127.0.0.1"
    ipv6: bool = False  # intercept: what is called by IPv6, too

    @property
    def ingress_port(self) -> int:
        """Where `redirect` and `intercept` turn inbound connections to."""
        return REDIRECT_INGRESS_PORT + 2 * self.slot

    @property
    def egress_port(self) -> int:
        return REDIRECT_EGRESS_PORT + 2 * self.slot


def service_address(slot: int, index: int) -> str:
    """The loopback address by which applications of a slot call the virtual service of that index: 127.(64+slot).hi.lo."""
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot {slot} is not within 0 to {SLOTS - 1}")
    if not 0 < index < SERVICES_PER_SLOT:
        raise ValueError(f"service index {index} is not within 1 to {SERVICES_PER_SLOT - 1}")
    return f"127.{64 + slot}.{index >> 8}.{index & 255}"


class Health(StrEnum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(frozen=True, order=True)
class Endpoint:
    """One address that serves a virtual node's listeners, each on its own port.

    `leased` when an agent vouches for it: it speaks the mesh's mutual TLS."""

    node: Key
    address: str
    host: str = ""
    placement: str = ""
    health: Health = Health.HEALTHY
    leased: bool = False
