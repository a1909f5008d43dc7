"""Which names a host's applications resolve, and which connections are turned to which proxy: from the placements, pure.

Slot 0's addresses stand in the host's own hosts file. In `redirect` an application of another slot calls them too, and is told by its
user; in `bind` Envoy listens on them itself, so that only slot 0's names are everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from meshagent.agent.settings import PlacementSettings
from meshagent.host.hostsfile import Taken, resolvable
from meshagent.host.nftables import SERVICES_SLOT, Caught, Way, ruleset
from meshagent.protocol import host_pb2

REDIRECT, INTERCEPT = "redirect", "intercept"
TURNING = (REDIRECT, INTERCEPT)  # the modes in which rules turn connections
# So long an Envoy may not accept before its application is given back the connections that come in for it.
PATIENCE = 5.0


@dataclass(frozen=True)
class Owner:
    """What this host says of one placement: the user that its proxy runs as (None: not known) and those that its application runs as.
    `words`: what of it could not be found."""

    proxy: int | None = 0
    callers: tuple[int, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Plan:
    """`names` are for the hosts file. `ways` hold now; `kept` are loaded at boot, when no Envoy runs yet. `words`: by placement, what does
    not work as it is configured."""

    names: Mapping[str, str] = field(default_factory=dict)
    ways: tuple[Way, ...] = ()
    kept: tuple[Way, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> str:
        return ruleset(self.ways)

    @property
    def shape(self) -> str:
        """The rules, but for how long a trial still goes on."""
        return ruleset([replace(way, caught=_timeless(way.caught)) for way in self.ways])

    @property
    def rules_at_boot(self) -> str:
        return ruleset(self.kept)

    def turned(self, placement: host_pb2.Placement) -> bool:
        """Whether what comes in for the placement's ports goes to its Envoy."""
        return all(
            any(way.slot == placement.slot and port in way.ports for way in self.ways) for port in placement.ports
        )


def plan(
    placements: Collection[host_pb2.Placement],
    settings: Sequence[PlacementSettings],
    owner: Callable[[host_pb2.Placement, PlacementSettings | None], Owner],
    accepting: Collection[str],
    caught: Callable[[host_pb2.Placement, PlacementSettings], tuple[Caught | None, str]] = lambda *_: (None, ""),
) -> Plan:
    """`caught` says what of all that leaves the host goes to a placement in the mode intercept, and what there is to say of it.
    `accepting` are the ids of those whose Envoys take connections, or did until a moment ago."""
    placed = sorted(placements, key=lambda each: each.slot)
    turned = [each for each in placed if each.mode in TURNING and _is_node(each)]
    owners = {each.id: owner(each, chosen(each, settings)) for each in turned}
    owned_ports: dict[int, str] = {}
    for each in placed:
        for port in each.ports:
            owned_ports.setdefault(port, each.id)
    default = _receiver(placed, turned, owners)
    words: dict[str, list[str]] = {each.id: [] for each in turned}
    ways, kept = [], []
    for each in turned:
        who, said = owners[each.id], words[each.id]
        for other in turned:
            if other.slot < each.slot and set(owners[other.id].callers) & set(who.callers):
                said.append(
                    f"its application's user is the placement {other.id}'s too, which gets its calls: give it a user of its own"
                )
        if who.words:
            said.append(who.words)
        if default is not each and not who.callers and each.names:
            said.append(_no_caller(each, default))
        for port in each.ports:
            if owned_ports[port] != each.id:
                said.append(
                    f"port {port} of this host goes to the placement {owned_ports[port]}: give one of the two another port"
                )
        own = chosen(each, settings)
        named = own.intercept.app_ports if own is not None and each.mode == INTERCEPT else ()
        way = Way(
            slot=each.slot,
            ports=tuple(port for port in named or each.ports if owned_ports.get(port, each.id) == each.id),
            proxy=who.proxy or 0,
            application=each.application or "127.0.0.1",
            callers=who.callers,
            otherwise=default is each,
            ipv6=":" in each.address,
        )
        if who.proxy is None and not way.application.startswith("127."):
            way = replace(way, ports=())
        secured = way.ports if each.strict else tuple(port for port in way.ports if port in each.tls_ports)
        way = replace(way, sealed=() if way.ipv6 else secured)
        now = way if each.id in accepting else replace(way, ports=secured)
        if each.mode == INTERCEPT and own is not None and each.id in accepting:
            if who.proxy:
                catch, remark = caught(each, own)
                now = replace(now, caught=catch)
            elif who.proxy is None:
                remark = ""
            else:
                remark = (
                    "nothing is intercepted: Envoy must run as a user of its own for that, with `supervisor: systemd`"
                )
            said += [remark] if remark else []
        ways.append(now)
        kept.append(replace(way, ports=secured))
    return Plan(_names(placed), tuple(ways), tuple(kept), {id_: "; ".join(said) for id_, said in words.items() if said})


def chosen(placement: host_pb2.Placement, settings: Sequence[PlacementSettings]) -> PlacementSettings | None:
    """What this host's configuration says of the placement: of several of one resource, the one with its application's address."""
    same = [each for each in settings if each.resource == placement.resource]
    exact = [each for each in same if (each.application or "127.0.0.1") == placement.application]
    return next(iter(exact or same), None)


def _receiver(
    placed: Sequence[host_pb2.Placement], turned: Sequence[host_pb2.Placement], owners: Mapping[str, Owner]
) -> host_pb2.Placement | None:
    """Whose proxy gets the calls of slot 0's addresses of which nobody knows the caller."""
    first = placed[0] if placed else None
    if first is not None and first.slot == 0 and first.mode not in TURNING and _is_node(first):
        return None  # its Envoy listens on them
    unnamed = [each for each in turned if not owners[each.id].callers]
    return next(iter(unnamed or turned), None)


def _no_caller(placement: host_pb2.Placement, default: host_pb2.Placement | None) -> str:
    whose = f"the placement {default.id}'s" if default is not None else "the placement's in slot 0"
    return (
        f"calls of its application are taken for {whose}: several placements share this host, give this one an `application_user` "
        "in the agent's configuration, the user that its application runs as"
    )


def _names(placed: Sequence[host_pb2.Placement]) -> dict[str, str]:
    return {
        name.service: _shared(name.address)
        for each in placed
        if each.mode in TURNING or each.slot == 0
        for name in each.names
        if resolvable(name.service)
    }


def _shared(address: str) -> str:
    """A service's address as slot 0 has it."""
    first, _, *rest = address.split(".")
    return ".".join((first, str(SERVICES_SLOT), *rest))


def _is_node(placement: host_pb2.Placement) -> bool:
    return "/virtualNode/" in placement.resource


def taken_words(placement: host_pb2.Placement, taken: Collection[Taken], path: str) -> str:
    """Which of the placement's services its application cannot call by name, since somebody else wrote the name into the hosts file."""
    mine = {name.service for name in placement.names}
    return "; ".join(
        f"line {each.line} of {path} says that {each.name} is {each.address}, and counts: remove it, for calls to go through the mesh"
        for each in taken
        if each.name in mine
    )


def _timeless(caught: Caught | None) -> Caught | None:
    return replace(caught, seconds=1) if caught is not None and caught.seconds is not None else caught
