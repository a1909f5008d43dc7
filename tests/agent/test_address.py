"""A host whose address changes says so; one whose configuration gives it does not look."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import pytest

from meshagent.agent import address
from meshagent.agent.address import HostAddress


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LOOK_EVERY", 0.001)


def script(*answers: str) -> Callable[[], str]:
    """The last answer is given for ever."""
    left = list(answers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def told_of(host: HostAddress, changes: int) -> list[str]:
    """What is told at each of so many changes."""
    said: list[str] = []
    enough = asyncio.Event()

    def changed() -> None:
        said.append(host.tell())
        if len(said) == changes:
            enough.set()

    watching = asyncio.create_task(host.watch(changed))
    async with asyncio.timeout(5):
        await enough.wait()
    watching.cancel()
    return said


async def test_h10_another_address_is_told_once_and_none_is_not_told(looked: None) -> None:
    host = HostAddress(
        None, lambda: "", script("10.0.0.5", "10.0.0.5", "", "10.0.0.9", "10.0.0.9", "10.0.0.9", "10.0.1.1")
    )
    assert host.tell() == "10.0.0.5"
    assert await told_of(host, 2) == ["10.0.0.9", "10.0.1.1"]


async def test_an_address_that_is_given_is_not_looked_for(looked: None) -> None:
    host = HostAddress("10.0.0.5", lambda: "10.0.0.1", lambda: pytest.fail("looked"))
    assert host.tell() == "10.0.0.5"
    async with asyncio.timeout(5):
        await host.watch(lambda: pytest.fail("changed"))


def test_without_a_route_it_is_the_last_that_was_good() -> None:
    assert HostAddress(None, lambda: "10.0.0.1", lambda: "").tell() == "10.0.0.1"


def test_this_machines_is_an_address_or_there_is_none() -> None:
    found = address.of_default_route()
    assert found == "" or not ipaddress.ip_address(found).is_loopback
