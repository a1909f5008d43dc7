"""The memory store, and what the embedded stores share beyond the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings

from meshagent.store.base import Change, Entry, Put, StoreError
from meshagent.store.memory import MemoryStore
from meshagent.store.table import Table
from tests.store.clock import FakeClock
from tests.store.contract import Contract, Harness, following, keys
from tests.store.model import COMMITS, follow_a_model, run


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    clock = FakeClock()
    store = MemoryStore(clock)

    async def advance(seconds: float) -> None:
        clock.now += seconds
        await store.sweep()

    yield Harness(store, advance)
    await store.close()


class TestMemory(Contract):
    pass


async def test_a_slow_watcher_lists_again_and_a_quick_one_goes_on() -> None:
    store = MemoryStore(history=10)
    slow, quick = store.watch("", 0), store.watch("", 0)
    for number in range(30):
        revision = await store.commit([Put(f"k/{number}", b"")])
        assert await following(quick) == [(f"k/{number}", b"", revision)]
    with pytest.raises(StoreError, match="list again"):
        await following(slow)
    assert await following(store.watch("", 20)) == [("k/20", b"", 21)]
    with pytest.raises(StoreError, match="follows revision 19"):
        await following(store.watch("", 19))
    await store.close()


async def test_one_batch_greater_than_the_history_still_reaches_watchers() -> None:
    store = MemoryStore(history=10)
    watch = store.watch("", 0)
    await store.commit([Put(f"k/{number:02}", b"") for number in range(50)])
    assert len(await following(watch)) == 50
    await store.close()


async def test_overdue_leases_end_by_themselves() -> None:
    store = MemoryStore()
    lease = await store.grant(0.05)
    revision = await store.commit([Put("e", b"", lease)])
    assert await following(store.watch("e", revision)) == [("e", None, revision + 1)]
    await store.close()


async def test_time_in_which_the_store_was_held_up_is_nobodys_silence() -> None:
    """A server that was stopped for longer than a lease's life does not take every endpoint away when it goes on."""
    clock = FakeClock()
    store = MemoryStore(clock)
    lease = await store.grant(10)
    await store.commit([Put("e", b"", lease)])
    clock.now += 60
    await store._sweep_late(60)
    assert await keys(store) == ["e"]
    await store.keepalive(lease)
    await store.close()


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
async def test_a_lease_needs_a_life(ttl: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        await MemoryStore().grant(ttl)


@settings(max_examples=60)
@given(COMMITS)
def test_any_sequence_of_commits_is_what_a_plain_dict_says(commits: list[tuple[list[Change], dict[str, int]]]) -> None:
    run(follow_a_model(MemoryStore(), commits))


def test_a_table_knows_the_keys_of_leases_that_it_was_loaded_with() -> None:
    table = Table([Entry("e/1", b"", 3, 3, lease=7), Entry("f", b"", 4, 4)], revision=5)
    batch = table.end({7})
    assert [event.key for event in batch.events] == ["e/1"]
    assert batch.revision == 6
    table.apply(batch)
    assert [entry.key for entry in table.list("")] == ["f"]
