"""The client side of one delta ADS stream, as an agent needs it: moves messages between a server's connection and an
Intake.

One connection from its first request to its end. Connecting anew, with a jittered back-off, is the caller's; so is what
becomes of a candidate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from meshagent.errors import MeshagentError
from meshagent.protos import discovery
from meshagent.xds import wire
from meshagent.xds.intake import Intake
from meshagent.xds.messages import Rejection, Request
from meshagent.xds.snapshot import Snapshot

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 30.0

_PATH = f"/{wire.SERVICE}/{wire.DELTA_METHOD}"

# Says what Envoy made of a candidate: everything taken but for the rejections. May be called at any time, also after
# the stream ended, when it only moves what the intake holds; a candidate that is never settled is offered again on the
# next connection.
Settle = Callable[[Iterable[Rejection]], None]


class UpstreamLost(MeshagentError):
    """The stream to a server ended, or never began; the words say why."""


async def follow(
    channel: grpc.aio.Channel,
    node: Any,
    intake: Intake,
    on_candidate: Callable[[Snapshot, Settle], None],
    *,
    on_connected: Callable[[], None] = lambda: None,
) -> None:
    """Runs one stream until it ends, which always raises UpstreamLost (or IntakeError, when the server breaks the
    protocol).

    `node` is the core.Node that names the proxy; its user agent must be `meshagent`. `on_candidate` must return at
    once. `on_connected` is called when the server has let it in."""
    try:
        # Not wait_for, here and below: in Python 3.11 it loses a cancellation that comes with the answer.
        async with asyncio.timeout(CONNECT_SECONDS):
            await channel.channel_ready()
    except TimeoutError:
        raise UpstreamLost(f"no server could be reached within {CONNECT_SECONDS:g} s") from None
    call: Any = channel.stream_stream(
        _PATH,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=discovery.DeltaDiscoveryResponse.FromString,
    )()
    # Bounded by what the server has sent: one answer for each response.
    outbox: asyncio.Queue[Request] = asyncio.Queue()
    ended = False

    def settle_for(candidate: Snapshot) -> Settle:
        def settle(rejected: Iterable[Rejection]) -> None:
            for request in intake.settle(rejected, candidate):
                if not ended:
                    outbox.put_nowait(request)

        return settle

    async def read() -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise UpstreamLost(f"the server ended the stream: {await _ending(call)}")
            candidate = intake.receive(wire.delta_response_values(message))
            if candidate is not None:
                on_candidate(candidate, settle_for(candidate))

    async def write() -> None:
        while True:
            await _write(call, wire.delta_request_message(await outbox.get()))

    tasks: list[asyncio.Task[None]] = []
    try:
        first, *others = intake.open()
        await _write(call, wire.delta_request_message(first, node))
        async with asyncio.timeout(CONNECT_SECONDS):
            await call.initial_metadata()
        if call.done():
            raise UpstreamLost(await _ending(call))
        for request in others:
            await _write(call, wire.delta_request_message(request))
        on_connected()
        tasks += [asyncio.create_task(read()), asyncio.create_task(write())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except TimeoutError:
        raise UpstreamLost(f"the server did not answer within {CONNECT_SECONDS:g} s") from None
    except grpc.aio.AioRpcError as error:
        raise UpstreamLost(f"{error.code().name}: {error.details()}") from None
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise UpstreamLost(f"the stream ended: {error}") from None
    finally:
        ended = True
        for task in tasks:
            task.cancel()
        call.cancel()


async def _write(call: Any, message: Any) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await call.write(message)
    except TimeoutError:
        raise UpstreamLost(f"the server took nothing for {WRITE_SECONDS:g} s") from None
    except asyncio.InvalidStateError:
        # grpc.aio says so when the call is over; why it is over, the call knows.
        raise UpstreamLost(f"the server ended the stream: {await _ending(call)}") from None


async def _ending(call: Any) -> str:
    return f"{(await call.code()).name}: {await call.details()}"
