"""Machines that have one host's identity: which of them is the host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from meshagent.identity.tokens import TokenRecord
from meshagent.protocol import host_pb2
from meshagent.server.clones import answered
from meshagent.server.operations import joined
from meshagent.server.registry import edit_host, read_host
from meshagent.server.session import Standing
from meshagent.server.status import CLONE_SECONDS, host_status
from tests.server.hosting import HELLO, Call, Hosts, Refused
from tests.xds.real import until


def of_boot(boot: str, address: str = "10.0.0.1") -> host_pb2.Observed:
    hello = host_pb2.Observed()
    hello.CopyFrom(HELLO)
    hello.hello.boot_id, hello.hello.address = boot, address
    return hello


class Machine:
    """One that has host a's identity: its agent says hello, and answers what it is told first."""

    def __init__(self, hosts: Hosts, certificate: bytes, boot: str) -> None:
        self._hosts, self._certificate, self.boot = hosts, certificate, boot
        self.call = self._call()

    def _call(self) -> Call:
        return Call(self._certificate, of_boot(self.boot, f"10.0.0.{self.boot[1]}"))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncio.Task[None]]:
        self.call = self._call()
        async with self._hosts.watching(self.call) as watch:
            await asyncio.wait_for(self.call.heard.get(), 5)
            self.speak()
            await until(lambda: self._hosts.record.boot == self.boot, f"{self.boot} is the host")
            yield watch

    def speak(self) -> None:
        self.call.said.put_nowait(host_pb2.Observed())

    async def refused(self, match: str) -> None:
        async with self._hosts.watching(self._call()) as watch:
            await ended(watch, match)


async def ended(watch: asyncio.Task[None], match: str) -> None:
    with pytest.raises(Refused, match=match):
        await asyncio.wait_for(watch, 5)


PATIENCE = 8.0  # a little more than half a lease
WAIT, KEPT_OUT = (
    "UNAVAILABLE: .*connected from another boot",
    r"FAILED_PRECONDITION: another machine, at 10\.0\.0\.1, is host 'a'",
)


async def test_d8_a_copy_of_a_connected_machine_is_kept_out_and_the_machine_never_notices(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = await hosts.join("t1")
    machine, copy = Machine(hosts, certificate, "a1"), Machine(hosts, certificate, "b2")
    async with machine.connected() as watch:
        await copy.refused(WAIT)
        hosts.monotonic.now += PATIENCE
        machine.speak()
        await until(lambda: machine.call.said.empty(), "heard")
        await copy.refused(KEPT_OUT)
        record = hosts.record
        assert (record.boot, record.clones, record.address) == ("a1", ("b2",), "10.0.0.1")
        (clone,) = host_status(record, hosts.status.host("a"))["clones"]
        assert (clone["bootId"], clone["address"]) == ("b2", "10.0.0.9")
        monkeypatch.setattr(time, "time", lambda: clone["lastSeen"] + 2 * CLONE_SECONDS)
        assert host_status(record, hosts.status.host("a"))["clones"] == []
        monkeypatch.undo()
        assert not watch.done()
    # The machine is started anew, as it may be at any time; the copy is not the host meanwhile.
    await copy.refused(KEPT_OUT)
    async with Machine(hosts, certificate, "a3").connected():
        assert hosts.record.clones == ("b2",)


async def test_d8_a_machine_that_was_away_while_its_copy_came_is_the_host_when_it_is_back(hosts: Hosts) -> None:
    certificate = await hosts.join("t1")
    machine, copy = Machine(hosts, certificate, "a1"), Machine(hosts, certificate, "b2")
    async with machine.connected():
        pass
    async with copy.connected() as watch:
        await machine.refused(WAIT)
        hosts.monotonic.now += PATIENCE
        copy.speak()
        await until(lambda: copy.call.said.empty(), "heard")
        async with machine.connected():
            await ended(watch, "kept out")
            await copy.refused(KEPT_OUT)


async def test_a_machine_that_went_down_without_a_word_is_back_as_soon_as_it_is_known_to_be_down(hosts: Hosts) -> None:
    certificate = await hosts.join("t1")
    before, after = Machine(hosts, certificate, "a1"), Machine(hosts, certificate, "a2")
    async with before.connected() as watch:
        await after.refused(WAIT)
        # Told again what it knows, to which the machine that is up again would answer with a reset.
        await asyncio.wait_for(before.call.heard.get(), 5)
        # What was on its way then is read late, and proves nothing.
        hosts.monotonic.now += 7.0
        before.speak()
        await until(lambda: before.call.said.empty(), "heard")
        await after.refused(WAIT)
        hosts.monotonic.now += 2.0
        await after.refused(WAIT)
        hosts.monotonic.now += PATIENCE
        async with after.connected():
            await ended(watch, "took over")
    assert hosts.record.clones == ()


async def test_what_a_machine_had_said_before_it_went_down_makes_no_copy_of_it(hosts: Hosts) -> None:
    """Its hello is read after its next boot's, by a server that hung meanwhile. Nothing follows it."""
    certificate = await hosts.join("t1")
    before, after = Machine(hosts, certificate, "a1"), Machine(hosts, certificate, "a2")
    async with before.connected():
        pass
    async with after.connected():
        pass
    late = Call(certificate, of_boot("a1"))
    async with hosts.watching(late) as watch:
        await asyncio.wait_for(late.heard.get(), 5)
        await after.refused(WAIT)
        hosts.monotonic.now += PATIENCE
        async with after.connected():
            await ended(watch, "took over")
    assert (hosts.record.boot, hosts.record.clones) == ("a2", ())


async def test_d8_machines_that_are_connected_to_different_servers_are_told_apart(hosts: Hosts) -> None:
    """What the other server writes is all that this one sees of the other machine."""
    certificate = await hosts.join("t1")
    call = Call(certificate, of_boot("a1"), host_pb2.Observed())
    async with hosts.watching(call) as first:
        await until(lambda: hosts.record.boot == "a1", "the first is the host")
        await hosts.edit(lambda record: answered(record, "b2"))
        with pytest.raises(Refused, match="another machine"):
            await asyncio.wait_for(first, 5)
    call = Call(certificate, of_boot("b2"), host_pb2.Observed())
    async with hosts.watching(call) as second:
        await asyncio.wait_for(call.heard.get(), 5)
        await hosts.edit(lambda record: answered(record, "a1"))
        with pytest.raises(Refused, match=r"another machine.*kept out"):
            await asyncio.wait_for(second, 5)


async def test_a_clone_that_joins_anew_is_the_host_and_who_was_it_is_refused(hosts: Hosts) -> None:
    machine = Machine(hosts, await hosts.join("t1"), "a1")
    async with machine.connected() as watch:
        await hosts.edit(lambda record: replace(record, clones=("b2",)))
        hosts.clock.now += 1.0
        copy = Machine(hosts, await hosts.join("t2"), "b2")
        await ended(watch, "joined anew")
        async with copy.connected():
            await machine.refused("PERMISSION_DENIED: .*joined anew")
    assert hosts.record.clones == ()


async def test_a_copy_that_comes_after_a_server_hung_for_long_does_not_end_the_machines_session(hosts: Hosts) -> None:
    """What the machine said meanwhile is not read yet."""
    certificate = await hosts.join("t1")
    async with Machine(hosts, certificate, "a1").connected() as watch:
        hosts.monotonic.now += 60.0
        await Machine(hosts, certificate, "b2").refused(WAIT)
        assert not watch.done()


async def test_of_two_that_say_hello_at_once_one_waits(hosts: Hosts) -> None:
    certificate = await hosts.join("t1")
    first, second = Machine(hosts, certificate, "a1"), Machine(hosts, certificate, "b2")

    async def quicker() -> None:
        hosts.loop.meddle = None
        await stack.enter_async_context(first.connected())

    async with AsyncExitStack() as stack:
        hosts.loop.meddle = quicker
        await second.refused("UNAVAILABLE")
    assert hosts.record.boot == "a1"


async def test_a_hello_that_is_lost_on_its_way_leaves_no_address_of_its_own(hosts: Hosts) -> None:
    """Another server took it; its machine never answered, or this server's answer came too late for it."""
    certificate = await hosts.join("t1")
    machine = Machine(hosts, certificate, "a1")
    async with machine.connected() as watch:
        await hosts.edit(lambda record: replace(record, address="10.0.0.2"))
        await ended(watch, "say hello again")
    hosts.loop.meddle = lambda: edit_host(hosts.store, "a", lambda record: replace(record, address="10.0.0.2"))
    await machine.refused(r"UNAVAILABLE: .*10\.0\.0\.2, too")
    hosts.loop.meddle = None
    async with machine.connected():
        assert hosts.record.address == "10.0.0.1"


async def test_a_word_of_a_boot_that_is_read_after_the_next_one_answered_elsewhere_counts_for_nothing(
    hosts: Hosts,
) -> None:
    certificate = await hosts.join("t1")
    await hosts.edit(lambda record: replace(record, boot="a0"))
    call = Call(certificate, of_boot("a1"))
    async with hosts.watching(call) as watch:
        await asyncio.wait_for(call.heard.get(), 5)
        for boot in ("a1", "a2"):
            await edit_host(hosts.store, "a", lambda record, boot=boot: answered(record, boot))
        call.said.put_nowait(host_pb2.Observed())
        await ended(watch, "another boot")
    assert (hosts.record.boot, hosts.record.clones) == ("a2", ())


async def test_a_boot_id_is_no_place_for_anything_else(hosts: Hosts) -> None:
    certificate = await hosts.join("t1")
    for _ in range(2):
        await Machine(hosts, certificate, "a1" * 100).refused("FAILED_PRECONDITION: .*200 characters")
    async with Machine(hosts, certificate, "a1").connected():
        await Machine(hosts, certificate, "b2" * 100).refused("FAILED_PRECONDITION: .*200 characters")


async def test_who_joined_anew_is_no_copy_before_the_earlier_session_has_ended_either(hosts: Hosts) -> None:
    machine = Machine(hosts, await hosts.join("t1"), "a1")
    async with machine.connected():
        session = hosts.service._sessions["a"]
        assert session.standing("b2", hosts.monotonic.now, 7.5) is Standing.OPEN
        hosts.monotonic.now += PATIENCE
        session.hears(hosts.monotonic.now)
        session.reads_on(hosts.monotonic.now)
        token = TokenRecord("t2", "", ("mesh/shop/*",), None, 1e12)
        hosts.clock.now += 1.0
        await edit_host(hosts.store, "a", lambda record: joined(record, token, hosts.clock.now))
        await hosts.service._machines.contend(session, "b2", 7.5)
        stored = await read_host(hosts.store, "a")
        assert stored is not None and stored.clones == ()
