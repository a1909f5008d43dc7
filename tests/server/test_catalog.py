"""Configuration in the store: what is written, what is allocated, what happens when two write at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from meshagent.api.changes import Change as Planned
from meshagent.api.changes import ChangeKind, Metadata, Record, plan, plan_deletion
from meshagent.api.errors import (
    BadRequestException,
    ConflictException,
    LimitExceededException,
    NotFoundException,
    ResourceInUseException,
    ServiceUnavailableException,
)
from meshagent.server import catalog as catalog_module
from meshagent.server.catalog import Catalog, load
from meshagent.server.configrecords import decode, decode_index, decode_record, encode, index_key
from meshagent.specs.keys import (
    Key,
    Kind,
    gateway_key,
    gateway_route_key,
    mesh_key,
    node_key,
    route_key,
    router_key,
    service_key,
)
from meshagent.specs.spec import MODELS, Source, Spec
from meshagent.store.base import Change, Entry, Put, StoreError
from meshagent.store.memory import MemoryStore

MESH, WEB, ROUTER = mesh_key("shop"), node_key("shop", "web"), router_key("shop", "r")
ROUTE, SERVICE = route_key("shop", "r", "x"), service_key("shop", "web.local")


def spec(key: Key, wire: dict[str, Any] | None = None, source: str = "") -> Spec:
    return Spec(key, MODELS[key.kind].model_validate(wire or {}), Source(source, 1 if source else 0))


def target(*nodes: str, route: str = "httpRoute") -> dict[str, Any]:
    match = {"httpRoute": {"prefix": "/"}, "http2Route": {"prefix": "/"}, "grpcRoute": {}}
    action = {"weightedTargets": [{"virtualNode": node, "weight": 1} for node in nodes]}
    return {route: {"action": action, **({"match": match[route]} if route in match else {})}}


def provider(kind: str, name: str) -> dict[str, Any]:
    return {"provider": {kind: {f"{kind}Name": name}}}


def gateway_target(service: str) -> dict[str, Any]:
    action = {"target": {"virtualService": {"virtualServiceName": service}}}
    return {"httpRoute": {"match": {"prefix": "/"}, "action": action}}


def records(*specs: Spec) -> dict[Key, Record]:
    metadata = Metadata("u", 1, 0.0, 0.0, "0" * 12, "0" * 12)
    return {one.key: Record(one, metadata) for one in specs}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.5

    def __call__(self) -> float:
        return self.now


class Fixture:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = Clock()
        self.catalog = Catalog(self.store, now=self.clock, account="123456789012")

    async def json(self, key: str) -> Any:
        entry = await self.store.get(key)
        return json.loads(entry.value) if entry else None


@pytest.fixture
async def at() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    yield fixture
    await fixture.store.close()


# --- what would change ---


def test_a_plan_says_what_becomes_of_each_document_in_order_of_dependence() -> None:
    current = records(spec(MESH), spec(WEB), spec(ROUTER))
    documents = [
        spec(SERVICE, provider("virtualRouter", "r")),
        spec(ROUTE, target("web")),
        spec(ROUTER, source="elsewhere.yaml"),
        spec(WEB, {"listeners": [{"portMapping": {"port": 1, "protocol": "tcp"}}]}),
    ]
    changes = plan(current, documents)
    assert [(change.key, change.kind) for change in changes] == [
        (WEB, ChangeKind.UPDATE),
        (ROUTER, ChangeKind.NONE),
        (ROUTE, ChangeKind.CREATE),
        (SERVICE, ChangeKind.CREATE),
    ]
    assert changes[0].before == current[WEB].spec and changes[0].after == documents[3]


def test_a_plan_names_every_document_without_a_parent() -> None:
    with pytest.raises(NotFoundException) as refusal:
        plan({}, [spec(WEB, source="a.yaml"), spec(ROUTE, target("web")), spec(mesh_key("other"))])
    assert [(fault.resource, fault.path, fault.file) for fault in refusal.value.faults] == [
        (WEB.path, "meshName", "a.yaml"),
        (ROUTE.path, "virtualRouterName", ""),
    ]
    with pytest.raises(BadRequestException, match="twice"):
        plan({}, [spec(MESH), spec(MESH)])


USERS: list[tuple[Key, Spec]] = [
    (WEB, spec(SERVICE, provider("virtualNode", "web"))),
    (ROUTER, spec(SERVICE, provider("virtualRouter", "r"))),
    (ROUTER, spec(ROUTE, target("web"))),
    (SERVICE, spec(gateway_route_key("shop", "g", "x"), gateway_target("web.local"))),
    (gateway_key("shop", "g"), spec(gateway_route_key("shop", "g", "x"), gateway_target("web.local"))),
    (MESH, spec(WEB)),
    (MESH, spec(ROUTE, target("web"))),
    *[
        (WEB, spec(ROUTE, target("other", "web", route=route)))
        for route in ("httpRoute", "http2Route", "grpcRoute", "tcpRoute")
    ],
]


@pytest.mark.parametrize(("used", "user"), USERS)
def test_what_is_used_is_not_deleted(used: Key, user: Spec) -> None:
    empty: dict[str, Any] = {"listeners": []} if used.kind is Kind.VIRTUAL_GATEWAY else {}
    present = records(spec(used, empty), user)
    with pytest.raises(ResourceInUseException, match=user.key.path):
        plan_deletion(present, used)
    del present[user.key]
    assert plan_deletion(present, used) == (Planned(used, ChangeKind.DELETE, present[used].spec, None),)


def test_names_that_are_alike_in_other_meshes_or_kinds_use_nothing() -> None:
    elsewhere = spec(service_key("other", "web.local"), provider("virtualNode", "web"))
    alike = spec(SERVICE, provider("virtualRouter", "web"))
    backend = {"backends": [{"virtualService": {"virtualServiceName": "web.local"}}]}
    present = records(spec(WEB), elsewhere, alike, spec(node_key("shop", "caller"), backend))
    assert len(plan_deletion(present, WEB)) == 1
    assert len(plan_deletion(present, SERVICE)) == 1


# --- what is written ---


async def test_records_are_kept_as_they_were_written(at: Fixture) -> None:
    await at.catalog.create(spec(MESH), "MAKME")
    record = await at.catalog.create(
        spec(WEB, {"backends": []}, "mesh.yaml"), "MAKME", (("team", "shop"), ("empty", "")), "token-1"
    )
    assert record.metadata.mesh_owner == record.metadata.resource_owner == "123456789012"
    assert record.metadata.created_at == record.metadata.last_updated_at == 1000.5
    stored = await at.json("config/mesh/shop/virtualNode/web")
    assert stored["spec"] == {"backends": []}
    assert stored["source"] == {"file": "mesh.yaml", "line": 1}
    assert stored["tags"] == [{"key": "team", "value": "shop"}, {"key": "empty", "value": ""}]
    assert stored["clientToken"] == "token-1"
    entry = await at.store.get("config/mesh/shop/virtualNode/web")
    assert entry is not None and decode_record(entry) == record
    assert decode(entry) == record.spec and decode(entry).source == Source("mesh.yaml", 1)
    assert await at.catalog.record(WEB) == record
    assert (await at.json("meta/configuration"))["by"] == "MAKME"

    at.clock.now = 900.0
    updated = await at.catalog.update(spec(WEB), "MAKYOU")
    assert updated.metadata.version == 2
    assert updated.metadata.last_updated_at == 1000.5
    assert updated.metadata.uid == record.metadata.uid
    assert updated.tags == record.tags


async def test_a_deletion_leaves_a_note_until_the_resource_is_made_again(at: Fixture) -> None:
    await at.catalog.create(spec(MESH), "")
    first = await at.catalog.create(spec(WEB), "MAKME")
    at.clock.now = 2000.0
    gone, written = await at.catalog.delete(WEB, "MAKYOU")
    assert gone == first
    assert written.revision == first.revision + 1
    assert WEB not in written.records
    assert await at.json("config/mesh/shop/virtualNode/web") is None
    note = await at.json("deleted/mesh/shop/virtualNode/web")
    assert note == {"by": "MAKYOU", "at": 2000.0, "revision": first.revision}
    again = await at.catalog.create(spec(WEB), "MAKME")
    assert await at.json("deleted/mesh/shop/virtualNode/web") is None
    assert again.metadata.version == 1 and again.metadata.uid != first.metadata.uid


async def test_what_is_unchanged_makes_no_write(at: Fixture) -> None:
    await at.catalog.apply([spec(MESH), spec(WEB), spec(ROUTER)], "me")
    revision = await at.store.revision()
    written = await at.catalog.apply([spec(MESH), spec(WEB), spec(ROUTER, source="elsewhere.yaml")], "me")
    assert written.revision == revision == await at.store.revision()
    again = await at.catalog.update(spec(WEB), "me")
    assert (await at.catalog.create(spec(WEB), "me")) == again
    assert await at.store.revision() == revision
    changed = await at.catalog.apply([spec(MESH), spec(WEB, {"backends": []}), spec(ROUTER)], "me")
    assert changed.revision == revision + 1
    assert changed.records[WEB].revision == revision + 1
    assert changed.records[MESH].revision < revision + 1


async def test_a_refused_document_leaves_all_of_them_unwritten(at: Fixture) -> None:
    with pytest.raises(NotFoundException):
        await at.catalog.apply([spec(MESH), spec(ROUTE, target("web"))], "me")
    assert await at.store.revision() == 0


async def test_create_and_update_of_what_is_there_and_what_is_not(at: Fixture) -> None:
    with pytest.raises(NotFoundException, match="mesh/shop does not exist"):
        await at.catalog.create(spec(WEB), "me")
    with pytest.raises(NotFoundException):
        await at.catalog.update(spec(MESH), "me")
    with pytest.raises(NotFoundException):
        await at.catalog.delete(MESH, "me")
    with pytest.raises(NotFoundException):
        await at.catalog.record(MESH)
    await at.catalog.create(spec(MESH), "me")
    with pytest.raises(ConflictException):
        await at.catalog.create(spec(MESH, {"egressFilter": {"type": "ALLOW_ALL"}}), "me")


# --- address indexes ---


async def test_a_services_index_is_allocated_once_and_never_anothers(at: Fixture) -> None:
    first, second, third = (service_key(mesh, name) for mesh, name in (("shop", "a"), ("other", "b/c"), ("shop", "d")))
    await at.catalog.apply([spec(MESH), spec(mesh_key("other")), spec(first), spec(second)], "me")
    before = (await load(at.store)).indexes
    assert sorted(before.values()) == [1, 2]
    await at.catalog.delete(first, "me")
    await at.catalog.delete(second, "me")
    await at.catalog.apply([spec(third)], "me")
    await at.catalog.apply([spec(first)], "me")
    assert (await load(at.store)).indexes == {**before, third: 3}


async def test_when_every_index_was_given_out(at: Fixture) -> None:
    last = service_key("shop", "last")
    await at.store.commit([Put(index_key(last), b'{"index": 65535}')])
    await at.catalog.create(spec(MESH), "me")
    await at.catalog.create(spec(last), "me")
    with pytest.raises(LimitExceededException, match="65535"):
        await at.catalog.create(spec(service_key("shop", "more")), "me")


# --- reading ---


async def test_load_gives_everything_and_the_revision_to_watch_from(at: Fixture) -> None:
    assert await load(at.store) == catalog_module.Loaded((), {}, 0)
    await at.catalog.apply([spec(MESH), spec(WEB), spec(SERVICE)], "me")
    loaded = await load(at.store)
    assert {one.key for one in loaded.specs} == {MESH, WEB, SERVICE}
    assert (dict(loaded.indexes), loaded.revision) == ({SERVICE: 1}, 1)
    watch = at.store.watch("config/", loaded.revision)
    await at.catalog.update(spec(WEB, {"backends": []}), "me")
    (event,) = await asyncio.wait_for(anext(watch), 5)
    assert event.entry is not None and decode(event.entry) == spec(WEB, {"backends": []})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config/mesh/shop", b"{"),
        ("config/mesh/shop", b"[]"),
        ("config/mesh/shop", b'{"spec": {}}'),
        ("config/mesh/shop/what/is", b"{}"),
        ("config/mesh/shop", encode(next(iter(records(spec(MESH)).values()))).replace(b'"spec":{}', b'"spec":{"a":1}')),
    ],
)
async def test_an_entry_that_cannot_be_read_is_named(at: Fixture, key: str, value: bytes) -> None:
    with pytest.raises(StoreError, match=key):
        decode(Entry(key, value, 1, 1))
    await at.store.commit([Put(key, value)])
    with pytest.raises(ServiceUnavailableException, match=key):
        await at.catalog.records()


def test_an_index_that_cannot_be_read_is_named() -> None:
    for key, value in (("services/shop", b'{"index": 1}'), ("services/shop/web", b"7"), ("services/shop/web", b"")):
        with pytest.raises(StoreError, match=key):
            decode_index(Entry(key, value, 1, 1))
    odd = service_key("a/b", "virtualService/x y")
    assert decode_index(Entry(index_key(odd), b'{"index": 9}', 1, 1)) == (odd, 9)


async def test_reads_decode_only_what_is_new(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    await at.catalog.apply([spec(MESH), spec(WEB), spec(ROUTER)], "me")
    await at.catalog.records()
    decoded: list[str] = []

    def counting(entry: Entry) -> Record:
        decoded.append(entry.key)
        return decode_record(entry)

    monkeypatch.setattr(catalog_module, "decode_record", counting)
    await at.catalog.update(spec(WEB, {"backends": []}), "me")
    found, _ = await at.catalog.records()
    assert decoded == ["config/mesh/shop/virtualNode/web"]
    assert found[WEB].spec == spec(WEB, {"backends": []})


# --- several writers ---


class Racing(MemoryStore):
    """Another server writes just before each of the first commits of this one."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self.races = races
        self.other: Catalog | None = None

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        if self.other is not None and self.races:
            self.races -= 1
            other, self.other = self.other, None
            await other.create(spec(service_key("shop", f"other-{self.races}")), "other")
            self.other = other
        return await super().commit(changes, expect)


async def test_a_write_that_another_server_overtook_is_decided_anew() -> None:
    store = Racing(3)
    mine, other = Catalog(store), Catalog(store)
    await mine.create(spec(MESH), "me")
    store.other = other
    await mine.create(spec(SERVICE), "me")
    indexes = (await load(store)).indexes
    assert sorted(indexes.values()) == [1, 2, 3, 4] and indexes[SERVICE] == 4


async def test_a_router_is_not_deleted_under_a_route_that_another_server_adds(at: Fixture) -> None:
    await at.catalog.apply([spec(MESH), spec(ROUTER)], "me")
    outcomes = await asyncio.gather(
        at.catalog.delete(ROUTER, "me"),
        Catalog(at.store).create(spec(ROUTE, target("web")), "other"),
        return_exceptions=True,
    )
    failed = [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
    assert failed in ([ResourceInUseException], [NotFoundException])
    found, _ = await at.catalog.records()
    assert (ROUTER in found) == (ROUTE in found)


async def test_a_write_that_is_overtaken_for_ever_ends_as_a_conflict() -> None:
    store = Racing(10**6)
    mine = Catalog(store)
    await mine.create(spec(MESH), "me")
    store.other = Catalog(store)
    with pytest.raises(ConflictException, match="try again"):
        await mine.create(spec(SERVICE), "me")


async def test_many_writers_of_one_server_take_turns(at: Fixture) -> None:
    await at.catalog.create(spec(MESH), "me")
    await asyncio.gather(*(at.catalog.create(spec(service_key("shop", f"s{n}")), "me") for n in range(20)))
    assert sorted((await load(at.store)).indexes.values()) == list(range(1, 21))


async def test_a_store_that_does_not_answer() -> None:
    store = MemoryStore()
    catalog = Catalog(store)
    await store.close()
    for work in (catalog.records(), catalog.record(MESH), catalog.create(spec(MESH), "me")):
        with pytest.raises(ServiceUnavailableException, match="closed"):
            await work


async def test_the_gate_is_asked_at_each_write() -> None:
    reasons = ["the store was rolled back"]
    catalog = Catalog(MemoryStore(), write_gate=lambda: "".join(reasons))
    with pytest.raises(ServiceUnavailableException, match="rolled back"):
        await catalog.apply([spec(MESH)], "me")
    reasons.clear()
    await catalog.apply([spec(MESH)], "me")
