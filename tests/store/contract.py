"""What every Store does. An implementation's test module subclasses Contract and gives the fixture `harness`.

`Harness.advance` lets the leases' clock go on and returns when what is overdue has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from meshagent.store.base import Change, Conflict, Delete, Event, LeaseGone, Put, Store, StoreError

DEADLINE = 5.0


@dataclass
class Harness:
    store: Store
    advance: Callable[[float], Awaitable[None]]


async def following(watch: AsyncIterator[Sequence[Event]]) -> list[tuple[str, bytes | None, int]]:
    """The next batch, as (key, value, revision)."""
    events = await asyncio.wait_for(anext(watch), DEADLINE)
    return [(event.key, event.entry.value if event.entry else None, event.revision) for event in events]


async def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in (await store.list(prefix))[0]]


class Contract:
    async def test_put_get_and_revisions(self, harness: Harness) -> None:
        store = harness.store
        start = await store.revision()
        first = await store.commit([Put("a", b"1"), Put("b", b"2")])
        second = await store.commit([Put("a", b"3")])
        assert start < first < second == await store.revision()
        entry = await store.get("a")
        assert entry is not None
        assert (entry.key, entry.value, entry.created, entry.revision, entry.lease) == ("a", b"3", first, second, 0)
        assert await store.get("c") is None

    async def test_a_key_that_is_deleted_and_made_again_is_new(self, harness: Harness) -> None:
        store = harness.store
        await store.commit([Put("a", b"1")])
        deleted = await store.commit([Delete("a")])
        assert await store.get("a") is None
        again = await store.commit([Put("a", b"2")])
        entry = await store.get("a")
        assert entry is not None and deleted < again == entry.created == entry.revision

    async def test_list_is_ordered_by_key_and_bounded_by_prefix(self, harness: Harness) -> None:
        store = harness.store
        names = ["c/ü", "c/z", "c", "c/", "b/x", "d", "c/a/b", "c/A", "c/\U0001f600"]
        await store.commit([Put(name, name.encode()) for name in names])
        entries, revision = await store.list("c/")
        assert [entry.key for entry in entries] == ["c/", "c/A", "c/a/b", "c/z", "c/ü", "c/\U0001f600"]
        assert revision == await store.revision()
        assert await keys(store) == sorted(names)
        assert await store.list("nothing") == ((), revision)

    async def test_changes_that_alter_nothing_make_no_revision(self, harness: Harness) -> None:
        store = harness.store
        await store.commit([Put("a", b"1")])
        revision = await store.revision()
        assert await store.commit([Delete("absent")]) == revision
        assert await store.commit([]) == revision
        assert await store.revision() == revision
        assert await store.commit([Put("a", b"1")]) > revision

    async def test_compare_and_swap(self, harness: Harness) -> None:
        store = harness.store
        first = await store.commit([Put("a", b"1")], {"a": 0})
        second = await store.commit([Put("a", b"2")], {"a": first, "other": 0})
        with pytest.raises(Conflict) as conflict:
            await store.commit([Put("a", b"3"), Put("b", b"3"), Delete("c")], {"other": 0, "a": first})
        assert (conflict.value.key, conflict.value.expected, conflict.value.found) == ("a", first, second)
        with pytest.raises(Conflict):
            await store.commit([Delete("a")], {"a": 0})
        assert await store.revision() == second
        assert await keys(store) == ["a"]
        assert await store.commit([Delete("a")], {"a": second}) > second

    async def test_expectations_also_guard_keys_that_do_not_change(self, harness: Harness) -> None:
        store = harness.store
        guard = await store.commit([Put("guard", b"")])
        await store.commit([Put("a", b"1")], {"guard": guard})
        await store.commit([Put("guard", b"")])
        with pytest.raises(Conflict):
            await store.commit([Put("a", b"2")], {"guard": guard})

    @pytest.mark.parametrize("changes", [[Put("a", b""), Delete("a")], [Put("", b"")], [Put("\ud800", b"")]])
    async def test_changes_that_no_store_takes(self, harness: Harness, changes: list[Change]) -> None:
        with pytest.raises(ValueError):
            await harness.store.commit([Put("before", b""), *changes])
        assert await keys(harness.store) == []

    async def test_one_of_many_that_race_wins(self, harness: Harness) -> None:
        store = harness.store
        results = await asyncio.gather(
            *(store.commit([Put("a", b"%d" % n)], {"a": 0}) for n in range(8)), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 7 + ["int"]

    async def test_watch_from_the_past_and_live(self, harness: Harness) -> None:
        store = harness.store
        before = await store.commit([Put("a/0", b"0")])
        first = await store.commit([Put("a/1", b"1"), Put("b/1", b"1"), Put("a/2", b"2")])
        await store.commit([Put("b/2", b"2")])
        watch = store.watch("a/", before)
        assert await following(watch) == [("a/1", b"1", first), ("a/2", b"2", first)]
        live = asyncio.create_task(following(watch))
        await store.commit([Put("b/3", b"3")])
        second = await store.commit([Delete("a/1"), Put("a/0", b"4")])
        third = await store.commit([Delete("a/0")])
        assert await live == [("a/1", None, second), ("a/0", b"4", second)]
        assert await following(watch) == [("a/0", None, third)]

    async def test_watchers_do_not_disturb_each_other(self, harness: Harness) -> None:
        store = harness.store
        first, second = store.watch("", 0), store.watch("", 0)
        waiting = asyncio.create_task(following(first))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        revision = await store.commit([Put("a", b"1")])
        assert await following(second) == [("a", b"1", revision)]

    async def test_a_wait_that_is_cancelled_loses_nothing(self, harness: Harness) -> None:
        watch = harness.store.watch("", await harness.store.revision())
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 0.01)
        revision = await harness.store.commit([Put("a", b"1")])
        assert await following(watch) == [("a", b"1", revision)]

    async def test_a_watch_of_what_the_store_has_not_reached_is_refused(self, harness: Harness) -> None:
        with pytest.raises(StoreError, match="list again"):
            await following(harness.store.watch("", await harness.store.revision() + 1))

    async def test_a_lease_takes_its_keys_with_it_as_one_revision(self, harness: Harness) -> None:
        store = harness.store
        lease = await store.grant(10)
        put = await store.commit([Put("e/1", b"", lease), Put("e/2", b"", lease), Put("f", b"")])
        entry = await store.get("e/1")
        assert entry is not None and entry.lease == lease
        watch = store.watch("e/", put)
        await harness.advance(9)
        assert await keys(store) == ["e/1", "e/2", "f"]
        await harness.advance(2)
        assert await keys(store) == ["f"]
        ended = await store.revision()
        assert sorted(await following(watch)) == [("e/1", None, ended), ("e/2", None, ended)]
        assert ended == put + 1

    async def test_keepalive_gives_a_full_life_and_makes_no_revision(self, harness: Harness) -> None:
        store = harness.store
        lease = await store.grant(10)
        revision = await store.commit([Put("e", b"", lease)])
        for _ in range(5):
            await harness.advance(8)
            assert await store.keepalive(lease) == 10
        assert await store.revision() == revision
        await harness.advance(11)
        assert await keys(store) == []
        with pytest.raises(LeaseGone):
            await store.keepalive(lease)
        with pytest.raises(LeaseGone):
            await store.commit([Put("e", b"", lease)])
        with pytest.raises(LeaseGone):
            await store.keepalive(4711)

    async def test_revoke(self, harness: Harness) -> None:
        store = harness.store
        lease = await store.grant(10)
        await store.commit([Put("e", b"", lease)])
        await store.revoke(lease)
        await store.revoke(lease)
        assert await keys(store) == []
        with pytest.raises(LeaseGone):
            await store.keepalive(lease)

    async def test_a_key_goes_by_its_last_lease(self, harness: Harness) -> None:
        store = harness.store
        first, second = await store.grant(10), await store.grant(30)
        await store.commit([Put("moved", b"", first), Put("kept", b"", first)])
        await store.commit([Put("moved", b"", second), Put("kept", b"")])
        revision = await store.revision()
        await harness.advance(11)
        assert await keys(store) == ["kept", "moved"]
        assert await store.revision() == revision
        await harness.advance(30)
        assert await keys(store) == ["kept"]

    async def test_leases_have_ids_of_their_own(self, harness: Harness) -> None:
        leases = [await harness.store.grant(10) for _ in range(5)]
        await harness.store.revoke(leases[4])
        leases.append(await harness.store.grant(10))
        assert len(set(leases)) == 6 and 0 not in leases

    async def test_a_cancelled_commit_is_whole_or_nothing(self, harness: Harness) -> None:
        store = harness.store
        commit = asyncio.create_task(store.commit([Put("a", b"1"), Put("b", b"1")]))
        await asyncio.sleep(0)
        commit.cancel()
        await asyncio.gather(commit, return_exceptions=True)
        after = await store.commit([Put("c", b"1")])
        assert await keys(store) in (["a", "b", "c"], ["c"])
        entry = await store.get("c")
        assert entry is not None and entry.revision == after

    async def test_a_closed_store_says_so(self, harness: Harness) -> None:
        store = harness.store
        watch = asyncio.create_task(following(store.watch("", 0)))
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        with pytest.raises(StoreError, match="closed"):
            await watch
        with pytest.raises(StoreError, match="closed"):
            await store.get("a")
        with pytest.raises(StoreError, match="closed"):
            await store.commit([Put("a", b"")])
