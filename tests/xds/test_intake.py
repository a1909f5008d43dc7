"""The agent's upstream side, alone and against a serving AdsStream."""

from __future__ import annotations

import pytest

from meshagent.xds.intake import MAX_UNSTAMPED, Intake, IntakeError
from meshagent.xds.messages import Pacing, Protocol, Rejection, Request, Response
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, Resource, Snapshot
from meshagent.xds.stream import AdsStream
from tests.xds.trace import resource, snapshot


class Pair:
    """A server's stream and an agent's intake, joined without a wire."""

    def __init__(self, intake: Intake, offered: Snapshot, rejected: tuple[Rejection, ...] = ()) -> None:
        self.intake = intake
        self.stream = AdsStream(Protocol.DELTA, Pacing.PIPELINED, rejected=rejected)
        self.stream.offer(offered)
        self.candidates: list[Snapshot] = []
        self.sent: list[Response] = []
        self.tell(intake.open())

    def tell(self, requests: list[Request]) -> None:
        for request in requests:
            self.pass_on(self.stream.receive(request))

    def offer(self, offered: Snapshot) -> None:
        self.pass_on(self.stream.offer(offered))

    def pass_on(self, responses: list[Response]) -> None:
        self.sent += responses
        found = [self.intake.receive(response) for response in responses]
        self.candidates += [candidate for candidate in found if candidate is not None]


def synced(pair: Pair) -> bool:
    return pair.stream.synced


def same(one: Snapshot, other: Snapshot) -> bool:
    return all(dict(one.of(type_url)) == dict(other.of(type_url)) for type_url in ORDER)


def test_a_push_becomes_a_candidate_and_then_what_is_held() -> None:
    offered = snapshot("cluster a@1; endpoints a@1; listener l@1; route r@1", 7)
    pair = Pair(Intake(None), offered)
    (candidate,) = pair.candidates
    assert same(candidate, offered)
    assert candidate.stamp == offered.stamp
    assert not synced(pair)
    assert same(pair.intake.held, Snapshot())
    pair.tell(pair.intake.settle())
    assert synced(pair)
    assert pair.intake.held.stamp == offered.stamp
    assert same(pair.intake.held, offered)
    assert pair.intake.settle() == []


def test_a_refusal_keeps_the_version_before_and_reaches_the_server_with_its_words() -> None:
    first = snapshot("cluster a@1 b@1; listener l@1", 1)
    pair = Pair(Intake(None), first)
    pair.tell(pair.intake.settle())
    pair.offer(snapshot("cluster a@2 b@2 c@2; listener l@2", 2))
    words = "Error adding/updating cluster(s) b: no, c: no"
    refusals = [Rejection(CLUSTER, name, "2", words) for name in ("b", "c")]
    pair.tell(pair.intake.settle([*refusals, Rejection(LISTENER, "l", "2", "something is wrong")]))
    held = snapshot("cluster a@2 b@1; listener l@1", 2)
    assert same(pair.intake.held, held)
    assert synced(pair)
    assert [(each.name, each.version) for each in pair.stream.rejected] == [("b", "2"), ("c", "2"), ("l", "2")]
    assert pair.stream.rejected[0].words == words
    assert pair.stream.rejected[2].words == "l: something is wrong"
    # Both sides go on from the same place.
    pair.offer(snapshot("cluster a@2 b@1 d@1; listener l@3", 3))
    assert same(pair.candidates[-1], snapshot("cluster a@2 b@1 d@1; listener l@3"))
    pair.tell(pair.intake.settle())
    assert synced(pair)
    assert pair.stream.rejected == ()


def test_pushes_that_overtake_are_settled_up_to_the_one_that_envoy_took() -> None:
    pair = Pair(Intake(None), snapshot("cluster a@1", 1))
    pair.offer(snapshot("cluster a@2", 2))
    first, second = pair.candidates
    pair.tell(pair.intake.settle(candidate=first))
    assert pair.stream.acked[CLUSTER] == {"a": "1"}
    assert not synced(pair)
    assert pair.intake.held is not second
    pair.tell(pair.intake.settle(candidate=second))
    assert synced(pair)
    assert same(pair.intake.held, second)


def test_a_later_candidate_answers_for_the_earlier_ones() -> None:
    pair = Pair(Intake(None), snapshot("cluster a@1", 1))
    pair.offer(snapshot("cluster a@2; endpoints a@2", 2))
    pair.tell(pair.intake.settle())
    assert synced(pair)
    assert pair.stream.acked[ENDPOINT] == {"a": "2"}


def test_a_reconnect_brings_nothing_again_and_drops_what_was_half_collected() -> None:
    offered = snapshot("cluster a@1; listener l@1", 1)
    pair = Pair(Intake(None), offered)
    pair.tell(pair.intake.settle())
    intake = pair.intake
    half = Response(CLUSTER, "9", (resource(CLUSTER, "x@1"),))
    assert intake.receive(half) is None
    again = Pair(intake, offered)
    assert again.sent == []
    assert again.stream.synced
    assert intake.settle() == []


def test_what_is_settled_after_a_reconnect_is_held_all_the_same() -> None:
    pair = Pair(Intake(None), snapshot("cluster a@1", 1))
    (candidate,) = pair.candidates
    pair.intake.open()
    assert pair.intake.settle(candidate=candidate) == []
    assert same(pair.intake.held, candidate)


def test_a_server_that_restarted_sends_what_was_refused_once_more_and_hears_why() -> None:
    """Its memory of refusals went with it; the agent's answer brings the words back."""
    pair = Pair(Intake(snapshot("cluster a@1", 1)), snapshot("cluster a@bad", 2))
    refusal = Rejection(CLUSTER, "a", "bad", "a: no")
    pair.tell(pair.intake.settle([refusal]))
    again = Pair(pair.intake, snapshot("cluster a@bad", 2))
    again.tell(again.intake.settle([refusal]))
    assert again.stream.synced
    assert [each.name for each in again.stream.rejected] == ["a"]
    # One that remembers does not.
    third = Pair(pair.intake, snapshot("cluster a@bad", 2), again.stream.rejected)
    assert third.sent == []
    assert [each.words for each in third.stream.rejected] == ["a: no"]


def test_a_version_that_was_taken_once_stays_held_when_a_new_envoy_refuses_it() -> None:
    pair = Pair(Intake(snapshot("listener l@1", 1)), snapshot("listener l@1 m@1", 2))
    pair.tell(pair.intake.settle([Rejection(LISTENER, "l", "1", "cannot bind")]))
    assert same(pair.intake.held, snapshot("listener l@1 m@1"))


def test_removals() -> None:
    pair = Pair(Intake(snapshot("cluster a@1 b@1; listener l@1", 1)), snapshot("cluster b@1", 2))
    pair.tell(pair.intake.settle())
    assert same(pair.intake.held, snapshot("cluster b@1"))
    assert synced(pair)


def test_a_server_that_breaks_the_protocol_is_told_apart() -> None:
    intake = Intake()
    with pytest.raises(IntakeError, match="nobody asked for"):
        intake.receive(Response("type.googleapis.com/other", "1"))
    with pytest.raises(IntakeError, match="not a stamp"):
        intake.receive(Response(CLUSTER, "1", system_version="nonsense"))
    intake.open()
    with pytest.raises(IntakeError, match="without the stamp"):
        for nonce in range(MAX_UNSTAMPED + 1):
            intake.receive(Response(CLUSTER, str(nonce), (Resource(CLUSTER, "a", "1", b""),)))
