"""Which Envoy each host is told to run now, as versions roll out host by host. Pure.

What operators want are policies: a version for a host, for the hosts of a selector, or for all; the most specific one goes. What a host
was told last is its Order, which is kept with the host, so that a server that starts anew goes on where it was. `decide` compares both
with what the hosts report: a host is done when all that runs there does so on the version that it was told, and only then is the next
one told. The first failure stops its policy, until an operator says how to go on. Must not know the store, streams or the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from meshagent.server.records import Order
from meshagent.server.selectors import Selector

OWN = ""  # the version that a host's own configuration says
# An Envoy is downloaded, started, fed and probed within this time, or its rollout stops.
LIMIT = 600.0


# Every host is held against every selector, again and again.
_parsed = lru_cache(maxsize=1024)(Selector.parse)


@dataclass(frozen=True, order=True)
class Scope:
    """`kind` is host, selector or all; `name` the host's name or the selector's text."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return "all hosts" if self.kind == "all" else f"{self.kind} {self.name}"

    @property
    def selector(self) -> Selector:
        return _parsed(self.name)


ALL = Scope("all")


@dataclass(frozen=True)
class Release:
    """A version that an operator named. `url` "" where hosts have it installed already."""

    version: str
    url: str = ""
    sha256: str = ""
    by: str = ""
    at: int = 0


@dataclass(frozen=True)
class Policy:
    """`previous` is the version of the policy in whose place this one came, None where there was none. `round` counts the operator's words
    to go on: what failed in an earlier one is told again. `stopped` says what failed, "" while nothing did."""

    scope: Scope
    version: str
    at_once: int = 1
    previous: str | None = None
    round: int = 0
    stopped: str = ""
    by: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Report:
    """One placement as its host reported it last. `order` is the number of the order that the report is about."""

    id: str
    resource: str = ""
    version: str = ""
    wanted: str = ""
    live: bool = False
    healthy: bool = False
    failure: str = ""
    detail: str = ""
    order: int = 0


@dataclass(frozen=True)
class Host:
    """`placements` are the ids of what it is to run; `since` is when this server began to hear of it, or not to."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    placements: tuple[str, ...] = ()
    order: Order | None = None
    connected: bool = False
    since: float = 0.0
    reports: tuple[Report, ...] = ()


class State(StrEnum):
    DONE = "done"
    WAITING = "waiting"  # told, and not there yet
    FAILED = "failed"
    PENDING = "pending"  # not told yet


@dataclass(frozen=True)
class Progress:
    """How far a host is with what governs it. `words` say what it waits for or what failed."""

    policy: Policy | None
    wanted: str
    state: State
    words: str = ""


@dataclass(frozen=True)
class Decision:
    """Orders to write, by host; policies that stop, with words."""

    orders: Mapping[str, Order] = field(default_factory=dict)
    stops: Mapping[Scope, str] = field(default_factory=dict)


def governing(policies: Iterable[Policy], host: Host) -> Policy | None:
    """The most specific policy for a host: its own, then the selector with most conditions (of several the latest), then that for all."""
    found = [policy for policy in policies if _covers(policy.scope, host)]
    return max(found, key=_specificity, default=None)


def progress(policy: Policy | None, host: Host, now: float) -> Progress:
    """How far the host is, as of its last report."""
    wanted, order = policy.version if policy else OWN, host.order
    if order is None and wanted == OWN:
        return Progress(policy, wanted, State.DONE)
    if order is None or order.version != wanted:
        return Progress(policy, wanted, State.PENDING)
    if order.done:
        return Progress(policy, wanted, State.DONE)
    state, words = _judged(host, order)
    if state is State.WAITING and now - max(order.since, host.since) > LIMIT:
        state, words = State.FAILED, f"{words}, {LIMIT / 60:.0f} minutes after it was told"
    return Progress(policy, wanted, state, words)


def decide(
    policies: Iterable[Policy], releases: Mapping[str, Release], hosts: Iterable[Host], now: float, number: int
) -> Decision:
    """What is to be written now. `number` is the first of the new orders: greater than any order's so far."""
    policies = tuple(policies)
    governed: dict[Policy, list[tuple[Host, Progress]]] = {}
    for host in hosts:
        policy = governing(policies, host) or Policy(ALL, OWN)
        governed.setdefault(policy, []).append((host, progress(policy, host, now)))
    orders: dict[str, Order] = {}
    stops: dict[Scope, str] = {}
    numbers = iter(range(number, number + 1_000_000))
    for policy, found in governed.items():
        failed = [(host, seen) for host, seen in found if seen.state is State.FAILED]
        again = [host for host, _ in failed if host.order and host.order.round < policy.round]
        standing = [(host, seen) for host, seen in failed if host not in again]
        if standing and not policy.stopped:
            host, seen = standing[0]
            stops[policy.scope] = f"{host.name}: {seen.words}"
        for host, seen in found:
            if seen.state is State.DONE and host.order and not host.order.done:
                orders[host.name] = replace(host.order, done=True)
        if policy.stopped or standing:
            continue
        under_way = sum(1 for _, seen in found if seen.state is State.WAITING) + len(again)
        pending = [host for host, seen in found if seen.state is State.PENDING]
        for host in (*again, *_begun(pending, max(0, policy.at_once - under_way))):
            orders[host.name] = _order(policy, releases.get(policy.version), host, now, next(numbers))
    return Decision(orders, stops)


def _begun(pending: Iterable[Host], free: int) -> Iterator[Host]:
    """Of those that wait, who is told now. Where nothing runs yet, nothing can be disturbed. A host that is away waits until it is back,
    and holds up nobody. A host that was told something else and did not get there is in trouble, and goes first."""
    for host in sorted(pending, key=lambda host: (not _in_trouble(host), host.name)):
        if not host.placements:
            yield host
        elif host.connected and free > 0:
            free -= 1
            yield host


def _in_trouble(host: Host) -> bool:
    return host.order is not None and not host.order.done and _judged(host, host.order)[0] is not State.DONE


def _order(policy: Policy, release: Release | None, host: Host, now: float, number: int) -> Order:
    return Order(
        version=policy.version,
        url=release.url if release else "",
        sha256=release.sha256 if release else "",
        number=number,
        round=policy.round,
        since=now,
        healthy=tuple(report.id for report in host.reports if report.healthy),
        done=not host.placements,
    )


def _judged(host: Host, order: Order) -> tuple[State, str]:
    """Every placement on the version, live, and as healthy as it was: one whose application was down before does not hold up the others."""
    if not host.connected:
        return State.WAITING, "it is away"
    reports = {report.id: report for report in host.reports if report.order == order.number}
    for report in reports.values():
        if report.failure:
            return State.FAILED, f"{report.resource or report.id}: {report.failure}"
    for id_ in host.placements:
        found = reports.get(id_)
        if found is None:
            return State.WAITING, "its agent has not said that it heard"
        name, wanted = found.resource or id_, order.version or found.wanted
        if found.version != wanted:
            return State.WAITING, f"{name} runs Envoy {found.version or '(none)'}"
        if not found.live:
            return State.WAITING, f"{name}: Envoy is not live"
        if id_ in order.healthy and not found.healthy:
            return State.WAITING, f"{name} is not healthy{f': {found.detail}' if found.detail else ''}"
    return State.DONE, ""


def _covers(scope: Scope, host: Host) -> bool:
    match scope.kind:
        case "host":
            return scope.name == host.name
        case "selector":
            return scope.selector.matches(host.attributes)
    return True


def _specificity(policy: Policy) -> tuple[int, int, float, Scope]:
    scope = policy.scope
    conditions = len(scope.selector.conditions) if scope.kind == "selector" else 0
    return {"all": 0, "selector": 1, "host": 2}[scope.kind], conditions, policy.at, scope
