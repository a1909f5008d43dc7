"""What is said of a host, and when; and the instance metadata service, which a small server stands in for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshagent.agent import facts as told
from meshagent.agent.facts import OFF, SELDOM, Facts, message
from meshagent.agent.usage import EVERY, Meter
from meshagent.host import facts, metadata
from meshagent.host.facts import Disk, Present, System, Usage
from meshagent.host.metadata import Instance, MetadataError
from meshagent.protocol import host_pb2
from meshagent.protocol.facts import attributes, facts_json
from tests.xds.real import until

DEBIAN = System("debian", "12", "6.1.0", "x86_64", "252", 1_700_000_000, 2, 4 << 30)
HERE = Present(0.25, 1 << 30, (Disk("/", 1 << 35, 40, False),), ("eth0 10.0.0.5",))
ZONE = Instance("i-0abc", "t3.micro", "eu-west-1a", "eu-west-1")
DOCUMENT = {"instanceId": "i-0abc", "instanceType": "t3.micro", "availabilityZone": "eu-west-1a", "region": "eu-west-1"}


class Reported:
    """A Facts whose gathering is done by the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.woken = 0
        self.facts = Facts((), OFF, self._wake, lambda: self.now)
        self.facts._system = DEBIAN
        self.gather(HERE)

    def _wake(self) -> None:
        self.woken += 1

    def gather(self, present: Present) -> None:
        self.facts._present = present
        self.facts._take()


def test_facts_go_with_the_first_report_of_each_connection() -> None:
    reported = Reported()
    assert reported.facts.report(first=True) == message(DEBIAN, HERE, Instance())
    assert reported.facts.report(first=False) is None
    assert reported.facts.report(first=True) is not None


def test_another_address_wakes_and_a_load_waits_for_its_minute() -> None:
    reported = Reported()
    reported.facts.report(first=True)
    woken = reported.woken
    busy = Present(4.0, 1 << 29, (Disk("/", 1 << 35, 90, False),), HERE.addresses)
    reported.gather(busy)
    assert reported.woken == woken
    assert reported.facts.report(first=False) is None
    reported.now += SELDOM
    said = reported.facts.report(first=False)
    assert said is not None
    assert said.load == 4.0
    moved = Present(4.0, 1 << 29, busy.disks, ("eth0 10.0.0.6",))
    reported.gather(moved)
    assert reported.woken == woken + 1
    assert reported.facts.report(first=False) is not None


def test_before_anything_is_gathered_nothing_is_said() -> None:
    assert Facts((), OFF, lambda: None).report(first=True) is None


def test_selectors_know_a_host_by_what_stays() -> None:
    assert attributes(message(DEBIAN, HERE, ZONE)) == {
        "os": "debian", "os-version": "12", "kernel": "6.1.0", "arch": "x86_64", "systemd": "252",
        "instance-id": "i-0abc", "instance-type": "t3.micro", "zone": "eu-west-1a", "region": "eu-west-1",
    }  # fmt: skip
    assert attributes(host_pb2.Facts(os="a b", kernel="x" * 64, arch="arm")) == {"arch": "arm"}


def test_what_a_host_says_of_itself_has_an_end() -> None:
    shown = facts_json(host_pb2.Facts(os="x" * 10_000, addresses=["y" * 10_000] * 1000))
    assert len(json.dumps(shown)) < 64 * 300 + 1000


@dataclass
class Imds:
    """The metadata service's two requests; `fails` of them are refused first."""

    fails: int = 0
    document: bytes = json.dumps(DOCUMENT).encode()
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.asked.append(head.split("\r\n")[0])
        status, body = "404 Not Found", b""
        if self.fails > 0:
            self.fails -= 1
        elif head.startswith("put /latest/api/token") and "x-aws-ec2-metadata-token-ttl-seconds: 60" in head:
            status, body = "200 OK", b"secret"
        elif "x-aws-ec2-metadata-token: secret" in head and "instance-identity/document" in head:
            status, body = "200 OK", self.document
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(imds: Imds) -> AsyncIterator[str]:
    server = await asyncio.start_server(imds.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_instance_is_known_by_its_metadata_service() -> None:
    async with serving(Imds()) as endpoint:
        assert await metadata.instance(endpoint) == ZONE
    async with serving(Imds(document=b'{"instanceId": "i-\\ud800"}')) as endpoint:
        assert await metadata.instance(endpoint) == metadata.Instance("i-?")


@pytest.mark.parametrize(
    ("imds", "words"),
    [(Imds(fails=1), "status 404"), (Imds(document=b"<html>"), "no JSON"), (Imds(document=b"[]"), "no JSON"),
     (Imds(document=b"[" * 10_000), "no JSON"),
     (Imds(document=b" " * (65 << 10)), "more than")],
)  # fmt: skip
async def test_a_metadata_service_that_is_none_is_said(imds: Imds, words: str) -> None:
    async with serving(imds) as endpoint:
        with pytest.raises(MetadataError, match=words):
            await metadata.instance(endpoint)


async def test_a_metadata_service_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "TIMEOUT", 0.1)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        with pytest.raises(MetadataError, match="does not answer in time"):
            await metadata.instance(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_an_instance_s_zone_is_reported_though_its_service_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "METADATA_PAUSES", (0.01,) * 5)
    woken = asyncio.Event()
    async with serving(Imds(fails=3)) as endpoint:
        reported = Facts((Path("/"),), endpoint, woken.set)
        task = asyncio.create_task(reported.run())
        await until(lambda: reported.known is not None and reported.known.zone == "eu-west-1a", "the zone is known")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert reported.known is not None
    assert reported.known.cpus >= 1
    assert reported.report(first=True) is not None


async def test_where_it_is_off_no_metadata_service_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "on_ec2", lambda: True)
    imds = Imds()
    async with serving(imds) as endpoint:
        monkeypatch.setattr(metadata, "ENDPOINT", endpoint)
        await Facts((), OFF, lambda: None)._ask_metadata()
        assert imds.asked == []
        await Facts((), None, lambda: None)._ask_metadata()
        assert len(imds.asked) == 2


async def test_an_envoy_s_use_is_looked_at_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = [0.0], iter([Usage(1.0, 50 << 20, 30), Usage(6.0, 51 << 20, 31), Usage(7.0, 1 << 20, 2), None])
    monkeypatch.setattr(facts, "usage", lambda pid: next(looks))
    meter = Meter(lambda: now[0])
    assert (await meter.look(7)).cpu == 0.0
    now[0] = EVERY / 2
    assert (await meter.look(7)).open_files == 30
    now[0] = EVERY
    assert (await meter.look(7)).cpu == 0.5
    assert (await meter.look(8)).cpu == 0.0, "another process begins anew"
    assert (await meter.look(9)).memory == 0
    assert (await meter.look(0)).memory == 0
