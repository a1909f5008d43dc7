"""HostService without a wire, and a host a that it knows: what tests of its sessions begin with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc

from meshagent.identity import x509
from meshagent.identity.authority import Authority
from meshagent.identity.tokens import TokenRecord
from meshagent.protocol import host_pb2
from meshagent.server.hosts import HostService, Terms
from meshagent.server.loop import REACH_SECONDS, Loop
from meshagent.server.operations import joined
from meshagent.server.records import HostRecord
from meshagent.server.registry import Edit, edit_host
from meshagent.server.status import Status
from meshagent.store.memory import MemoryStore
from tests.server.meshes import WEB

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

    def peer(self) -> str:
        return "ipv4:10.0.0.9:4711"

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
        self.now = time.time()  # or monotonic: only differences count

    def __call__(self) -> float:
        return self.now


class Hosts:
    """The service, and a host a that it knows. `clock` is the authority's."""

    def __init__(self, store: MemoryStore, authority: Authority, clock: Clock, loop: Meddled) -> None:
        self.store, self.authority, self.clock, self.loop = store, authority, clock, loop
        self.status, self.monotonic = Status(), Clock()
        self.service = HostService(store, loop, self.status, authority, Terms(("s:1",)), self.monotonic)

    @property
    def record(self) -> HostRecord:
        return self.loop.reconciler.hosts["a"]

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
