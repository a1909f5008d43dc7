"""HostService without a wire: who is let in, and what a session begins with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

import grpc
import pytest

from meshagent.envoy.compile import Compiler
from meshagent.identity import x509
from meshagent.identity.authority import Authority
from meshagent.identity.tokens import TokenRecord
from meshagent.protocol import host_pb2
from meshagent.protos import core
from meshagent.server.hosts import HostService, Terms
from meshagent.server.lineage import open_lineage
from meshagent.server.loop import REACH_SECONDS, Loop
from meshagent.server.operations import drains, joined
from meshagent.server.peers import NotAllowed
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import HostRecord
from meshagent.server.registry import Edit, delete_host, edit_host
from meshagent.server.status import Status
from meshagent.store.memory import MemoryStore
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.intake import Intake
from meshagent.xds.messages import Pacing, Protocol, Request
from meshagent.xds.server import NotServed
from meshagent.xds.stream import AdsStream
from tests.server.meshes import WEB
from tests.xds.real import until

HELLO = host_pb2.Observed(
    hello=host_pb2.Hello(protocol=1, address="10.0.0.1", placements=[host_pb2.WantedPlacement(resource=WEB)])
)
REQUEST = x509.new_request(x509.new_key())


class Refused(Exception):
    """The server's words, after the status."""


class Call:
    """One call of host a, as grpc.aio gives it to the service: it says `said`, then nothing, and hears what is written."""

    def __init__(self, certificate: bytes, *said: host_pb2.Observed) -> None:
        self._certificate = certificate
        self.said: asyncio.Queue[host_pb2.Observed] = asyncio.Queue()
        for one in said:
            self.said.put_nowait(one)
        self.heard: asyncio.Queue[host_pb2.Desired] = asyncio.Queue()

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    async def read(self) -> host_pb2.Observed:
        return await self.said.get()

    async def write(self, message: host_pb2.Desired) -> None:
        self.heard.put_nowait(message)

    async def abort(self, code: grpc.StatusCode, words: str) -> NoReturn:
        raise Refused(f"{code.name}: {words}")


class Meddled(Loop):
    """Somebody else writes while a hello waits for its own write to be seen."""

    meddle: Callable[[], Awaitable[object]] | None = None

    async def reached(self, revision: int, timeout: float = REACH_SECONDS) -> None:
        if self.meddle is not None:
            await self.meddle()
            revision = await self._store.revision()
        await super().reached(revision, timeout)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Hosts:
    """The service, and a host a that it knows. `clock` is the authority's."""

    def __init__(self, store: MemoryStore, authority: Authority, clock: Clock, loop: Meddled) -> None:
        self.store, self.authority, self.clock, self.loop = store, authority, clock, loop
        self.status = Status()
        self.service = HostService(store, loop, self.status, authority, Terms(("s:1",)))

    async def edit(self, edit: Edit) -> None:
        """Seen when it returns."""
        written = await edit_host(self.store, "a", edit, create=True)
        assert written is not None
        await Loop.reached(self.loop, written[1])

    async def join(self, token: str) -> bytes:
        """The certificate that it gets."""
        record = TokenRecord(token, "", ("mesh/shop/*",), None, 1e12)
        await self.edit(lambda before: joined(before, record, self.clock.now))
        return await self.certificate()

    async def certificate(self, uri: str = "spiffe://td/host/a") -> bytes:
        return await self.authority.issue_workload(REQUEST, uri, 3600.0)

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.service.watch(None, call))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    store = MemoryStore()
    await open_lineage(store)
    loop = Meddled(store, Reconciler(Compiler(), "td"), SnapshotCache(), time.monotonic)
    await loop.load()
    clock = Clock()
    found = Hosts(store, await Authority.open(store, "td", clock), clock, loop)
    running = asyncio.create_task(loop.run())
    await found.edit(lambda _: HostRecord("a", ("mesh/shop/*",)))
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


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
