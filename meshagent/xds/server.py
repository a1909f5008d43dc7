"""The ADS service over grpc.aio, delta and state of the world: moves messages between a connection and its AdsStream.

It serves a control plane's agents over mutual TLS and an agent's Envoy over a unix socket alike, and knows of neither:
who a peer is and which snapshot it gets is `authorize`'s to say. Methods are bound by hand to the messages, so that no
generated stubs are imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Protocol

import grpc
import grpc.aio

from meshagent.errors import MeshagentError
from meshagent.protos import discovery
from meshagent.xds import wire
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.messages import Pacing, Rejection, Request, Response
from meshagent.xds.messages import Protocol as Variant
from meshagent.xds.snapshot import Snapshot, Stamp
from meshagent.xds.stream import AdsStream

log = logging.getLogger(__name__)

FIRST_REQUEST_SECONDS = 15.0
AUTHORIZE_SECONDS = 10.0
# A peer that does not read for this long is cut, and connects anew.
WRITE_SECONDS = 30.0
# Of one proxy: two generations, and those that are dead and not yet noticed.
MAX_STREAMS = 8
# Proxies whose refusals are remembered between two streams.
MAX_REMEMBERED = 10_000

# The user agent by which an agent, which collects pushes, is told from an Envoy, which applies them as they come.
AGENT_USER_AGENT = "meshagent"


class NotServed(MeshagentError):
    """There is nothing for this peer under that name: NOT_FOUND, where all other refusals of `authorize` are
    PERMISSION_DENIED."""


# Given the call and the Node of the first request, the id of the snapshot to serve. Raises MeshagentError to refuse, in
# words for the peer.
Authorize = Callable[["grpc.aio.ServicerContext[Any, Any]", Any], "Awaitable[str] | str"]


class Observer(Protocol):
    """Told of every stream; must return at once. A newer stream of one id may open before the older one's end is
    noticed: compare streams."""

    def opened(self, id: str, stream: AdsStream) -> None: ...  # noqa: A002

    def changed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        """After every request and every offer."""

    def closed(self, id: str, stream: AdsStream) -> None: ...  # noqa: A002


@dataclass(frozen=True)
class _Face:
    """What differs between the two protocols on the wire."""

    variant: Variant
    method: str
    request_type: Any
    parse: Callable[[Any], Request]
    render: Callable[[Response], Any]


_FACES = (
    _Face(
        Variant.DELTA,
        wire.DELTA_METHOD,
        discovery.DeltaDiscoveryRequest,
        wire.delta_request,
        wire.delta_response,
    ),
    _Face(Variant.SOTW, wire.SOTW_METHOD, discovery.DiscoveryRequest, wire.sotw_request, wire.sotw_response),
)


class AdsService:
    def __init__(self, cache: SnapshotCache, authorize: Authorize, observer: Observer) -> None:
        self._cache = cache
        self._authorize = authorize
        self._observer = observer
        self._open: dict[str, int] = {}
        self._rejected: dict[str, tuple[Rejection, ...]] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                face.method: grpc.stream_stream_rpc_method_handler(
                    self._method(face),
                    request_deserializer=face.request_type.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for face in _FACES
            },
        )

    def _method(self, face: _Face) -> Any:
        async def serve(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await self._serve(face, context)

        return serve

    async def _serve(self, face: _Face, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            # Not wait_for, here and below: in Python 3.11 it loses a cancellation that comes with the answer.
            async with asyncio.timeout(FIRST_REQUEST_SECONDS):
                first = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request within {FIRST_REQUEST_SECONDS:g} s")
        if first is grpc.aio.EOF:
            return
        id = await self._admit(context, first.node)  # noqa: A001
        if self._open.get(id, 0) >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{id} has {MAX_STREAMS} streams already")
        pacing = Pacing.PIPELINED if first.node.user_agent_name == AGENT_USER_AGENT else Pacing.ACKNOWLEDGED
        stream = AdsStream(face.variant, pacing, rejected=self._rejected.get(id, ()), held=_held(first.node))
        self._open[id] = self._open.get(id, 0) + 1
        self._observer.opened(id, stream)
        try:
            # A client that knows itself admitted goes on; one that was refused reads why.
            await context.send_initial_metadata(())
            await self._converse(face, context, id, stream, first)
        finally:
            self._close(id, stream)

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any], node: Any) -> str:
        try:
            async with asyncio.timeout(AUTHORIZE_SECONDS):
                answer = self._authorize(context, node)
                return await answer if isawaitable(answer) else answer
        except NotServed as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except MeshagentError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"could not tell who this is within {AUTHORIZE_SECONDS:g} s"
            )
        raise AssertionError("abort raises")

    async def _converse(
        self,
        face: _Face,
        context: grpc.aio.ServicerContext[Any, Any],
        id: str,  # noqa: A002
        stream: AdsStream,
        message: Any,
    ) -> None:
        """One request or one snapshot at a time, and its responses written before the next: the client's window is our
        only queue."""
        watch = self._cache.watch(id)
        reading: asyncio.Task[Any] | None = None
        changing: asyncio.Task[Snapshot | None] = asyncio.create_task(watch.next())
        try:
            while message is not grpc.aio.EOF:
                await self._write(face, context, stream.receive(face.parse(message)))
                self._observer.changed(id, stream)
                reading = asyncio.create_task(context.read())
                while not reading.done():
                    await asyncio.wait((reading, changing), return_when=asyncio.FIRST_COMPLETED)
                    if changing.done():
                        snapshot = changing.result()
                        if snapshot is None:
                            await context.abort(grpc.StatusCode.NOT_FOUND, f"{id} is not served here any more")
                        await self._write(face, context, stream.offer(snapshot))
                        self._observer.changed(id, stream)
                        changing = asyncio.create_task(watch.next())
                message = reading.result()
        finally:
            watch.close()
            changing.cancel()
            if reading is not None:
                reading.cancel()

    async def _write(self, face: _Face, context: grpc.aio.ServicerContext[Any, Any], responses: list[Response]) -> None:
        for response in responses:
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await context.write(face.render(response))
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was read for {WRITE_SECONDS:g} s")

    def _close(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self._open[id] -= 1
        if not self._open[id]:
            del self._open[id]
        self._rejected.pop(id, None)
        if stream.rejected:
            self._rejected[id] = stream.rejected
            if len(self._rejected) > MAX_REMEMBERED:
                del self._rejected[next(iter(self._rejected))]
        self._observer.closed(id, stream)


def _held(node: Any) -> Stamp:
    """What an agent says in its Node's metadata that it holds."""
    lineage, revision = (node.metadata.fields[name].string_value for name in ("lineage", "revision"))
    try:
        return Stamp.parse(f"{lineage}/{revision}")
    except ValueError:
        return Stamp()  # nothing
