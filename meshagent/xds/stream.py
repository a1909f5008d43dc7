"""The serving side of one ADS stream as a state machine: what to send next, given what is wanted and what was
acknowledged. Pure.

`offer` a snapshot whenever there is a new one, `receive` every request; both return the responses to write, in order.
Make before break: additions in ORDER, each type once the earlier ones have settled; then removals, those that refer
before those that are referred to.

What Envoy does, and this counts on: it withholds the ACK of a cluster response until the clusters in it are warm, which
takes their load assignments. So load assignments never wait for clusters to be acknowledged; listeners and routes do. A
changed cluster is a new cluster to Envoy, and waits for a load assignment that Envoy does not ask for again: it is sent
again. By what Snapshot says of names, an EDS cluster's load assignment has the cluster's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshagent.xds.lineage import stale
from meshagent.xds.messages import Pacing, Protocol, Rejection, Request, Response
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, Resource, Snapshot, Stamp
from meshagent.xds.subscription import Subscription, set_version

__all__ = ["AdsStream", "Pacing", "Protocol", "Rejection", "Request", "Response"]

# Listeners refer to routes, routes to clusters, clusters to load assignments: each goes when nothing refers to it any
# more.
REMOVALS = (LISTENER, ROUTE, CLUSTER, ENDPOINT)

# Unanswered responses of one type: beyond it the client gets nothing more of that type until it answers. An agent that
# keeps what it has (another lineage, say) leaves pushes unanswered until an operator decides.
MAX_IN_FLIGHT = {Pacing.ACKNOWLEDGED: 16, Pacing.PIPELINED: 256}

# Bodies in one delta response: well below what a gRPC peer accepts in one message, whatever the number of resources.
MAX_RESPONSE_BYTES = 4 << 20


class AdsStream:
    """`rejected` are refusals on earlier streams of the same client: as long as it still has anything from then, these
    versions are not sent again either. (A client that comes with nothing is another process, which may well take them.
    State of the world has no way to leave one out of a set without removing it, and asks again.) `held` is the stamp of
    what an agent says it has."""

    def __init__(
        self,
        protocol: Protocol,
        pacing: Pacing = Pacing.ACKNOWLEDGED,
        *,
        rejected: Iterable[Rejection] = (),
        held: Stamp | None = None,
    ) -> None:
        self.protocol = protocol
        self.pacing = pacing
        self.stamp = Stamp()
        self.synced = False
        self.resources_sent = 0
        self._target: Snapshot | None = None
        self._nonces = 0
        self._returning = False
        self._told = False
        self._last = held or Stamp()
        self._types = {type_url: Subscription(type_url, protocol) for type_url in ORDER}
        if protocol is Protocol.DELTA:
            for rejection in rejected:
                if rejection.type_url in self._types:
                    self._types[rejection.type_url].rejected[rejection.name] = rejection

    def offer(self, snapshot: Snapshot) -> list[Response]:
        """The client should have this from now on; also while an earlier push is still in flight."""
        self._target = snapshot
        for type_url, subscription in self._types.items():
            withdrawn = subscription.aim(snapshot.of(type_url))
            if withdrawn and self.pacing is Pacing.PIPELINED:
                # An agent tells its host's operator what was refused: it is to hear that this is over, even where nothing else changes.
                subscription.take_back(withdrawn)
        endpoints, clusters = self._types[ENDPOINT], self._types[CLUSTER]
        if endpoints.retired:
            endpoints.retired = {name: each for name, each in endpoints.retired.items() if name in clusters.sent}
        self._types[ROUTE].retired.clear()
        return self._advance()

    def receive(self, request: Request) -> list[Response]:
        """A request of a type that we do not serve is never answered."""
        subscription = self._types.get(request.type_url)
        if subscription is None:
            return []
        if request.nonce:
            if request.error is None:
                subscription.acknowledge(request.nonce)
            else:
                subscription.refuse(
                    request.nonce,
                    request.error,
                    partial=self.pacing is Pacing.PIPELINED,
                    isolate=self.pacing is Pacing.ACKNOWLEDGED,
                )
        if not subscription.started:
            self._returning = self._returning or bool(request.initial_versions)
            if not self._returning:
                subscription.rejected.clear()
        subscription.subscribe(request)
        return self._advance()

    @property
    def target(self) -> Snapshot | None:
        return self._target

    @property
    def acked(self) -> Mapping[str, Mapping[str, str]]:
        """By type and name, the versions that the client is known to have."""
        return {
            type_url: {name: copy.version for name, copy in subscription.acked.items()}
            for type_url, subscription in self._types.items()
        }

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """What of the target the client refused."""
        return tuple(
            rejection
            for subscription in self._types.values()
            for name, rejection in sorted(subscription.rejected.items())
            if subscription.refused(name)
        )

    def settled(self, type_url: str) -> bool:
        """Whether nothing of this type is on its way, or has yet to be sent."""
        return self._target is not None and self._types[type_url].settled()

    def _advance(self) -> list[Response]:
        if self._target is None:
            return []
        for subscription in self._types.values():
            if subscription.claimed:
                subscription.recognise()
        responses = self._push() if self.pacing is Pacing.PIPELINED else self._step()
        self.synced = not responses and self._is_synced()
        if self.synced:
            self.stamp = self._target.stamp
            for subscription in self._types.values():
                subscription.retired.clear()
        return responses

    # Towards an Envoy.

    def _step(self) -> list[Response]:
        responses: list[Response] = []
        settled = True
        for type_url in ORDER:
            subscription = self._types[type_url]
            if not subscription.started:
                continue
            due = subscription.due() if settled or type_url in (CLUSTER, ENDPOINT) else []
            responses += self._additions(subscription, due)
            responses += self._answers(subscription)
            settled = settled and not subscription.in_flight and not subscription.due()
            if type_url == ENDPOINT:
                settled = settled and self._warm()
        return responses or (self._removals() if settled else [])

    def _additions(self, subscription: Subscription, due: list[Resource]) -> list[Response]:
        if not due:
            return []
        together = [each for each in due if subscription.alone.get(each.name) != each.version]
        alone = [[each] for each in due if subscription.alone.get(each.name) == each.version]
        if subscription.whole:
            # Whoever is to come alone comes when all that the set has beside it is known to be good.
            batches = [together] if together or subscription.in_flight else alone[:1]
        else:
            batches = (_batches(together) if self.protocol is Protocol.DELTA else [together]) + alone
        room = max(0, MAX_IN_FLIGHT[self.pacing] - len(subscription.in_flight))
        responses = []
        for batch in [batch for batch in batches if batch][:room]:
            if subscription.type_url == CLUSTER:
                self._owe_endpoints(batch)
            responses.append(self._send(subscription, batch))
        return responses

    def _owe_endpoints(self, clusters: Iterable[Resource]) -> None:
        names, held, endpoints = {cluster.name for cluster in clusters}, self._types[CLUSTER], self._types[ENDPOINT]
        # A client that came back with another set may have had any of them, in another version.
        changed = names if held.foreign else names & held.sent.keys()
        held.foreign = False
        endpoints.owe(name for name in changed if name in endpoints.target)

    def _answers(self, subscription: Subscription) -> list[Response]:
        """What a client waits for although there is nothing to give."""
        absent = subscription.absent() if subscription.protocol is Protocol.DELTA else ()
        if absent or (subscription.unanswered() and not subscription.target):
            return [self._send(subscription, (), absent)]
        return []

    def _warm(self) -> bool:
        """Whether all clusters that the client took have the load assignments that they should; those that are about to
        be asked for, too."""
        clusters, endpoints = self._types[CLUSTER], self._types[ENDPOINT]
        return all(
            endpoints.has(name)
            for name in endpoints.target
            if name in clusters.target and clusters.has(name) and not clusters.refused(name)
        )

    def _removals(self) -> list[Response]:
        """The next step of removals, when all that was added is acknowledged, and the step before too."""
        if any(subscription.in_flight for subscription in self._types.values()) or not self._is_complete():
            return []
        for type_url in REMOVALS:
            gone = self._types[type_url].gone()
            if gone:
                return [self._send(self._types[type_url], (), gone)]
        return []

    # Towards an agent.

    def _push(self) -> list[Response]:
        """All that differs, closed by the stamp. Where nothing does, nothing is said, but for the first word to a
        client that has nothing, and for a stamp that does not follow on the client's own: it takes or refuses that like
        any push, so that what it holds is known."""
        assert self._target is not None
        subscriptions = [self._types[type_url] for type_url in ORDER]
        if not all(each.started and len(each.in_flight) < MAX_IN_FLIGHT[self.pacing] for each in subscriptions):
            return []
        steps: list[tuple[Subscription, list[Resource], tuple[str, ...]]] = []
        for subscription in subscriptions:
            due, absent, gone = subscription.due(), subscription.absent(), subscription.gone()
            if not (due or absent or gone):
                continue
            removed = tuple(sorted({*absent, *gone}))
            batches = _batches(due) or [[]]
            steps += [(subscription, batch, removed if index == 0 else ()) for index, batch in enumerate(batches)]
        first = not self._told and not self._returning
        if not steps and (first or stale(self._last, self._target.stamp)):
            steps = [(subscriptions[-1], [], ())]
        self._told, self._last = True, self._target.stamp
        for subscription in subscriptions:
            subscription.answered = True  # an agent waits for the stamp, not for a word on every type
        stamps = [""] * (len(steps) - 1) + [str(self._target.stamp)]
        return [
            self._send(subscription, batch, removed, stamp)
            for (subscription, batch, removed), stamp in zip(steps, stamps, strict=False)
        ]

    # Both.

    def _send(
        self, subscription: Subscription, fresh: Iterable[Resource], removed: tuple[str, ...] = (), stamp: str = ""
    ) -> Response:
        self._nonces += 1
        nonce = str(self._nonces)
        fresh = tuple(fresh)
        self.resources_sent += len(fresh)
        subscription.send(nonce, fresh, removed)
        if self.protocol is Protocol.DELTA:
            return Response(subscription.type_url, nonce, fresh, removed, stamp)
        resources = subscription.whole_set() if subscription.whole else fresh
        return Response(subscription.type_url, nonce, resources, (), set_version(subscription.whole_set()))

    def _is_synced(self) -> bool:
        return self._is_complete() and all(subscription.settled() for subscription in self._types.values())

    def _is_complete(self) -> bool:
        """Whether the client has all that the target adds, but for what it refused. A snapshot has nothing in it that
        none of it refers to: what the client has not asked for yet, it will, unless what refers to it was refused."""
        if not (self._types[CLUSTER].started and self._types[LISTENER].started and self._warm()):
            return False
        listeners, routes = self._types[LISTENER], self._types[ROUTE]
        if any(listeners.refused(name) for name in listeners.rejected):
            return True
        return all(routes.has(name) for name in routes.target)


def _batches(resources: list[Resource]) -> list[list[Resource]]:
    """Splits what would be too much for one message."""
    batches: list[list[Resource]] = []
    size = 0
    for resource in resources:
        size += len(resource.body)
        if not batches or size > MAX_RESPONSE_BYTES:
            batches.append([])
            size = len(resource.body)
        batches[-1].append(resource)
    return batches
