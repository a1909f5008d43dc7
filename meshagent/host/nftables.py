"""The nftables table of the modes that turn connections: its text from values, put in place whole, looked at, taken away.

One table of our own, `inet meshagent`, replaced in one transaction; no other is ever named. Its rules match the services' loopback
addresses outbound, and the applications' own ports on the host's own addresses inbound. `ruleset` is pure. Knows no placements: a Way is
what one of them needs.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshagent.errors import MeshagentError

FAMILY, TABLE = "inet", "meshagent"
# Connections whose sockets carry it are the agent's own probes: they mean the application itself.
PROBE_MARK = 0x6D657368
INGRESS_PORT, EGRESS_PORT = 15000, 15001
SERVICES_SLOT = 64  # 127.(64+slot).0.0/16 are the services' addresses as the placement in that slot calls them
# Just before the others' destination NAT (-100), Docker's say: what they publish is not what ours match.
_PRIORITY = -105
_PROGRAMS = (Path("/usr/sbin/nft"), Path("/usr/bin/nft"), Path("/sbin/nft"))
_LIMIT_SECONDS = 10.0
_SERVICES = "127.64.0.0/10"
_SWITCH = "catching"
# A command for a shell: what leaves the host is caught no longer. It fails where nothing was caught.
LET_PASS = f"nft 'delete element {FAMILY} {TABLE} {_SWITCH} {{ tcp }}'"
_EMPTY = f"table {FAMILY} {TABLE} {{}}\ndelete table {FAMILY} {TABLE}\n"


class NftError(MeshagentError):
    """The kernel's rules could not be read or changed: they are as they were."""


@dataclass(frozen=True)
class Caught:
    """What of all that leaves this host goes to one proxy: every TCP connection but those of the users `users` and the groups `groups`, to
    the ports `ports`, to the addresses `addresses` (networks, too), or to the addresses and ports `hosts`. `seconds`: for so long; None:
    until told otherwise. What the kernel itself ends needs nobody to be there to end it."""

    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    ipv6: bool = False
    seconds: int | None = None


# Never caught: the way in for whoever has to mend this, and where instances learn who they are.
SPARED_PORTS = (22,)
SPARED_ADDRESSES = ("169.254.169.254", "169.254.170.2", "fd00:ec2::254")


@dataclass(frozen=True)
class Way:
    """What one proxy needs. `ports`: connections that come to this host for them go to the proxy. `proxy`: the user that it runs as, whose
    own connections to its application's address `application` are left alone. `callers`: the users whose calls of slot 0's addresses are
    this proxy's; `otherwise`: it gets those of everybody else. `ipv6`: the proxy takes connections of both families; where it does not,
    other hosts cannot reach the ports `sealed` by IPv6, past the proxy."""

    slot: int
    ports: tuple[int, ...] = ()
    proxy: int = 0
    application: str = "127.0.0.1"
    callers: tuple[int, ...] = ()
    otherwise: bool = False
    outbound: bool = True
    ipv6: bool = False
    sealed: tuple[int, ...] = ()
    caught: Caught | None = None

    @property
    def ingress(self) -> int:
        return INGRESS_PORT + 2 * self.slot

    @property
    def egress(self) -> int:
        return EGRESS_PORT + 2 * self.slot


def ruleset(ways: Sequence[Way]) -> str:
    """For `nft -f`: the table in place of the one that is there, in one transaction. Without ways there is no table."""
    if not ways:
        return _EMPTY
    caught = next((way for way in ways if way.caught is not None), None)
    outbound = [*_own(caught), *_calls(ways), *_between(ways), *_all_else(caught)]
    inbound = [_turned(way) for way in ways if way.ports]
    chains = [_chain("outbound", "output", outbound)]
    if inbound:
        chains.append(_chain("inbound", "prerouting", ['iifname "lo" return', *inbound]))
    if sealed := [port for way in ways if not way.ipv6 for port in way.sealed]:
        chains.append(_seal(sealed))
    if caught is not None:
        chains = [_switch(caught), *chains, _guard(caught)]
    return f"{_EMPTY}table {FAMILY} {TABLE} {{\n{''.join(chains)}}}\n"


def _calls(ways: Sequence[Way]) -> Iterable[str]:
    """Calls of virtual services. Slot 0's addresses are what names stand for; whose call it is, its user tells."""
    own, shared = "ip daddr 127.{}.0.0/16", f"ip daddr 127.{SERVICES_SLOT}.0.0/16"
    for way in ways:
        for user in way.callers if way.outbound else ():
            yield f"{shared} meta skuid {user} meta l4proto tcp redirect to :{way.egress}"
    for way in ways:
        if way.outbound and way.slot:
            yield f"{own.format(SERVICES_SLOT + way.slot)} meta l4proto tcp redirect to :{way.egress}"
    for way in ways:
        if way.outbound and way.otherwise:
            yield f"{shared} meta l4proto tcp redirect to :{way.egress}"


def _between(ways: Sequence[Way]) -> Iterable[str]:
    """Connections from this host to its own addresses: another placement's, or anybody's. Loopback is the application's own affair."""
    turned = [way for way in ways if way.ports]
    if not turned:
        return
    yield "ip daddr 127.0.0.0/8 return"
    if any(way.ipv6 for way in turned):
        yield "ip6 daddr ::1 return"
    yield f"meta mark {PROBE_MARK:#x} return"
    for way in turned:
        if not way.application.startswith("127.") and way.application != "::1":
            family = "ip6" if ":" in way.application else "ip"
            yield f"meta skuid {way.proxy} {family} daddr {way.application} tcp dport {_set(way.ports)} return"
    yield from (_turned(way) for way in turned)


def _own(way: Way | None) -> Iterable[str]:
    """A proxy that passes on what it does not know must not get it back."""
    if way is not None:
        yield f"meta skuid {way.proxy} ip daddr {_SERVICES} return"


def _all_else(way: Way | None) -> Iterable[str]:
    if way is None or way.caught is None:
        return
    caught = way.caught
    yield f"meta skuid {_set((way.proxy, *caught.users))} return"
    if caught.groups:
        yield f"meta skgid {_set(caught.groups)} return"
    yield f"tcp dport {_set((*SPARED_PORTS, *caught.ports))} return"
    for family, addresses in _by_family((*SPARED_ADDRESSES, *caught.addresses)):
        yield f"{family} daddr {{ {', '.join(addresses)} }} return"
    for address, port in caught.hosts:
        yield f"{'ip6' if ':' in address else 'ip'} daddr {address} tcp dport {port} return"
    yield "fib daddr type local return"
    family = "" if caught.ipv6 else "meta nfproto ipv4 "
    yield f"{family}meta l4proto tcp meta l4proto @{_SWITCH} redirect to :{way.egress}"


def _switch(way: Way) -> str:
    """A set of one element, which the kernel takes out when its time is over."""
    assert way.caught is not None
    timeout = f" timeout {way.caught.seconds}s" if way.caught.seconds is not None else ""
    return f"  set {_SWITCH} {{\n    type inet_proto; flags timeout;\n    elements = {{ tcp{timeout} }}\n  }}\n"


def _guard(way: Way) -> str:
    """Services' addresses that lead nowhere are refused: what the proxy passed on would reach an application of this host."""
    rule = f"meta skuid {way.proxy} ip daddr {_SERVICES} meta l4proto tcp reject with tcp reset"
    return f"  chain guard {{\n    type filter hook output priority 0; policy accept;\n    {rule}\n  }}\n"


def _seal(ports: Iterable[int]) -> str:
    rule = f'iifname != "lo" meta nfproto ipv6 tcp dport {_set(ports)} reject with tcp reset'
    return f"  chain sealed {{\n    type filter hook input priority 0; policy accept;\n    {rule}\n  }}\n"


def _by_family(addresses: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """Merged: the kernel refuses a set whose networks overlap."""
    networks = [ipaddress.ip_network(each, strict=False) for each in addresses]
    four = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    for family, merged in (("ip", list(four)), ("ip6", list(six))):
        if merged:
            yield family, [str(each) if each.num_addresses > 1 else str(each.network_address) for each in merged]


def _turned(way: Way) -> str:
    family = "" if way.ipv6 else "meta nfproto ipv4 "
    return f"{family}fib daddr type local tcp dport {_set(way.ports)} redirect to :{way.ingress}"


def _set(ports: Iterable[int]) -> str:
    return f"{{ {', '.join(map(str, sorted(set(ports))))} }}"


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    head = f"type nat hook {hook} priority {_PRIORITY}; policy accept;"
    return f"  chain {name} {{\n    {head}\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def apply(text: str) -> None:
    """Puts a `ruleset` in place: all of it or, with NftError, none."""
    _run("-f", "-", text=text)


def remove() -> None:
    """Gone already is fine."""
    if observe() is not None:
        apply(_EMPTY)


def observe() -> str | None:
    """The table as the kernel has it, in one spelling: equal texts are equal tables. None: it is not there."""
    done = _run("-j", "list", "table", FAMILY, TABLE, missing="No such file or directory")
    return None if done is None else spelled(done)


def spelled(listing: str) -> str:
    """`nft -j`'s answer without what differs from one load of the same rules to the next."""
    try:
        found = json.loads(listing)["nftables"]
    except (ValueError, KeyError, TypeError) as error:
        raise NftError(f"nft -j answered what is no listing: {listing[:200]!r}") from error
    return json.dumps([_bare(one) for one in found if "metainfo" not in one], sort_keys=True)


def redirected_to(table: str | None, chain: str = "inbound") -> frozenset[int]:
    """The ports that connections are turned to, in a table that was observed: those that come in from outside, or those that go out."""
    rules = (one["rule"] for one in json.loads(table or "[]") if "rule" in one)
    return frozenset(
        step["redirect"]["port"]
        for rule in rules
        if rule["chain"] == chain
        for step in rule["expr"]
        if "redirect" in step
    )


def rules_of(table: str | None) -> str | None:
    """An observed table but for the switch that Envoy's unit, too, may turn off."""
    if table is None:
        return None
    return json.dumps([{**one, "set": None} if "set" in one else one for one in json.loads(table)], sort_keys=True)


def is_whole(table: str | None, text: str) -> bool:
    """Whether an observed table has as many rules as the `ruleset` that was put in place: somebody may have flushed it before we looked."""
    wanted = sum(
        line.startswith("    ") and not line.startswith(("    type ", "    elements ")) for line in text.splitlines()
    )
    return sum("rule" in one for one in json.loads(table or "[]")) == wanted


def switch_on(table: str | None) -> bool:
    """Whether what leaves the host is caught, in a table that was observed."""
    return any(one.get("set", {}).get("elem") for one in json.loads(table or "[]"))


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        # Of the switch, whether it is on counts; how long still, the clock says.
        kept = {key: inner for key, inner in value.items() if key != "handle"}
        return {key: len(inner) if key == "elem" else _bare(inner) for key, inner in kept.items()}
    return [_bare(inner) for inner in value] if isinstance(value, list) else value


def program() -> Path:
    for path in _PROGRAMS:
        if path.exists():
            return path
    raise NftError("nft is not there: install the package nftables, or set `mode: bind`")


def _run(*arguments: str, text: str = "", missing: str = "") -> str | None:
    """What nft prints; None when it fails with the words `missing`."""
    command = [str(program()), *arguments]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=_LIMIT_SECONDS, check=False
        )
    except OSError as error:
        raise NftError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NftError(f"{' '.join(command)} took more than {_LIMIT_SECONDS:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    if missing and missing in done.stderr:
        return None
    words = " ".join(done.stderr.split())[:500] or f"exit status {done.returncode}"
    raise NftError(f"{' '.join(command)}: {words}")
