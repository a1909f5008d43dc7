"""Names resolved by a real little DNS server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from meshagent.discovery.leases import Lookup
from meshagent.discovery.resolve import Pace, Resolving, Unanswered, ask, resolver_for, split_nameserver


class LittleDns(asyncio.DatagramProtocol):
    """Answers from `zone`: (name, type) -> addresses; a name that is nowhere is NXDOMAIN. Silent when told to be."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.ttl = 0
        self.silent = False
        self.asked: list[tuple[str, str]] = []
        self.heard = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked.append((name, kind))
        self.heard.set()
        if self.silent:
            return
        answer = dns.message.make_response(query)
        if found := self.zone.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *found))
        elif not any(known == name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)

    async def asked_times(self, times: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < times:
                self.heard.clear()
                await self.heard.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.get_extra_info('sockname')[1]}"


@pytest.fixture
async def server() -> AsyncIterator[LittleDns]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        LittleDns, local_addr=("127.0.0.1", 0)
    )
    yield protocol
    transport.close()


@asynccontextmanager
async def running(server: LittleDns) -> AsyncIterator[tuple[Resolving, asyncio.Queue[tuple[str, tuple[str, ...]]]]]:
    answers: asyncio.Queue[tuple[str, tuple[str, ...]]] = asyncio.Queue()
    resolving = Resolving(
        resolver_for([server.address]),
        lambda lookup, addresses: answers.put_nowait((lookup.hostname, addresses)),
        Pace(floor=0.05, ceiling=0.2, first=0.05),
    )
    task = asyncio.create_task(resolving.run())
    try:
        yield resolving, answers
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_all_addresses_of_an_answer_sorted(server: LittleDns) -> None:
    server.zone["web.shop", "A"] = ["10.0.0.2", "10.0.0.1"]
    assert (await ask(resolver_for([server.address]), Lookup("web.shop"))).addresses == ("10.0.0.1", "10.0.0.2")


async def test_the_second_family_counts_only_where_the_first_has_nothing(server: LittleDns) -> None:
    server.zone["six.shop", "AAAA"] = ["fd00::1"]
    server.zone["two.shop", "A"], server.zone["two.shop", "AAAA"] = ["10.0.0.1"], ["fd00::2"]
    resolver = resolver_for([server.address])
    assert (await ask(resolver, Lookup("six.shop", "46"))).addresses == ("fd00::1",)
    assert (await ask(resolver, Lookup("two.shop", "46"))).addresses == ("10.0.0.1",)
    assert (await ask(resolver, Lookup("two.shop", "64"))).addresses == ("fd00::2",)
    with pytest.raises(Unanswered):
        await ask(resolver, Lookup("six.shop", "4"))


async def test_an_address_is_its_own_answer_where_its_family_is_wanted(server: LittleDns) -> None:
    resolver = resolver_for([server.address])
    assert (await ask(resolver, Lookup("10.0.0.9", "64"))).addresses == ("10.0.0.9",)
    assert (await ask(resolver, Lookup("fd00:0::9", "6"))).addresses == ("fd00::9",)
    with pytest.raises(Unanswered, match="IPv6 address"):
        await ask(resolver, Lookup("fd00::9", "4"))
    assert not server.asked
    async with running(server) as (resolving, answers):
        resolving.want([Lookup("10.0.0.9")])
        assert await asyncio.wait_for(answers.get(), 5) == ("10.0.0.9", ("10.0.0.9",))


async def test_etc_hosts_is_never_asked(server: LittleDns) -> None:
    with pytest.raises(Unanswered):
        await ask(resolver_for([server.address]), Lookup("localhost"))
    assert ("localhost", "A") in server.asked


async def test_a_change_is_told_and_sameness_is_not(server: LittleDns) -> None:
    server.zone["web.shop", "A"] = ["10.0.0.1"]
    async with running(server) as (resolving, answers):
        resolving.want([Lookup("web.shop")])
        assert await asyncio.wait_for(answers.get(), 5) == ("web.shop", ("10.0.0.1",))
        server.zone["web.shop", "A"] = ["10.0.0.2", "10.0.0.1"]
        assert await asyncio.wait_for(answers.get(), 5) == ("web.shop", ("10.0.0.1", "10.0.0.2"))
        assert answers.empty()


async def test_d6_the_last_answer_stays_when_the_name_is_gone(
    server: LittleDns, caplog: pytest.LogCaptureFixture
) -> None:
    server.zone["web.shop", "A"] = ["10.0.0.1"]
    async with running(server) as (resolving, answers):
        resolving.want([Lookup("web.shop")])
        await asyncio.wait_for(answers.get(), 5)
        del server.zone["web.shop", "A"]
        asked = len(server.asked)
        await server.asked_times(asked + 4)
        assert answers.empty()
        server.zone["web.shop", "A"] = ["10.0.0.9"]
        assert await asyncio.wait_for(answers.get(), 5) == ("web.shop", ("10.0.0.9",))
    assert len([record for record in caplog.records if "cannot be resolved" in record.getMessage()]) == 1


async def test_a_name_that_is_no_longer_wanted_is_no_longer_asked(server: LittleDns) -> None:
    server.zone["a.shop", "A"], server.zone["b.shop", "A"] = ["10.0.0.1"], ["10.0.0.2"]
    async with running(server) as (resolving, answers):
        resolving.want([Lookup("a.shop")])
        await asyncio.wait_for(answers.get(), 5)
        resolving.want([Lookup("b.shop")])
        assert (await asyncio.wait_for(answers.get(), 5))[0] == "b.shop"
        server.asked.clear()
        await server.asked_times(3)
        assert {name for name, _ in server.asked} == {"b.shop"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:5353", ("10.0.0.2", 5353)),
        ("[fd00::2]:5353", ("fd00::2", 5353)),
        ("fd00::2", ("fd00::2", 53)),
    ],
)
def test_nameservers(text: str, expected: tuple[str, int]) -> None:
    assert split_nameserver(text) == expected


@pytest.mark.parametrize("text", ["", "10.0.0.2:", "10.0.0.2:x", "10.0.0.2:70000"])
def test_nameservers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="DNS server"):
        split_nameserver(text)
