"""What a rollout does next: by example, and as a simulated fleet under hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from meshagent.server.records import Order
from meshagent.server.rollout import (
    ALL,
    LIMIT,
    OWN,
    Decision,
    Host,
    Policy,
    Release,
    Report,
    Scope,
    State,
    decide,
    governing,
    progress,
)

OLD, NEW = "1.39.3", "1.40.0"
RELEASES = {NEW: Release(NEW, "https://files.example.com/envoy", "ab" * 32)}


def host(name: str, **more: object) -> Host:
    made = Host(name, placements=(f"{name}-p",), connected=True, reports=(report(f"{name}-p", OLD),))
    return replace(made, **more)  # type: ignore[arg-type]


def report(id_: str, version: str, /, **more: object) -> Report:
    return replace(Report(id_, f"mesh/shop/virtualNode/{id_}", version, version, True, True), **more)  # type: ignore[arg-type]


def told(one: Host, decision: Decision, **more: object) -> Host:
    """The host after it heard its order and reports `more` about it."""
    order = decision.orders[one.name]
    return answering(replace(one, order=order), order.version, **more)


def answering(one: Host, version: str, /, **more: object) -> Host:
    assert one.order is not None
    return replace(one, reports=(report(one.placements[0], version, order=one.order.number, **more),))


def at(hosts: Iterable[Host], *policies: Policy, now: float = 0.0) -> Decision:
    return decide(policies, RELEASES, hosts, now, 1)


EVERYWHERE = Policy(ALL, NEW)


def test_one_host_at_a_time_and_the_next_when_it_is_done() -> None:
    a, b = host("a"), host("b")
    first = at([a, b], EVERYWHERE)
    assert set(first.orders) == {"a"}
    assert first.orders["a"].url == "https://files.example.com/envoy"
    heard = told(a, first, version=OLD)
    assert not at([heard, b], EVERYWHERE).orders
    done = at([answering(heard, NEW), b], EVERYWHERE)
    assert done.orders["a"].done
    second = at([replace(heard, order=done.orders["a"]), b], EVERYWHERE)
    assert set(second.orders) == {"b"}


def test_several_at_once() -> None:
    hosts = [host(name) for name in "abcd"]
    assert set(at(hosts, replace(EVERYWHERE, at_once=3)).orders) == {"a", "b", "c"}


def test_the_most_specific_policy_wins() -> None:
    labelled = host("a", attributes={"zone": "z", "role": "web"})
    policies = [
        EVERYWHERE,
        Policy(Scope("selector", "zone=z"), OLD, at=5.0),
        Policy(Scope("selector", "role=web,zone=z"), NEW, at=1.0),
        Policy(Scope("host", "b"), OLD),
    ]
    won = governing(policies, labelled)
    assert won is policies[2]
    assert governing(policies, host("b")) is policies[3]
    assert governing(policies, host("c")) is policies[0]
    later = Policy(Scope("selector", "role=web"), OLD, at=6.0)
    assert governing([policies[1], later], labelled) is later


def test_without_a_policy_a_host_goes_by_its_own_configuration() -> None:
    assert not at([host("a")]).orders
    ordered = host("a", order=Order(NEW, number=1, done=True))
    order = at([ordered]).orders["a"]
    assert (order.version, order.done) == (OWN, False)
    gone_back = replace(ordered, order=order, reports=(report("a-p", OLD, order=order.number),))
    assert at([gone_back]).orders["a"].done


def test_the_first_failure_stops_it_until_an_operator_goes_on() -> None:
    a, b = host("a"), host("b")
    failed = told(a, at([a, b], EVERYWHERE), failure="Envoy 1.40.0 ended by SIGSEGV")
    stop = at([failed, b], EVERYWHERE)
    assert not stop.orders
    assert stop.stops == {ALL: "a: mesh/shop/virtualNode/a-p: Envoy 1.40.0 ended by SIGSEGV"}
    stopped = replace(EVERYWHERE, stopped=stop.stops[ALL])
    assert at([failed, b], stopped) == Decision()
    resumed = decide([replace(EVERYWHERE, round=1)], RELEASES, [failed, b], 0.0, 2)
    assert set(resumed.orders) == {"a"}
    assert (resumed.orders["a"].number, resumed.orders["a"].round) == (2, 1)
    # What it still says of the earlier order is nothing to the new one.
    assert at([replace(failed, order=resumed.orders["a"]), b], replace(EVERYWHERE, round=1)) == Decision()


def test_a_host_that_does_not_get_there_in_time_has_failed() -> None:
    a = host("a")
    heard = told(a, at([a], EVERYWHERE), live=False)
    assert not at([heard], EVERYWHERE, now=LIMIT - 1).stops
    assert "Envoy is not live, 10 minutes after" in at([heard], EVERYWHERE, now=LIMIT + 1).stops[ALL]
    # A server that was away has not heard of it for long.
    assert not at([replace(heard, since=LIMIT)], EVERYWHERE, now=LIMIT + 1).stops


def test_what_was_unhealthy_before_need_not_be_healthy_after() -> None:
    down, well = host("a", reports=(report("a-p", OLD, healthy=False),)), host("a")
    for one, state in ((down, State.DONE), (well, State.WAITING)):
        after = told(one, at([one], EVERYWHERE), healthy=False, detail="connection refused")
        assert progress(EVERYWHERE, after, 0.0).state is state
    assert "is not healthy: connection refused" in progress(EVERYWHERE, after, 0.0).words


def test_hosts_that_are_away_hold_up_nobody() -> None:
    a, b = host("a", connected=False), host("b")
    assert set(at([a, b], EVERYWHERE).orders) == {"b"}


def test_a_fresh_host_begins_with_the_version() -> None:
    busy, fresh = host("a"), Host("b")
    orders = at([busy, fresh], EVERYWHERE).orders
    assert set(orders) == {"a", "b"}
    assert orders["b"].done
    assert "b" not in at([fresh], replace(EVERYWHERE, stopped="a: broken")).orders


def test_going_back_begins_with_the_host_in_trouble() -> None:
    done = host("a", order=Order(NEW, number=1, done=True))
    failed = answering(host("b", order=Order(NEW, number=2)), OLD, failure="no")
    assert set(at([done, failed], Policy(ALL, OLD)).orders) == {"b"}


@dataclass
class Fleet:
    """Hosts that do as they are told, but for those in `broken`, on which NEW fails."""

    policies: list[Policy]
    broken: frozenset[str]
    orders: dict[str, Order] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    away: frozenset[str] = frozenset()
    number: int = 1

    def hosts(self) -> list[Host]:
        made = []
        for name, version in sorted(self.running.items()):
            number = self.heard.get(name, 0)
            order = self.orders.get(name)
            failing = order is not None and order.number == number and order.version not in (version, OWN)
            words = "crashed" if failing and name in self.broken else ""
            one = report(f"{name}-p", version, order=number, failure=words)
            made.append(
                Host(
                    name,
                    {},
                    (f"{name}-p",),
                    order,
                    connected=name not in self.away,
                    reports=(one,),
                )
            )
        return made

    def step(self) -> Decision:
        decision = decide(self.policies, RELEASES, self.hosts(), 0.0, self.number)
        self.orders.update(decision.orders)
        self.number += 1000
        self.policies = [
            replace(one, stopped=decision.stops[one.scope]) if one.scope in decision.stops else one
            for one in self.policies
        ]
        return decision

    def obey(self, name: str) -> None:
        order = self.orders.get(name)
        if order is None or name in self.away:
            return
        self.heard[name] = order.number
        wanted = order.version or OLD
        if wanted == OLD or name not in self.broken:
            self.running[name] = wanted

    @property
    def under_way(self) -> int:
        return sum(1 for order in self.orders.values() if not order.done)


NAMES = "abcdef"
names = st.sampled_from(NAMES)


@given(
    at_once=st.integers(1, 4),
    broken=st.frozensets(names, max_size=2),
    obeying=st.lists(names, max_size=60),
    away=st.frozensets(names, max_size=3),
)
def test_never_more_under_way_than_allowed_and_nothing_after_a_failure(
    at_once: int, broken: frozenset[str], obeying: list[str], away: frozenset[str]
) -> None:
    fleet = Fleet([Policy(ALL, NEW, at_once)], broken, running=dict.fromkeys(NAMES, OLD), away=away)
    stopped_with: Mapping[str, Order] | None = None
    for name in obeying:
        decision = fleet.step()
        assert fleet.under_way <= at_once
        assert not away & set(fleet.orders)
        if stopped_with is not None:
            assert set(fleet.orders) == set(stopped_with)
        if decision.stops:
            stopped_with = dict(fleet.orders)
        fleet.obey(name)


@given(at_once=st.integers(1, 4), order=st.permutations(NAMES))
def test_it_ends_with_all_hosts_on_the_version(at_once: int, order: list[str]) -> None:
    fleet = Fleet([Policy(ALL, NEW, at_once)], frozenset(), running=dict.fromkeys(NAMES, OLD))
    for _ in range(2 * len(NAMES) + 2):
        fleet.step()
        for name in order:
            fleet.obey(name)
    assert set(fleet.running.values()) == {NEW}
    assert fleet.under_way == 0
    assert fleet.step() == Decision()


@given(obeying=st.lists(names, max_size=40), reach=st.integers(0, 40))
def test_going_back_brings_everybody_back(obeying: list[str], reach: int) -> None:
    fleet = Fleet([Policy(ALL, NEW)], frozenset("c"), running=dict.fromkeys(NAMES, OLD))
    for name in obeying[:reach]:
        fleet.step()
        fleet.obey(name)
    fleet.policies = [Policy(ALL, OLD, previous=NEW)]
    for _ in range(2 * len(NAMES) + 2):
        fleet.step()
        for name in NAMES:
            fleet.obey(name)
    assert set(fleet.running.values()) == {OLD}
    assert not fleet.policies[0].stopped
    assert fleet.under_way == 0
