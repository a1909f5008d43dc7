"""What hosts' streams leave in the store: nothing of a host that was removed, and no old token that lets it in again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from meshagent.identity import tokens
from meshagent.identity.errors import TokenRefused
from meshagent.identity.tokens import TokenRecord, Use
from meshagent.protocol import host_pb2
from meshagent.server.operations import joined
from meshagent.server.records import ENDPOINTS, HostRecord, host_key
from meshagent.server.registry import HostGone, Vouching, delete_host, edit_host, read_host
from meshagent.store.base import Change, Delete, Put, StoreError
from meshagent.store.memory import MemoryStore
from tests.server.meshes import CATALOG, WEB, host

RECORD = host("a", WEB)
HEALTHY = [host_pb2.PlacementStatus(id=RECORD.placements[0].id, health=host_pb2.HEALTHY)]


async def vouched(store: MemoryStore) -> Vouching:
    await store.commit([Put(host_key("a"), RECORD.encode())])
    vouching = Vouching(store, RECORD, 10.0)
    await vouching.open()
    return vouching


async def next_stream(store: MemoryStore, life: float) -> Vouching:
    record = await read_host(store, "a")
    assert record is not None
    return Vouching(store, record, life)


async def endpoints(store: MemoryStore) -> int:
    return len((await store.list(ENDPOINTS))[0])


async def test_a_removed_host_leaves_no_endpoint_and_no_lease() -> None:
    store = MemoryStore()
    vouching = await vouched(store)
    await vouching.register(RECORD, HEALTHY)
    assert await endpoints(store) == 1
    assert await delete_host(store, "a")
    assert await endpoints(store) == 0
    # Its stream has not ended yet, and reports once more.
    with pytest.raises(HostGone):
        await vouching.renew()
    await vouching.register(RECORD, [host_pb2.PlacementStatus(id=HEALTHY[0].id, health=host_pb2.UNHEALTHY)])
    assert await endpoints(store) == 0
    assert not store._leases
    await store.close()


async def test_a_report_that_is_on_its_way_while_the_record_goes_writes_nothing() -> None:
    store = MemoryStore()
    vouching = await vouched(store)
    # The lease still stands: only the record is gone so far.
    await store.commit([Delete(host_key("a"))])
    await vouching.register(RECORD, HEALTHY)
    assert await endpoints(store) == 0
    await store.close()


async def test_a_placement_that_another_stream_gave_up_is_no_endpoint() -> None:
    store = MemoryStore()
    vouching = await vouched(store)
    await edit_host(store, "a", lambda record: replace(record, placements=()))
    await vouching.register(RECORD, HEALTHY)
    assert await endpoints(store) == 0
    await store.close()


@pytest.mark.parametrize("life", [4.0, 60.0])
async def test_a_lease_of_another_life_is_followed_by_one_of_the_life_that_agents_are_told_of(life: float) -> None:
    """As after a restart of the server with another --lease-seconds. Nothing leaves on the way, and the agent need not have probed."""
    moment = 0.0
    store = MemoryStore(clock=lambda: moment)
    former = await vouched(store)
    await former.register(RECORD, HEALTHY)
    vouching = await next_stream(store, life)
    await vouching.open()
    assert await endpoints(store) == 1
    record = await read_host(store, "a")
    assert record is not None and record.lease == vouching.lease != former.lease
    before = await store.revision()
    await vouching.register(RECORD, HEALTHY)
    assert await store.revision() == before, "it is registered already"
    moment = life - 1
    await store.sweep()
    assert await endpoints(store) == 1
    moment = life + 1
    await store.sweep()
    assert await endpoints(store) == 0
    await store.close()


class FullForOneCommit(MemoryStore):
    left = -1

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        self.left -= 1
        if self.left == 0:
            raise StoreError("the disk is full")
        return await super().commit(changes, expect)


@pytest.mark.parametrize("commit", [1, 2])
async def test_a_change_of_leases_that_a_full_disk_cuts_off_is_completed(commit: int) -> None:
    moment = 0.0
    store = FullForOneCommit(clock=lambda: moment)
    former = await vouched(store)
    await former.register(RECORD, HEALTHY)
    store.left = commit
    for refused in (True, False):
        vouching = await next_stream(store, 60.0)
        with pytest.raises(StoreError) if refused else contextlib.nullcontext():
            await vouching.open()
    moment = 20.0  # the former lease is over
    await store.sweep()
    assert await endpoints(store) == 1
    await store.close()


async def test_a_lease_that_stands_goes_on_with_the_next_stream() -> None:
    store = MemoryStore()
    former = await vouched(store)
    await former.register(RECORD, HEALTHY)
    before = await store.revision()
    vouching = await next_stream(store, 10.0)
    await vouching.open()
    await vouching.register(RECORD, HEALTHY)
    assert (vouching.lease, await store.revision()) == (former.lease, before)
    await store.close()


class Meddled(MemoryStore):
    """Somebody else writes the host's record just before the first conditional commit."""

    meddle = False

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        if expect and self.meddle:
            self.meddle = False
            await edit_host(self, "a", lambda record: record.accepted())
        return await super().commit(changes, expect)


async def test_a_report_is_written_at_once_although_the_record_changes_under_it() -> None:
    store = Meddled()
    vouching = await vouched(store)
    store.meddle = True
    await vouching.register(RECORD, HEALTHY)
    assert await endpoints(store) == 1
    record = await read_host(store, "a")
    assert record is not None and record.accept and record.placements[0].leased
    await store.close()


async def test_a_removed_hosts_used_tokens_let_it_in_no_more() -> None:
    store = MemoryStore()
    await vouched(store)
    token, _ = await tokens.create(store, ["s:1"], "0" * 64, [WEB], 60.0, 0.0)
    other, _ = await tokens.create(store, ["s:1"], "0" * 64, [WEB], 60.0, 0.0)
    await tokens.redeem(store, token.id, token.secret, "a", "key", 1.0)
    await tokens.redeem(store, other.id, other.secret, "b", "key", 1.0)
    await delete_host(store, "a")
    with pytest.raises(TokenRefused):
        await tokens.redeem(store, token.id, token.secret, "a", "key", 2.0)
    await tokens.redeem(store, other.id, other.secret, "b", "key", 2.0)
    await store.close()


def token_for(id_: str, *placements: str, used: float) -> TokenRecord:
    return TokenRecord(id_, "", placements, None, 1e9, Use("a", "key", used))


def test_who_joins_under_a_known_hosts_name_gets_nothing_of_what_it_ran() -> None:
    old = replace(host("a", WEB, CATALOG), token="t1", joined=100)
    taken = joined(old, token_for("t2", CATALOG, used=200.0), 200.0)
    assert [one.resource for one in taken.placements] == [CATALOG]
    assert taken.allowed == (CATALOG,)


def test_an_older_token_does_not_bring_old_rights_back() -> None:
    first, second = token_for("t1", "mesh/shop/*", used=100.0), token_for("t2", WEB, used=200.0)
    record = joined(joined(HostRecord("a"), first, 100.0), second, 200.0)
    with pytest.raises(TokenRefused, match="newer token"):
        joined(record, first, 300.0)
    assert joined(record, second, 300.0) is record  # the reply was lost
    # A new token works although the clock was set back since.
    assert joined(record, token_for("t3", WEB, used=50.0), 50.0).token == "t3"
