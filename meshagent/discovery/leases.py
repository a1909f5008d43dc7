"""What makes a virtual node's endpoints: agents' leases, DNS answers, or both with leases speaking first.

Pure: what is leased, what was resolved and which addresses belong to placements come in as values. Must not know the
store, the network or the clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshagent.mesh.placement import Endpoint, Health
from meshagent.specs.keys import Key
from meshagent.specs.policies import EndpointSource


@dataclass(frozen=True, order=True)
class Lookup:
    """One question to DNS: a name, and which families of addresses are wanted, the preferred first: "4", "6", "46", "64"."""

    hostname: str
    families: str = "46"


# Of several placements on one address (an old and a new host record of one machine) the one that can serve counts.
_PREFERENCE = {Health.HEALTHY: 0, Health.DRAINING: 1, Health.UNHEALTHY: 2}


def endpoints_of(
    node: Key,
    source: EndpointSource,
    leased: Iterable[Endpoint],
    spoken_for: Collection[str],
    resolved: Iterable[str],
) -> tuple[Endpoint, ...]:
    """The node's endpoints, one an address, ordered by address.

    `spoken_for` are the addresses for which a lease of this node has once spoken and whose placement is still there: in
    `both`, the lease alone speaks for them. A name that still lists a drained or dead host does not bring it back."""
    by_address: dict[str, Endpoint] = {}
    if source is not EndpointSource.DISCOVERY:
        for endpoint in leased:
            other = by_address.get(endpoint.address)
            if other is None or _rank(endpoint) < _rank(other):
                by_address[endpoint.address] = endpoint
    if source is not EndpointSource.LEASES:
        # A node left to discovery is what its name says; leases have no word in it.
        silent = spoken_for if source is EndpointSource.BOTH else ()
        for address in resolved:
            if address not in by_address and address not in silent:
                by_address[address] = Endpoint(node, address)
    return tuple(by_address[address] for address in sorted(by_address))


def _rank(endpoint: Endpoint) -> tuple[int, str, str]:
    return (_PREFERENCE[endpoint.health], endpoint.host, endpoint.placement)
