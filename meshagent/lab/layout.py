"""What a lab is made of, before any of it is made: names, addresses, and who is cut off from whom.

Pure: names of bridges, veths and namespaces follow from the lab's name alone, so that whoever finds a record finds everything that may
have been made from it, made completely or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from meshagent.errors import MeshagentError

MAX_HOSTS = 99
PREFIX = "mlab"
_FIRST_HOST = 10  # h1 has .11; .1 is the machine
_PREFIX_LENGTH = 24
# Interface names end at 15 characters; the longest made here is "mlab-" and the lab's name, or the lab's name and "-h99".
_LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")
# High in 10/8, where home and office networks are rare; tried in this order.
_CANDIDATES = tuple(IPv4Network(f"10.{number}.77.0/{_PREFIX_LENGTH}") for number in range(213, 127, -1))

Cut = tuple[str, str]  # two hosts that do not hear each other, in order of their names


class LabError(MeshagentError):
    """Something of the lab that is not there, not allowed, or did not come up."""


@dataclass(frozen=True)
class Layout:
    """A lab's name, its network and how many hosts it has. Hosts are h1 to hN."""

    name: str
    network: IPv4Network
    count: int

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"h{number}" for number in range(1, self.count + 1))

    @property
    def bridge(self) -> str:
        return f"{PREFIX}-{self.name}"

    @property
    def table(self) -> str:
        """The nftables table of the family bridge that holds the cuts."""
        return f"{PREFIX}_{self.name}"

    @property
    def machine_address(self) -> IPv4Address:
        return self.network[1]

    def address(self, host: str) -> IPv4Address:
        return self.network[_FIRST_HOST + int(host.removeprefix("h"))]

    def veth(self, host: str) -> str:
        """The machine's end of the host's cable."""
        return f"{self.name}-{host}"

    def namespace(self, host: str) -> str:
        return f"{PREFIX}-{self.name}-{host}"

    def machine(self, host: str) -> str:
        """What systemd-nspawn calls the host: one name on this machine, whatever other labs there are."""
        return f"{PREFIX}-{self.name}-{host}"

    def named(self, host: str) -> str:
        if host not in self.hosts:
            raise LabError(f"lab {self.name} has no host {host}: it has {', '.join(self.hosts)}")
        return host


def layout(name: str, network: IPv4Network, count: int) -> Layout:
    """A layout that can be built, or a LabError that says what is wrong with it."""
    check_name(name)
    if not 1 <= count <= MAX_HOSTS:
        raise LabError(f"lab {name}: {count} hosts: a lab has 1 to {MAX_HOSTS}")
    if network.prefixlen != _PREFIX_LENGTH or not network.is_private:
        raise LabError(
            f"lab {name}: network {network}: a private /{_PREFIX_LENGTH} is needed, such as {_CANDIDATES[0]}"
        )
    return Layout(name, network, count)


def check_name(name: str) -> str:
    if not _LAB_NAME.fullmatch(name):
        raise LabError(
            f"a lab cannot be named {name!r}: 1 to 8 of a-z and 0-9, a letter first (it names network interfaces)"
        )
    return name


def parse_network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise LabError(f"network {text!r}: {error}; right would be {_CANDIDATES[0]}") from error


def free_network(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first candidate that overlaps nothing that the machine has an address in or a route to."""
    used = list(taken)
    for candidate in _CANDIDATES:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise LabError("no network is free between 10.128.77.0/24 and 10.213.77.0/24: name one with --network")


def cuts_between(layout: Layout, hosts: Iterable[str], others: Iterable[str]) -> frozenset[Cut]:
    """Each of `hosts` cut off from each of `others`; without others, from all hosts of the lab that are not among `hosts`."""
    one_side = [layout.named(host) for host in hosts]
    other_side = [layout.named(host) for host in others] or [h for h in layout.hosts if h not in one_side]
    if not other_side:
        raise LabError(
            f"lab {layout.name}: nobody is left to cut {', '.join(one_side)} off from: name them with --from"
        )
    both = set(one_side) & set(other_side)
    if both:
        raise LabError(f"lab {layout.name}: {', '.join(sorted(both))} cannot be cut off from itself")
    return frozenset(cut(a, b) for a in one_side for b in other_side)


def cut(a: str, b: str) -> Cut:
    return (a, b) if a < b else (b, a)


def healed(cuts: Iterable[Cut], hosts: Iterable[str]) -> frozenset[Cut]:
    """What stays cut once these hosts hear everybody again; no hosts named: nothing."""
    named = set(hosts)
    return frozenset(pair for pair in cuts if named and not named & set(pair))
