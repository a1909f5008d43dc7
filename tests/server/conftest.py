"""The service that hosts connect to, and a host that it knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from meshagent.envoy.compile import Compiler
from meshagent.identity.authority import Authority
from meshagent.server.lineage import open_lineage
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import HostRecord
from meshagent.store.memory import MemoryStore
from meshagent.xds.cache import SnapshotCache
from tests.server.hosting import Clock, Hosts, Meddled


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    store = MemoryStore()
    await open_lineage(store)
    loop = Meddled(store, Reconciler(Compiler(), "td"), SnapshotCache(), time.monotonic)
    await loop.load()
    clock = Clock()
    found = Hosts(store, await Authority.open(store, "td", clock), clock, loop)
    running = asyncio.create_task(loop.run())
    await found.edit(lambda _: HostRecord("a", ("mesh/shop/*",)))
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
