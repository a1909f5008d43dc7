"""One type on one stream: what the client wants of it, what it was sent, what it acknowledged, what it refused. Pure.

Nothing here decides when something is sent (that is stream.py's): only what would have to be. There is no script of a
push in flight: all of it follows from the target, `sent` and `acked`, so that a new target may come at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshagent.xds.blame import blame, is_partial
from meshagent.xds.messages import Protocol, Rejection, Request
from meshagent.xds.snapshot import CLUSTER, LISTENER, Resource

# In state of the world these types are sent as whole sets, where absence removes, and an empty first request asks for
# all of them.
WHOLE_SETS = (CLUSTER, LISTENER)

_WILDCARD = "*"


@dataclass(frozen=True)
class Copy:
    """What a client has under a name. `resource` is None for what an earlier stream gave it: then only the version is
    known."""

    version: str
    resource: Resource | None = None


@dataclass(frozen=True)
class Flight:
    """A response that waits for its ACK or NACK. `removed` also holds what a whole set removes by its absence."""

    fresh: Mapping[str, Resource]
    removed: tuple[str, ...] = ()


@dataclass
class Subscription:
    """`sent` is what the client has once all in flight is applied; `acked` what it is known to have. `owed` are names
    that must be answered whatever was sent before: new subscriptions, and load assignments whose cluster changed.
    `promised` are owed from before the client asked for the type: it comes back with load assignments whose cluster it was
    given anew a moment ago. `foreign`: it came back with a set (state of the world) that is not the target's.
    `alone` are resources of a refused response whose words singled out none: each is sent once more in a response of
    its own."""

    type_url: str
    protocol: Protocol
    started: bool = False
    answered: bool = False
    wildcard: bool = False
    claimed: str = ""
    names: set[str] = field(default_factory=set)
    target: Mapping[str, Resource] = field(default_factory=dict)
    sent: dict[str, Copy] = field(default_factory=dict)
    acked: dict[str, Copy] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)
    foreign: bool = False
    alone: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    in_flight: dict[str, Flight] = field(default_factory=dict)
    retired: dict[str, Resource] = field(default_factory=dict)
    _nothing_due: bool = False
    _nothing_gone: bool = False

    @property
    def whole(self) -> bool:
        return self.protocol is Protocol.SOTW and self.type_url in WHOLE_SETS

    # What the client says.

    def subscribe(self, request: Request) -> None:
        """Takes in what a request says of subscriptions, which is nothing in most."""
        first, self.started = not self.started, True
        if self.protocol is Protocol.SOTW:
            if not first and set(request.names or ()) - {_WILDCARD} == self.names:
                return
            self._subscribe_whole(request, first)
        elif first or request.subscribe or request.unsubscribe:
            self._subscribe_delta(request, first)
        else:
            return
        if first:
            self.owed |= self.promised & self.sent.keys()
        self._nothing_due = False

    def _subscribe_delta(self, request: Request, first: bool) -> None:
        added, removed = set(request.subscribe), set(request.unsubscribe)
        if _WILDCARD in added or (first and not added):
            self.wildcard = True
        if _WILDCARD in removed:
            self.wildcard = False
        added.discard(_WILDCARD)
        self.names = (self.names | added) - removed
        if first:
            for name, version in request.initial_versions.items():
                self._holds(name, version)
            # A client that has something is not waiting for its first answer.
            self.answered = bool(request.initial_versions)
        # A name that is subscribed again is wanted again: the client may have dropped what it had.
        self.owed |= {name for name in added if not (first and name in self.sent)}
        if self.wildcard:
            # Of what it still gets by the wildcard, it may have dropped its copy with the name.
            self.owed |= removed & self.sent.keys()
        for name in [name for name in self.sent if not self.wants(name)]:
            self.forget(name)
        self.owed = {name for name in self.owed if self.wants(name)}

    def _subscribe_whole(self, request: Request, first: bool) -> None:
        names = set(request.names or ())
        self.wildcard = _WILDCARD in names or (
            self.type_url in WHOLE_SETS and not names and (first or (self.wildcard and not self.names))
        )
        names.discard(_WILDCARD)
        added = names - self.names
        self.names = names
        for name in [name for name in self.sent if not self.wants(name)]:
            self.forget(name)
        self.owed = {name for name in self.owed | added if self.wants(name) and self.right(name) is not None}
        if first:
            self.claimed = request.version

    def recognise(self) -> None:
        """State of the world, once there is a target: a client that comes back names its set's version, and needs
        nothing if it is ours."""
        if self.claimed and self.claimed == set_version(self.target[name] for name in self.wanted()):
            for name in self.wanted():
                self._holds(name, self.target[name].version)
            self.owed &= self.promised
            self.answered = True
        elif self.claimed:
            self.foreign = True
        self.claimed = ""

    def _holds(self, name: str, version: str) -> None:
        if self.wants(name):
            resource = self.target.get(name)
            matches = resource is not None and resource.version == version
            refusal = self.rejected.get(name)
            if refusal is not None and refusal.version == version:
                del self.rejected[name]  # it took it after all
            self.sent[name] = self.acked[name] = Copy(version, resource if matches else None)
            self._nothing_gone = False

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def forget(self, name: str) -> None:
        """The client has dropped it, and no longer wants it."""
        self.sent.pop(name, None)
        self.acked.pop(name, None)
        self.owed.discard(name)

    def acknowledge(self, nonce: str) -> None:
        """A nonce that nothing waits for is stale, and says nothing."""
        landed = self._landed(nonce)
        if self.owed:
            self._nothing_due = False  # what was acknowledged may stand in for what was refused
        # A set says all anew, so that the last one's answer is enough.
        for flight in landed[-1:] if self.whole else landed:
            self._apply(flight, flight.fresh)

    def refuse(self, nonce: str, words: str, *, partial: bool, isolate: bool) -> None:
        """A NACK. What is to blame is not sent again in this version; the rest was applied when the NACK is partial,
        and is due again when not.

        `isolate`: when the words single out none of several, find the bad one by sending each by itself, rather than to
        blame them all."""
        landed = self._landed(nonce)
        if not landed:
            return
        *earlier, flight = landed
        self._nothing_due = False
        partial = partial or is_partial(words)
        guilty = blame(words, flight.fresh)
        if isolate and not partial and len(guilty) == len(flight.fresh) > 1:
            self.alone.update({name: resource.version for name, resource in flight.fresh.items()})
            guilty = ()
        for each in earlier:
            # What nothing was said of in its own time was taken, as far as we can know; the last set says what else is there.
            superseded = self.whole and partial
            taken = {name: fresh for name, fresh in each.fresh.items() if name in guilty or not superseded}
            self._apply(each, {name: fresh for name, fresh in taken.items() if fresh != flight.fresh.get(name)})
        for name in guilty:
            version = flight.fresh[name].version
            # A refusal of what is wanted now outweighs a later one of what was wanted in between.
            if not self.refused(name) or _is(self.target.get(name), version):
                self.rejected[name] = Rejection(self.type_url, name, version, words)
            self.alone.pop(name, None)
            self._back(name, version)
        spared = {name: resource for name, resource in flight.fresh.items() if name not in guilty}
        if partial:
            self._apply(flight, spared)
        else:
            self._apply(flight, {})
            for name, resource in spared.items():
                self._back(name, resource.version)
                self.owed.add(name)
            self.owed = {name for name in self.owed if self.wants(name)}

    def _landed(self, nonce: str) -> list[Flight]:
        """The responses that a request with this nonce answers, in the order they were sent. In state of the world
        Envoy answers only the last of several that came while it was holding its answers back."""
        if nonce not in self.in_flight:
            return []
        if self.protocol is Protocol.DELTA:
            return [self.in_flight.pop(nonce)]
        landed = []
        for each in tuple(self.in_flight):
            landed.append(self.in_flight.pop(each))
            if each == nonce:
                break
        return landed

    def _apply(self, flight: Flight, fresh: Mapping[str, Resource]) -> None:
        for name in flight.removed:
            self.acked.pop(name, None)
        for name, resource in fresh.items():
            if self.alone.get(name) == resource.version:
                del self.alone[name]
            if self.wants(name):
                self.acked[name] = Copy(resource.version, resource)
                # What is applied now was not refused, whatever an earlier client said.
                refusal = self.rejected.get(name)
                if refusal is not None and refusal.version == resource.version:
                    del self.rejected[name]

    def _back(self, name: str, version: str) -> None:
        """The client did not take this version: it has what it was sent before, unless something newer is on its way."""
        if name not in self.sent or self.sent[name].version != version:
            return
        earlier = (flight.fresh[name] for flight in reversed(self.in_flight.values()) if name in flight.fresh)
        on_its_way = next((resource for resource in earlier if resource.version != version), None)
        if on_its_way is not None:
            self.sent[name] = Copy(on_its_way.version, on_its_way)
        elif name in self.acked:
            self.sent[name] = self.acked[name]
        else:
            del self.sent[name]

    # What should be.

    def aim(self, target: Mapping[str, Resource]) -> frozenset[str]:
        """The names of which a version was refused that this target does not have any more."""
        if target is self.target:
            return frozenset()
        if self.protocol is Protocol.SOTW and not self.whole:
            # It has no word for what is not there: a client that asks, for something of an earlier target, gets it.
            retired = {**self.retired, **self.target}
            self.retired = {name: resource for name, resource in retired.items() if name not in target}
        self.target = target
        self._nothing_due = self._nothing_gone = False
        before, self.rejected = (
            self.rejected,
            {name: each for name, each in self.rejected.items() if _is(target.get(name), each.version)},
        )
        self.alone = {name: version for name, version in self.alone.items() if _is(target.get(name), version)}
        return frozenset(before.keys() - self.rejected.keys())

    def right(self, name: str) -> Resource | None:
        """What the client should have under a name: the target's, or in the place of a refused version the last good
        one."""
        resource = self.target.get(name)
        if resource is None:
            return self.retired.get(name)
        if not self.refused(name):
            return resource
        good = self.acked.get(name)
        return good.resource if good is not None and good.version != resource.version else None

    def refused(self, name: str) -> bool:
        rejection = self.rejected.get(name)
        return rejection is not None and _is(self.target.get(name), rejection.version)

    def wanted(self) -> Iterable[str]:
        return self.target if self.wildcard else sorted(name for name in self.names if name in self.target)

    def due(self) -> list[Resource]:
        """What must be sent, apart from removals."""
        if self._nothing_due or not self.started:
            return []
        due = []
        known, target, owed = self.sent, self.target, self.owed
        for name in self.wanted():
            sent = known.get(name)
            if sent is not None and sent.version == target[name].version and name not in owed:
                continue
            resource = self.right(name)
            if resource is not None and (name in self.owed or sent is None or sent.version != resource.version):
                due.append(resource)
        due += [self.retired[name] for name in sorted(self.owed & self.retired.keys())]
        self._nothing_due = not due
        return due

    def owe(self, names: Iterable[str]) -> None:
        """These are to be sent again, where the client wants them, or will."""
        if self.started:
            self.owed.update(name for name in names if self.wants(name))
        else:
            self.promised.update(names)
        self._nothing_due = False

    def take_back(self, names: Iterable[str]) -> None:
        """What the client refused under these names is over, and it is to hear so: also one that has yet to ask."""
        self.owed.update(name for name in names if not self.started or self.wants(name))
        self._nothing_due = False

    def absent(self) -> tuple[str, ...]:
        """Names that were asked for, or are owed, and that there is nothing under: the client is told, so that it does not
        wait. What it merely still has is not among them, but `gone`."""
        if not self.owed:
            return ()
        coming = {name for flight in self.in_flight.values() for name in flight.fresh}
        return tuple(sorted(name for name in self.owed - coming if self.right(name) is None))

    def gone(self) -> tuple[str, ...]:
        """What the client has and should not."""
        if self.protocol is Protocol.SOTW and not self.whole:
            return ()  # It has no word for it, and the client drops what nothing refers to.
        if self._nothing_gone:
            return ()
        gone = tuple(sorted(self.sent.keys() - self.target.keys()))
        self._nothing_gone = not gone
        return gone

    def settled(self) -> bool:
        return not self.in_flight and not self.due() and not self.gone() and not (self.started and self.unanswered())

    def unanswered(self) -> bool:
        return self.wildcard and not self.answered

    def has(self, name: str) -> bool:
        """Whether the client acknowledged the target's version of that name, or refused it."""
        return self.refused(name) or (name in self.acked and _is(self.target.get(name), self.acked[name].version))

    # What was sent.

    def send(self, nonce: str, fresh: Iterable[Resource], removed: Iterable[str] = ()) -> None:
        given, gone = {resource.name: resource for resource in fresh}, tuple(removed)
        for name in gone:
            self.sent.pop(name, None)
        for name, resource in given.items():
            self.sent[name] = Copy(resource.version, resource)
        self._nothing_gone = False
        self.owed -= given.keys() | set(gone)
        self.answered = True
        if self.whole:
            # A set says all anew: its answer is about everything that is not known to be there by then, however often it was sent.
            # What is acknowledged now may be another version by then, where one is on its way.
            unsettled = {name for flight in self.in_flight.values() for name in flight.fresh}
            given = {each.name: each for each in self.whole_set() if each.name in unsettled or not self._took(each)}
            gone = tuple(sorted(name for name in self.acked.keys() | unsettled if name not in self.sent))
        self.in_flight[nonce] = Flight(given, gone)

    def _took(self, resource: Resource) -> bool:
        return resource.name in self.acked and self.acked[resource.name].version == resource.version

    def whole_set(self) -> tuple[Resource, ...]:
        """State of the world: all that the client should now have, in order of name."""
        copies = sorted(self.sent.items())
        return tuple(copy.resource for _, copy in copies if copy.resource is not None)


def set_version(resources: Iterable[Resource]) -> str:
    """State of the world's one version for all: a hash, so that it is the same on every server and after every
    restart."""
    lines = sorted(f"{resource.name}\0{resource.version}\n" for resource in resources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _is(resource: Resource | None, version: str) -> bool:
    return resource is not None and resource.version == version
