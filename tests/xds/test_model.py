"""A model of Envoy against AdsStream, over random snapshots that come at any moment: it always ends with the target,
never has a route to a cluster without endpoints, and is never sent a version that it refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshagent.xds.messages import Protocol, Request, Response
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, Resource, Snapshot, Stamp
from meshagent.xds.stream import AdsStream

NAMES = ("a", "b", "c")
BAD = "bad"


def target(revision: int, shape: Mapping[str, Mapping[str, tuple[str, str]]]) -> Snapshot:
    """`shape`: type -> name -> (version, the name that it refers to). A version is a function of both, as a hash would
    be."""
    resources = []
    for type_url, named in shape.items():
        for name, (version, refers) in named.items():
            resources.append(Resource(type_url, name, f"{version}>{refers}" if refers else version, refers.encode()))
    return Snapshot.build(resources, Stamp("line", revision))


@st.composite
def shapes(
    draw: st.DrawFn, versions: tuple[str, ...], endpoints: tuple[str, ...]
) -> dict[str, dict[str, tuple[str, str]]]:
    version = st.sampled_from(versions)
    clusters = {name: (draw(version), "") for name in draw(st.sets(st.sampled_from(NAMES)))}
    shape = {
        CLUSTER: clusters,
        ENDPOINT: {name: (draw(st.sampled_from(endpoints)), "") for name in clusters},
        LISTENER: {},
        ROUTE: {},
    }
    if clusters:
        for name in draw(st.sets(st.sampled_from(NAMES))):
            shape[LISTENER][name] = (draw(version), name)
            shape[ROUTE][name] = (draw(version), draw(st.sampled_from(sorted(clusters))))
    return shape


@dataclass
class Envoy:
    """What Envoy does, as far as the stream can see: warms clusters, withholds the ACK meanwhile, subscribes to what it
    refers to, refuses versions that are bad, each by itself."""

    stream: AdsStream
    protocol: Protocol
    has: dict[str, dict[str, Resource]] = field(default_factory=lambda: {type_url: {} for type_url in ORDER})
    asked: dict[str, set[str]] = field(default_factory=lambda: {ENDPOINT: set(), ROUTE: set()})
    warming: set[str] = field(default_factory=set)
    withheld: list[tuple[str, list[Resource]]] = field(default_factory=list)
    inbox: deque[Response] = field(default_factory=deque)
    refused: set[tuple[str, str, str]] = field(default_factory=set)
    nonces: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        self.say(CLUSTER)
        self.say(LISTENER)

    def offer(self, snapshot: Snapshot) -> None:
        self.refused = {each for each in self.refused if each[2] == _version(snapshot, each[0], each[1])}
        self.take(self.stream.offer(snapshot))

    def say(
        self,
        type_url: str,
        nonce: str = "",
        error: str | None = None,
        more: set[str] | frozenset[str] = frozenset(),
        less: set[str] | frozenset[str] = frozenset(),
    ) -> None:
        if self.protocol is Protocol.DELTA:
            request = Request(type_url, tuple(more), tuple(less), nonce=nonce, error=error)
        else:
            names = tuple(self.asked.get(type_url, ()))
            request = Request(type_url, nonce=nonce or self.nonces.get(type_url, ""), error=error, names=names)
        self.take(self.stream.receive(request))

    def take(self, responses: list[Response]) -> None:
        for response in responses:
            for resource in response.resources:
                key = (response.type_url, resource.name, resource.version)
                assert key not in self.refused, f"sent although it was refused: {key}"
        self.inbox.extend(responses)

    def hear(self) -> None:
        response = self.inbox.popleft()
        type_url, has = response.type_url, self.has[response.type_url]
        self.nonces[type_url] = response.nonce
        removed = set(response.removed)
        if self.protocol is Protocol.SOTW and type_url in (CLUSTER, LISTENER):
            removed = has.keys() - {resource.name for resource in response.resources}
        bad = [resource for resource in response.resources if resource.version.startswith(BAD)]
        for resource in response.resources:
            if resource not in bad:
                changed = resource.name not in has or has[resource.name].version != resource.version
                has[resource.name] = resource
                if type_url == CLUSTER and changed:
                    self.warming.add(resource.name)
            if type_url == ENDPOINT:
                self.warming.discard(resource.name)  # a bad one ends the wait, too
        if type_url in (CLUSTER, LISTENER):
            for name in removed:
                has.pop(name, None)
        else:
            self.warming -= removed if type_url == ENDPOINT else set()
        self.warming &= self.has[CLUSTER].keys()
        self.refer()
        if type_url == CLUSTER:
            self.withheld.append((response.nonce, bad))
        else:
            self.answer(type_url, response.nonce, bad)
        if not self.warming:
            answers, self.withheld = self.withheld, []
            for nonce, refused in answers if self.protocol is Protocol.DELTA else answers[-1:]:
                self.answer(CLUSTER, nonce, refused)

    def answer(self, type_url: str, nonce: str, bad: list[Resource]) -> None:
        if not bad:
            return self.say(type_url, nonce)
        self.refused.update((type_url, resource.name, resource.version) for resource in bad)
        kind = "listener" if type_url == LISTENER else "cluster"
        listed = ", ".join(f"{resource.name}: is bad" for resource in bad)
        return self.say(type_url, nonce, f"Error adding/updating {kind}(s) {listed}")

    def refer(self) -> None:
        """Subscribes to what it has come to refer to, and drops what it no longer does."""
        wanted = {
            ENDPOINT: set(self.has[CLUSTER]),
            ROUTE: {listener.body.decode() for listener in self.has[LISTENER].values()},
        }
        for type_url, names in wanted.items():
            more, less = names - self.asked[type_url], self.asked[type_url] - names
            self.asked[type_url] = names
            for name in less:
                self.has[type_url].pop(name, None)
            if more or less:
                self.say(type_url, more=more, less=less)

    def check(self) -> None:
        for listener in self.has[LISTENER].values():
            route = self.has[ROUTE].get(listener.body.decode())
            if route is not None:
                cluster = route.body.decode()
                assert cluster in self.has[CLUSTER], f"{route} without its cluster"
                assert cluster in self.has[ENDPOINT], f"{route} without endpoints"


def _version(snapshot: Snapshot, type_url: str, name: str) -> str:
    resource = snapshot.of(type_url).get(name)
    return resource.version if resource is not None else ""


def converse(
    protocol: Protocol, offers: list[dict[str, dict[str, tuple[str, str]]]], pace: list[int], checked: bool
) -> Envoy:
    """Offers come after each so many responses that were heard; at the end all are heard."""
    envoy = Envoy(AdsStream(protocol), protocol)
    envoy.start()
    for revision, shape in enumerate(offers, 1):
        envoy.offer(target(revision, shape))
        for _ in range(pace[revision % len(pace)]):
            if envoy.inbox:
                envoy.hear()
                if checked:
                    envoy.check()
    for _ in range(1000):
        if not envoy.inbox:
            break
        envoy.hear()
        if checked:
            envoy.check()
    assert not envoy.inbox, "it never comes to an end"
    return envoy


PACES = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@settings(max_examples=300)
@given(st.sampled_from(Protocol), st.lists(shapes(("1", "2"), ("1", "2")), min_size=1, max_size=5), PACES)
def test_converges_without_a_break(
    protocol: Protocol, offers: list[dict[str, dict[str, tuple[str, str]]]], pace: list[int]
) -> None:
    envoy = converse(protocol, offers, pace, checked=True)
    final = target(len(offers), offers[-1])
    assert envoy.stream.synced
    assert envoy.stream.stamp == final.stamp
    for type_url in ORDER:
        assert envoy.has[type_url] == final.of(type_url)


def check_refusals(protocol: Protocol, offers: list[dict[str, dict[str, tuple[str, str]]]], pace: list[int]) -> None:
    envoy = converse(protocol, offers, pace, checked=False)
    final = target(len(offers), offers[-1])
    assert envoy.stream.synced
    refused = {(each.type_url, each.name) for each in envoy.stream.rejected}
    assert refused == {each[:2] for each in envoy.refused if each[2] == _version(final, each[0], each[1])}
    for type_url in (CLUSTER, LISTENER):
        good = {name: each for name, each in final.of(type_url).items() if (type_url, name) not in refused}
        assert good.items() <= envoy.has[type_url].items()
        assert envoy.has[type_url].keys() <= final.of(type_url).keys()


def clusters(**versions: str) -> dict[str, dict[str, tuple[str, str]]]:
    """A shape of clusters alone, whose load assignments never change."""
    return {
        CLUSTER: {name: (version, "") for name, version in versions.items()},
        ENDPOINT: dict.fromkeys(versions, ("1", "")),
        LISTENER: {},
        ROUTE: {},
    }


def routes(a: str, cluster: str) -> dict[str, dict[str, tuple[str, str]]]:
    """A shape of which only one route changes."""
    names = {"a": ("1", "a"), "b": ("1", "b"), "c": ("1", "c")}
    return {
        **clusters(a="1", b="1"),
        LISTENER: names,
        ROUTE: {"a": (a, cluster), "b": ("1", "a"), "c": ("1", "a")},
    }


# A version is refused, and so is one that was sent after it, while the first one is wanted, and on its way, again.
REFUSED_AMID = [clusters(), routes(BAD, "a"), routes(BAD, "b"), routes(BAD, "a")]


@settings(max_examples=300)
@given(st.lists(shapes(("1", "2", BAD), ("1", BAD)), min_size=1, max_size=5), PACES)
@example(REFUSED_AMID, [1, 0, 5])
def test_delta_never_repeats_what_was_refused(
    offers: list[dict[str, dict[str, tuple[str, str]]]], pace: list[int]
) -> None:
    check_refusals(Protocol.DELTA, offers, pace)


@settings(max_examples=300)
@given(st.lists(shapes(("1", "2", BAD), ("1", "2")), min_size=1, max_size=5), PACES)
# A version that was acknowledged once is sent again while another one is on its way, and then refused in a third.
@example(
    [clusters(a="1", b="1"), clusters(a="1", b="2", c="1"), clusters(a="1", b="1"), clusters(a="1", b=BAD)],
    [2],
)
@example(REFUSED_AMID, [1, 0, 5])
def test_sotw_never_repeats_what_was_refused(
    offers: list[dict[str, dict[str, tuple[str, str]]]], pace: list[int]
) -> None:
    """Without bad load assignments: this protocol cannot say that there are none, so a cluster that comes again waits
    out Envoy's time limit."""
    check_refusals(Protocol.SOTW, offers, pace)
