"""Names, addresses and cuts, without a machine."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from meshagent.lab import Lab
from meshagent.lab.layout import LabError, cuts_between, free_network, healed, layout, parse_network

NETWORK = IPv4Network("10.200.7.0/24")
THREE = layout("lab", NETWORK, 3)


def test_every_name_fits_an_interface() -> None:
    longest = layout("abcdefgh", NETWORK, 99)
    assert all(len(name) <= 15 for name in (longest.bridge, longest.veth("h99")))


def test_hosts_have_addresses_of_their_own_and_the_machine_the_first() -> None:
    addresses = [THREE.address(host) for host in THREE.hosts]
    assert [str(address) for address in addresses] == ["10.200.7.11", "10.200.7.12", "10.200.7.13"]
    assert str(THREE.machine_address) == "10.200.7.1"


@pytest.mark.parametrize("name", ["", "Lab", "9lab", "toolonglab", "a-b", "../x"])
def test_a_name_that_cannot_name_an_interface_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be named"):
        layout(name, NETWORK, 1)


@pytest.mark.parametrize("network", ["8.8.8.0/24", "10.0.0.0/16"])
def test_only_a_private_24_will_do(network: str) -> None:
    with pytest.raises(LabError, match=r"private /24"):
        layout("lab", IPv4Network(network), 1)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(LabError, match=r"10\.1\.2\.3/24"):
        parse_network("10.1.2.3/24")


def test_a_network_in_use_is_not_chosen() -> None:
    first = free_network([])
    assert free_network([first]) != first
    assert free_network([IPv4Network("10.213.0.0/16")]) == free_network([first])
    with pytest.raises(LabError, match="no network is free"):
        free_network([IPv4Network("10.0.0.0/8")])


def test_a_host_is_cut_off_from_all_others_unless_some_are_named() -> None:
    assert cuts_between(THREE, ["h1"], []) == {("h1", "h2"), ("h1", "h3")}
    assert cuts_between(THREE, ["h2"], ["h1"]) == {("h1", "h2")}
    assert cuts_between(THREE, ["h1", "h2"], []) == {("h1", "h3"), ("h2", "h3")}


def test_a_cut_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(LabError, match="itself"):
        cuts_between(THREE, ["h1"], ["h1"])
    with pytest.raises(LabError, match="nobody is left"):
        cuts_between(THREE, ["h1", "h2", "h3"], [])
    with pytest.raises(LabError, match="no host h9: it has h1, h2, h3"):
        cuts_between(THREE, ["h9"], [])


def test_healing_undoes_all_or_those_of_a_host() -> None:
    cuts = frozenset({("h1", "h2"), ("h2", "h3"), ("h1", "h3")})
    assert healed(cuts, []) == frozenset()
    assert healed(cuts, ["h1"]) == {("h2", "h3")}


def test_labs_of_one_process_have_names_of_their_own() -> None:
    assert len({Lab.of_process().name for _ in range(3)}) == 3
