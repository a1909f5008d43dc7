"""One generation's side of a relay: its socket, its stream, the snapshot that it is served. Two generations at once have a face each, and
neither hears of what the other one says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import grpc

from meshagent.agent import cache
from meshagent.agent.gate import Gate
from meshagent.errors import MeshagentError
from meshagent.host.files import make_directory
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.messages import Rejection
from meshagent.xds.server import AdsService
from meshagent.xds.snapshot import Snapshot
from meshagent.xds.stream import AdsStream

_LARGEST_MESSAGE = 64 << 20
_OPTIONS = [
    # Envoy asks every 30 s whether we are there, stream or no stream.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
]


class RelayError(MeshagentError):
    """The socket towards Envoy cannot be had."""


class Face:
    """`spoke` is called after everything that this generation says, `opened` when it begins to. Behind its closed `gate` it takes no
    connection."""

    def __init__(self, id: str, spoke: Callable[[Face], None], began: Callable[[Face], None]) -> None:  # noqa: A002
        self.id = id
        self.stream: AdsStream | None = None
        self.gate = Gate()
        self._spoke, self._began = spoke, began
        self._snapshots = SnapshotCache()
        self._service = AdsService(self._snapshots, lambda context, node: id, self)

    def offer(self, snapshot: Snapshot) -> None:
        self._snapshots.set(self.id, snapshot)

    @property
    def offered(self) -> Snapshot | None:
        return self._snapshots.get(self.id)

    @property
    def in_sync(self) -> bool:
        """It has answered all that it was offered."""
        stream, offered = self.stream, self.offered
        return offered is not None and stream is not None and stream.target is offered and stream.synced

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        return self.stream.rejected if self.stream else ()

    @property
    def refusals(self) -> cache.Refusals:
        return cache.refusals(self.rejected)

    async def serve(self, socket: Path, owner: int | None) -> None:
        """Serves Envoy on `socket`, for ever; `owner` is the user's id that Envoy runs under, None for our own."""
        make_directory(socket.parent, owner=owner)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._service.handlers(), self.gate.handlers()))
        try:
            server.add_insecure_port(f"unix:{socket}")
            if owner is not None:
                # The directory is that user's, too: what it may have put in the place of the socket is not followed.
                os.chown(socket, owner, -1, follow_symlinks=False)
        except (RuntimeError, OSError) as error:
            raise RelayError(f"cannot listen on {socket}: {error}") from error
        await server.start()
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop(None)

    # What the service tells of its streams.

    def opened(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self.stream = stream
        self._began(self)

    def changed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        if stream is self.stream:
            self._spoke(self)

    def closed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        if stream is self.stream:
            self.stream = None
