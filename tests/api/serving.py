"""The API on loopback, over a catalog in a memory store, in a thread of its own: for clients that block, such as boto3."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError

import uvicorn
from starlette.applications import Starlette

from meshagent.api import appmesh, documents
from meshagent.api.access import AccessKeys
from meshagent.server.catalog import Catalog
from meshagent.store.memory import MemoryStore

DEADLINE = 10.0


@dataclass
class Api:
    url: str
    catalog: Catalog
    gate: list[str]
    previewed: list[Sequence[Any]] = field(default_factory=list)

    def reset(self) -> None:
        """As at the first start."""
        self.gate.clear()
        self.previewed.clear()
        self.catalog._store = MemoryStore()
        self.catalog._decoded = {}

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON. A body of bytes goes as it is."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers or {}, method=method)  # noqa: S310 ours
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                answered = json.load(error)
                assert error.headers["x-amzn-ErrorType"] == answered["code"]
                return error.code, answered


@contextmanager
def serving(keys: Mapping[str, str] | None = None) -> Iterator[Api]:
    """With `keys`, ids and secrets, every request must be signed."""
    # IPPROTO_TCP by name: asyncio switches Nagle's algorithm off only for sockets that say so, and each answer costs 40 ms more with it.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    gate: list[str] = []
    catalog = Catalog(MemoryStore(), write_gate=lambda: "; ".join(gate))
    api = Api(f"http://127.0.0.1:{listening.getsockname()[1]}", catalog, gate)

    def preview(changes: Sequence[Any]) -> list[dict[str, Any]]:
        api.previewed.append(changes)
        return [{"proxy": "p1", "change": "changed"}]

    routes = [*appmesh.routes(catalog), *documents.routes(catalog, preview=preview)]
    app: Any = Starlette(routes=list(routes))
    config = uvicorn.Config(AccessKeys(app, keys.get) if keys else app, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        listening.close()
        assert not thread.is_alive()
