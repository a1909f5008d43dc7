"""HostService without a wire: who is let in, and what a session begins with."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from meshagent.protocol import host_pb2
from meshagent.protos import core
from meshagent.server.loop import Loop
from meshagent.server.operations import drains
from meshagent.server.peers import NotAllowed
from meshagent.server.registry import delete_host, edit_host
from meshagent.xds.intake import Intake
from meshagent.xds.messages import Pacing, Protocol, Request
from meshagent.xds.server import NotServed
from meshagent.xds.stream import AdsStream
from tests.server.hosting import HELLO, REQUEST, Call, Hosts, Refused
from tests.xds.real import until


async def test_a_session_begins_with_what_was_written_while_its_hello_was_waited_for(hosts: Hosts) -> None:
    hosts.loop.meddle = lambda: edit_host(hosts.store, "a", lambda record: drains(record, None, True))
    call = Call(await hosts.certificate(), HELLO)
    async with hosts.watching(call):
        assert (await asyncio.wait_for(call.heard.get(), 5)).placements[0].drain


async def test_no_session_begins_of_a_host_that_is_removed_meanwhile(hosts: Hosts) -> None:
    hosts.loop.meddle = lambda: delete_host(hosts.store, "a")
    async with hosts.watching(Call(await hosts.certificate(), HELLO)) as watch:
        with pytest.raises(Refused, match=r"PERMISSION_DENIED: .*not known here"):
            await asyncio.wait_for(watch, 5)


async def test_a_release_lasts_until_each_proxy_has_answered_and_holds_nothing_back(hosts: Hosts) -> None:
    reconciler = hosts.loop.reconciler
    call = Call(await hosts.certificate(), HELLO)
    async with hosts.watching(call):
        placement = (await asyncio.wait_for(call.heard.get(), 5)).placements[0].id
        await hosts.edit(lambda record: record.accepted())
        ours = host_pb2.Stamp(lineage=reconciler.stamp.lineage, revision=reconciler.stamp.revision)

        async def released_after(report: str, reason: str = "") -> bool:
            """`report` is a word that is kept of it, by which it is known to have been heard."""
            status = host_pb2.PlacementStatus(id=placement, held=ours, held_reason=reason)
            facts = host_pb2.Facts(instance_id=report)
            call.said.put_nowait(host_pb2.Observed(held=ours, placements=[status], facts=facts))
            await until(lambda: report in reconciler.hosts["a"].facts.values(), report)
            return reconciler.hosts["a"].accept

        assert await released_after("not-following")
        snapshot = reconciler.snapshot(placement)
        assert snapshot is not None
        stream = AdsStream(Protocol.DELTA, Pacing.PIPELINED)
        stream.offer(snapshot)
        (push,) = [response for request in Intake().open() for response in stream.receive(request)]
        hosts.status.opened(placement, stream)
        assert await released_after("unanswered")
        stream.receive(Request(push.type_url, nonce=push.nonce))
        assert await released_after("held-back", "a revision without listeners")
        assert not await released_after("taken")


async def refusals(hosts: Hosts, certificate: bytes) -> list[str]:
    """Of everything that a host may ask for, the words with which it is refused."""
    words = []

    async def watch() -> None:
        call = Call(certificate, HELLO)
        async with hosts.watching(call) as watch:
            await asyncio.wait((watch, heard := asyncio.create_task(call.heard.get())), return_when="FIRST_COMPLETED")
            heard.cancel()
            if watch.done():
                watch.result()

    async def follow() -> None:
        with suppress(NotServed):  # let in, and of no use without a placement
            await hosts.service.authorize(Call(certificate), core.Node(id="p1"))

    for asked in (
        watch(),
        follow(),
        hosts.service.check(host_pb2.CheckRequest(), Call(certificate)),
        hosts.service.sign(host_pb2.SignRequest(csr=REQUEST), Call(certificate)),
    ):
        try:
            await asked
        except (Refused, NotAllowed) as error:
            words.append(str(error))
    return words


async def test_what_was_issued_before_a_name_was_joined_anew_opens_nothing(hosts: Hosts) -> None:
    first = await hosts.join("t1")
    assert await refusals(hosts, first) == []
    await delete_host(hosts.store, "a")
    await Loop.reached(hosts.loop, await hosts.store.revision())
    assert ["not known here" in words for words in await refusals(hosts, first)] == [True] * 4
    hosts.clock.now += 1.0
    second = await hosts.join("t2")
    assert ["joined anew" in words for words in await refusals(hosts, first)] == [True] * 4
    assert await refusals(hosts, second) == []
    hosts.clock.now += 1.0
    assert await refusals(hosts, await hosts.certificate()) == []


async def test_a_host_may_join_anew_without_being_removed(hosts: Hosts) -> None:
    await hosts.join("t1")
    hosts.clock.now += 0.01
    assert await refusals(hosts, await hosts.join("t2")) == []


@pytest.mark.parametrize("uri", ["spiffe://td/mesh/shop/virtualNode/web", "spiffe://td/host/b"])
async def test_who_is_no_host_of_ours_is_refused(hosts: Hosts, uri: str) -> None:
    assert len(await refusals(hosts, await hosts.certificate(uri))) == 4
    assert len(await refusals(hosts, b"junk")) == 4
