"""The shell around the Reconciler: no change is lost, whatever becomes of the watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from meshagent.envoy.compile import Compiler
from meshagent.server.catalog import Catalog
from meshagent.server.lineage import open_lineage
from meshagent.server.loop import Behind, Loop
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import host_key
from meshagent.specs.keys import Key
from meshagent.store.base import Delete, Event, Put, StoreError
from meshagent.store.memory import MemoryStore
from meshagent.xds.cache import SnapshotCache
from tests.server.meshes import CATALOG, SHOP, WEB, host, specs

WEB_HOST = host("a", WEB)
WEB_ID = WEB_HOST.placements[0].id


class Shaky(MemoryStore):
    """Its watches can be broken off, and kept from beginning anew; its lists, too."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = asyncio.Event()
        self.lists_fail = 0

    async def list(self, prefix: str):  # type: ignore[no-untyped-def]
        if self.lists_fail and not prefix:
            self.lists_fail -= 1
            raise StoreError("the store is away")
        return await super().list(prefix)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:  # type: ignore[override]
        batches = super().watch(prefix, after)
        while True:
            following: asyncio.Task[Sequence[Event]] = asyncio.ensure_future(anext(batches))  # type: ignore[arg-type]
            breaking = asyncio.create_task(self.broken.wait())
            try:
                await asyncio.wait((following, breaking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                breaking.cancel()
                if not following.done():
                    following.cancel()
            if self.broken.is_set():
                self.broken.clear()
                raise StoreError("the watcher fell too far behind")
            yield following.result()


@asynccontextmanager
async def running(store: MemoryStore) -> AsyncIterator[tuple[Loop, SnapshotCache]]:
    await open_lineage(store)
    cache = SnapshotCache()
    loop = Loop(store, Reconciler(Compiler(), "mesh.local"), cache, time.monotonic)
    await loop.load()
    task = asyncio.create_task(loop.run())
    try:
        yield loop, cache
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def apply(store: MemoryStore, text: str = SHOP) -> int:
    return (await Catalog(store).apply(list(specs(text).values()), "test")).revision


async def test_what_was_there_is_loaded_and_what_comes_is_followed() -> None:
    store = MemoryStore()
    await apply(store)
    async with running(store) as (loop, cache):
        assert loop.reconciler.mesh.spec(Key.parse(WEB)) is not None
        await loop.reached(await store.commit([Put(host_key("a"), WEB_HOST.encode())]))
        assert cache.get(WEB_ID) is not None
        await loop.reached(await apply(store, SHOP.replace("prefix: /", "prefix: /v2")))
        assert cache.get(WEB_ID) is loop.reconciler.snapshot(WEB_ID)
        await loop.reached(await store.commit([Delete(host_key("a"))]))
        assert cache.get(WEB_ID) is None


async def test_a_lost_watch_loses_no_change() -> None:
    store = Shaky()
    await apply(store)
    await store.commit([Put(host_key("a"), WEB_HOST.encode())])
    async with running(store) as (loop, cache):
        store.lists_fail = 2
        store.broken.set()
        # While nobody watches: one host goes, another comes, a route changes.
        other = host("b", CATALOG, address="10.0.0.2")
        await store.commit([Delete(host_key("a")), Put(host_key("b"), other.encode())])
        revision = await apply(store, SHOP.replace("prefix: /", "prefix: /v2"))
        await loop.reached(revision, 15)
        assert cache.get(WEB_ID) is None
        assert cache.get(other.placements[0].id) is not None


async def test_a_damaged_record_changes_nothing_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    await apply(store)
    async with running(store) as (loop, cache):
        await loop.reached(await store.commit([Put(host_key("a"), WEB_HOST.encode())]))
        before = cache.get(WEB_ID)
        good = await store.get(f"config/{WEB}")
        assert good is not None
        await loop.reached(await store.commit([Put(host_key("a"), b"{"), Put(good.key, b'{"spec": 1}')]))
        assert cache.get(WEB_ID) is before
        await loop.reached(await store.commit([Put(good.key, good.value)]))
        await loop.reached(await apply(store, SHOP.replace("prefix: /", "prefix: /v2").replace("web.shop", "w.shop")))
        assert cache.get(WEB_ID) is not before
    assert "is passed over" in caplog.text


async def test_what_never_comes_is_said() -> None:
    async with running(MemoryStore()) as (loop, _):
        with pytest.raises(Behind, match="revision 99"):
            await loop.reached(99, 0.05)


async def test_configuration_that_cannot_be_read_is_not_taken_for_gone_at_the_start() -> None:
    store = MemoryStore()
    await apply(store)
    await store.commit([Put(f"config/{WEB}", b'{"spec": 1}')])
    with pytest.raises(StoreError, match=WEB):
        async with running(store):
            pass
