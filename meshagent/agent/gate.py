"""What an Envoy's first configuration ends with: it takes connections once it has all of it, and so not before its agent lets it.

A bootstrap has a listener that listens nowhere, whose routes come over a stream of their own, from here. Envoy starts its workers when it
has these, too. One on trial is let in when it has taken all else: an Envoy that refuses a cluster or routes would answer with errors
otherwise what the one beside it answers well, for its listeners share the ports. Once open, nothing is asked here that matters.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from meshagent.agent.bootstrap import GATE
from meshagent.protos import discovery
from meshagent.xds.snapshot import ROUTE, Resource

_SERVICE, _METHOD = "envoy.service.route.v3.RouteDiscoveryService", "StreamRoutes"
_NAME_FIELD = b"\x0a"  # of a RouteConfiguration: field 1, a string
_ROUTES = Resource.of(ROUTE, GATE, _NAME_FIELD + bytes([len(GATE)]) + GATE.encode())


class Gate:
    """Open, until it is closed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def handlers(self) -> grpc.GenericRpcHandler:
        method: Any = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=discovery.DiscoveryRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    async def _serve(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if await context.read() is grpc.aio.EOF:
            return
        await self._open.wait()
        answer = discovery.DiscoveryResponse(version_info=_ROUTES.version, type_url=ROUTE, nonce="1")
        answer.resources.add(type_url=ROUTE, value=_ROUTES.body)
        await context.write(answer)
        while await context.read() is not grpc.aio.EOF:
            """Its acknowledgement, and no more."""
