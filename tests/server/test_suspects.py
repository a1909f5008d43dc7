"""What the brake keeps outlives the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshagent.discovery.brake import Brake, Limits
from meshagent.envoy.compile import Compiler
from meshagent.server.catalog import Catalog
from meshagent.server.lineage import open_lineage
from meshagent.server.loop import Loop
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import SUSPECTS, encode_endpoint, endpoint_key, host_key
from meshagent.server.suspects import Suspects
from meshagent.specs.keys import Key
from meshagent.store.base import Change, Delete, Put, Store
from meshagent.store.sqlite import SqliteStore
from tests.server.meshes import CATALOG, host, lease, specs

HOSTS = [host(f"n{number}", CATALOG, address=f"10.1.0.{number}") for number in range(10)]
KEYS = [endpoint_key(one.host, one.placements[0].id) for one in HOSTS]
LIMITS = Limits(window=0.2, grace=0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Loop, Store]]:
    """A server, as far as endpoints go. Its clock stands still, so that nothing calms down by itself."""
    store = await SqliteStore.open(path)
    await open_lineage(store)
    loop = Loop(store, Reconciler(Compiler(), "mesh.local", Brake(LIMITS)), _Nowhere(), lambda: 100.0)  # type: ignore[arg-type]
    await loop.load()
    tasks = [asyncio.create_task(loop.run()), asyncio.create_task(Suspects(store, loop).run())]
    try:
        yield loop, store
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


class _Nowhere:
    def set(self, *_: object) -> None: ...

    def remove(self, *_: object) -> None: ...


def addresses(loop: Loop) -> set[str]:
    return {endpoint.address for endpoint in loop.reconciler.mesh.endpoints(Key.parse(CATALOG))}


async def kept(store: Store, number: int) -> None:
    async with asyncio.timeout(5):
        while True:
            found, _ = await store.list(SUSPECTS)
            if len(found) == number:
                return
            await asyncio.sleep(0.01)


async def test_d3_what_is_kept_against_its_leases_ends_is_kept_by_the_server_after_this_one(path: Path) -> None:
    async with serving(path) as (loop, store):
        await Catalog(store).apply(list(specs().values()), "test")
        there: list[Change] = [Put(host_key(one.host), one.encode()) for one in HOSTS]
        there += [Put(key, encode_endpoint(lease(one))) for key, one in zip(KEYS, HOSTS, strict=True)]
        await loop.reached(await store.commit(there))
        await loop.reached(await store.commit([Delete(key) for key in KEYS[:7]]))
        assert len(addresses(loop)) == 10 and loop.reconciler.book.brake.braking
        await kept(store, 7)
    async with serving(path) as (loop, store):
        assert len(addresses(loop)) == 10
        assert len(loop.reconciler.book.brake.suspects) == 7
        # One speaks again, one is removed: neither is kept any longer, and of both nothing is left.
        back = Put(KEYS[0], encode_endpoint(lease(HOSTS[0])))
        await loop.reached(await store.commit([back, Delete(host_key("n1"))]))
        assert addresses(loop) == {f"10.1.0.{number}" for number in range(10) if number != 1}
        await kept(store, 5)
    async with serving(path) as (loop, store):
        assert set(loop.reconciler.book.brake.suspects) == {one.placements[0].id for one in HOSTS[2:7]}


async def test_what_was_kept_goes_when_few_stay_away(path: Path) -> None:
    async with serving(path) as (loop, store):
        loop._clock = asyncio.get_running_loop().time
        await Catalog(store).apply(list(specs().values()), "test")
        there: list[Change] = [Put(host_key(one.host), one.encode()) for one in HOSTS]
        there += [Put(key, encode_endpoint(lease(one))) for key, one in zip(KEYS, HOSTS, strict=True)]
        await loop.reached(await store.commit(there))
        await loop.reached(await store.commit([Delete(key) for key in KEYS[:7]]))
        await kept(store, 7)
        await loop.reached(
            await store.commit(
                [Put(key, encode_endpoint(lease(one))) for key, one in list(zip(KEYS, HOSTS, strict=True))[:5]]
            )
        )
        await kept(store, 0)
        assert len(addresses(loop)) == 8
