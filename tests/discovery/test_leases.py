"""Which endpoints a node has: leases, DNS answers, and in `both` whose word counts."""

from __future__ import annotations

import pytest

from meshagent.discovery.leases import endpoints_of
from meshagent.mesh.placement import Endpoint, Health
from meshagent.specs.keys import node_key
from meshagent.specs.policies import EndpointSource

NODE = node_key("shop", "web")
BOTH, LEASES, DISCOVERY = EndpointSource.BOTH, EndpointSource.LEASES, EndpointSource.DISCOVERY


def leased(address: str, health: Health = Health.HEALTHY, placement: str = "p") -> Endpoint:
    return Endpoint(NODE, address, "host", placement, health, leased=True)


@pytest.mark.parametrize(
    ("source", "leases", "spoken", "resolved", "expected"),
    [
        (BOTH, [], [], ["10.0.0.1", "10.0.0.2"], {"10.0.0.1": False, "10.0.0.2": False}),
        # The first agent of several must not take all the traffic; its own address is spoken for by its lease.
        (BOTH, ["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], {"10.0.0.1": True, "10.0.0.2": False}),
        # A lease that ended is not brought back by the name, in plaintext.
        (BOTH, [], ["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], {"10.0.0.2": False}),
        (LEASES, ["10.0.0.1"], ["10.0.0.1"], ["10.0.0.2"], {"10.0.0.1": True}),
        (DISCOVERY, ["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"], {"10.0.0.1": False}),
    ],
)
def test_sources(
    source: EndpointSource, leases: list[str], spoken: list[str], resolved: list[str], expected: dict[str, bool]
) -> None:
    found = endpoints_of(NODE, source, map(leased, leases), spoken, resolved)
    assert {one.address: one.leased for one in found} == expected


def test_an_unhealthy_lease_is_not_brought_back_by_the_name() -> None:
    found = endpoints_of(NODE, BOTH, [leased("10.0.0.1", Health.UNHEALTHY)], ["10.0.0.1"], ["10.0.0.1"])
    assert [(one.health, one.leased) for one in found] == [(Health.UNHEALTHY, True)]


def test_of_two_leases_on_one_address_the_one_that_serves_counts_whatever_the_order() -> None:
    two = [leased("10.0.0.1", Health.UNHEALTHY, "a"), leased("10.0.0.1", Health.HEALTHY, "b")]
    for order in (two, two[::-1]):
        assert [one.placement for one in endpoints_of(NODE, BOTH, order, (), ())] == ["b"]
