"""A control plane as an agent sees it: HostService and ADS over mutual TLS, told by the test what to say."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from meshagent.identity import spiffe
from meshagent.protocol import host_pb2
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.server import AdsService
from tests.agent.authority import TRUST_DOMAIN, Authority
from tests.xds.real import Recorder

HOST = "web-1"
DEADLINE = 20.0


class Upstream:
    """`desired` is what Watch says, again at each `say`; `observed` what was reported last; `peers` the certificates that connected."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.desired = host_pb2.Desired()
        self.observed = host_pb2.Observed()
        self.history: deque[host_pb2.Observed] = deque(maxlen=1000)
        self.hellos: list[host_pb2.Hello] = []
        self.peers: list[bytes] = []
        self.snapshots = SnapshotCache()
        self.seen = Recorder()
        self.port = 0
        self.well = asyncio.Event()  # not set: it takes connections and calls, and answers none
        self.well.set()
        self.earlier = False  # of a release that knows no Check
        self._turn = asyncio.Condition()
        self._version = 0
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        key, chain = self.authority.server()
        credentials = grpc.ssl_server_credentials([(key, chain)], self.authority.bundle, require_client_auth=True)
        self._server = grpc.aio.server()
        ads = AdsService(self.snapshots, lambda context, node: str(node.id), self.seen)
        watch = grpc.stream_stream_rpc_method_handler(
            self._watch, host_pb2.Observed.FromString, host_pb2.Desired.SerializeToString
        )
        sign = grpc.unary_unary_rpc_method_handler(
            self._sign, host_pb2.SignRequest.FromString, host_pb2.SignResponse.SerializeToString
        )
        check = grpc.unary_unary_rpc_method_handler(
            self._check, host_pb2.CheckRequest.FromString, host_pb2.CheckResponse.SerializeToString
        )
        methods = {"Watch": watch, "Sign": sign, "Check": check}
        hosts = grpc.method_handlers_generic_handler("meshagent.host.v1.HostService", methods)
        self._server.add_generic_rpc_handlers((ads.handlers(), hosts))
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def say(self, **fields: Any) -> None:
        """Desired changes in these fields, and is said."""
        desired = host_pb2.Desired()
        desired.CopyFrom(self.desired)
        for name, value in fields.items():
            desired.ClearField(name)  # type: ignore[arg-type]
            desired.MergeFrom(host_pb2.Desired(**{name: value}))
        self.desired = desired
        async with self._turn:
            self._version += 1
            self._turn.notify_all()

    async def until(self, true: Any, what: str, seconds: float = DEADLINE) -> None:
        """Waits until `true` of the last report."""
        deadline = time.monotonic() + seconds
        while not true(self.observed):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{self.observed}"
            await asyncio.sleep(0.01)

    async def _watch(self, requests: AsyncIterator[host_pb2.Observed], context: Any) -> AsyncIterator[host_pb2.Desired]:
        await self.well.wait()
        self.peers.append(context.auth_context()["x509_pem_cert"][0])
        first = await anext(requests)
        self.hellos.append(first.hello)
        self.observed = first
        self.history.append(first)

        async def listen() -> None:
            async for observed in requests:
                self.observed = observed
                self.history.append(observed)

        listening = asyncio.create_task(listen())
        try:
            said = -1
            while True:
                async with self._turn:
                    await self._turn.wait_for(lambda: self._version != said)  # noqa: B023
                    said = self._version
                yield self.desired
        finally:
            listening.cancel()

    async def _check(self, request: host_pb2.CheckRequest, context: Any) -> host_pb2.CheckResponse:
        await self.well.wait()
        if self.earlier:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return host_pb2.CheckResponse(now=time.time())

    async def _sign(self, request: host_pb2.SignRequest, context: Any) -> host_pb2.SignResponse:
        resources = {placement.id: placement.resource for placement in self.desired.placements}
        path = resources[request.placement] if request.placement else f"host/{HOST}"
        chain = self.authority.sign(request.csr, path)
        return host_pb2.SignResponse(chain=chain, trust_bundle=self.authority.bundle)


@asynccontextmanager
async def serving(authority: Authority) -> AsyncIterator[Upstream]:
    upstream = Upstream(authority)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


def server_name() -> str:
    return spiffe.server_name(TRUST_DOMAIN)
