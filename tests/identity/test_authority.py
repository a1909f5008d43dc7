"""The authority over a store: made once whoever comes first, the same for all, renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meshagent.identity import authority as authority_module
from meshagent.identity import spiffe, x509
from meshagent.identity.authority import DAY, Authority
from meshagent.identity.errors import IdentityError
from meshagent.identity.leaf import Leaf
from meshagent.store.base import Delete, Put
from meshagent.store.memory import MemoryStore

WEB = spiffe.workload_id("mesh.local", "mesh/shop/virtualNode/web")


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.close()


async def issue(authority: Authority, clock: Clock, life: float = DAY) -> Leaf:
    key = x509.new_key()
    chain = await authority.issue_workload(x509.new_request(key), WEB, life)
    return x509.verified_leaf(chain, authority.bundle.encode(), clock.now, key)


async def test_many_servers_that_start_at_once_are_one_authority(store: MemoryStore, clock: Clock) -> None:
    opened = await asyncio.gather(*(Authority.open(store, "mesh.local", clock) for _ in range(8)))
    assert len({one.bundle for one in opened}) == 1
    first, *_, last = opened
    key = x509.new_key()
    chain = await first.issue_workload(x509.new_request(key), WEB, 60)
    assert x509.verified_leaf(chain, last.bundle.encode(), clock.now, key).spiffe_id == spiffe.parse(WEB)
    again = await Authority.open(store, "mesh.local", clock)
    assert again.root_sha256 == first.root_sha256 == x509.root_sha256(first.bundle.encode())


async def test_the_trust_domain_is_fixed_at_the_first_start(store: MemoryStore, clock: Clock) -> None:
    await Authority.open(store, "mesh.local", clock)
    before = await store.revision()
    with pytest.raises(IdentityError, match=r"fixed as 'mesh\.local'.*--trust-domain mesh\.local"):
        await Authority.open(store, "other.local", clock)
    with pytest.raises(IdentityError, match="lower-case"):
        await Authority.open(store, "Mesh.Local", clock)
    assert await store.revision() == before


async def test_lives(store: MemoryStore, clock: Clock) -> None:
    authority = await Authority.open(store, "mesh.local", clock)
    leaf = await issue(authority, clock, 3600)
    assert (leaf.issued, leaf.end) == (clock.now, clock.now + 3600)
    for life in (0.0, -1.0, 91 * DAY, float("nan")):
        with pytest.raises(IdentityError, match="at most 90 days"):
            await issue(authority, clock, life)


async def test_it_signs_for_its_own_trust_domain_only(store: MemoryStore, clock: Clock) -> None:
    authority = await Authority.open(store, "mesh.local", clock)
    request = x509.new_request(x509.new_key())
    with pytest.raises(IdentityError, match=r"trust domain mesh\.local only"):
        await authority.issue_workload(request, spiffe.host_id("other", "h"), 60)
    with pytest.raises(IdentityError, match="no request from outside"):
        await authority.issue_workload(request, spiffe.server_id("mesh.local"), 60)
    with pytest.raises(IdentityError, match="certificate request"):
        await authority.issue_workload(b"junk", WEB, 60)


async def test_server_certificates(store: MemoryStore, clock: Clock) -> None:
    authority = await Authority.open(store, "mesh.local", clock)
    key, chain = await authority.issue_server(["localhost", "server.mesh.local"], ["127.0.0.1"], 3600)
    leaf = x509.verified_leaf(chain, authority.bundle.encode(), clock.now, key)
    assert leaf.spiffe_id.kind is spiffe.IdKind.SERVER
    assert chain.count(b"BEGIN CERTIFICATE") == 2
    assert authority.server_name == "server.mesh.local"


async def test_the_intermediate_is_made_anew_in_time_once(store: MemoryStore, clock: Clock) -> None:
    one, other = await Authority.open(store, "mesh.local", clock), await Authority.open(store, "mesh.local", clock)
    old = await issue(one, clock, 89 * DAY)
    first = await store.get("authority/intermediate")
    clock.now += 187 * DAY
    await asyncio.gather(*(issue(authority, clock, 90 * DAY) for authority in (one, other, one, other)))
    second = await store.get("authority/intermediate")
    assert first is not None and second is not None and second.value != first.value
    leaves = [await issue(authority, clock, 90 * DAY) for authority in (one, other)]
    assert all(leaf.end == clock.now + 90 * DAY for leaf in leaves)
    assert await store.get("authority/intermediate") == second
    assert old.end < clock.now + 366 * DAY


async def test_ten_years(store: MemoryStore, clock: Clock) -> None:
    """Whole leaves until a year before the root's end; then an alarm, and at the end words."""
    authority = await Authority.open(store, "mesh.local", clock)
    start = clock.now
    while clock.now < start + 9.5 * 365 * DAY:
        leaf = await issue(authority, clock, 30 * DAY)
        assert leaf.end == clock.now + 30 * DAY
        clock.now += 30 * DAY
    clock.now = start + 3653 * DAY
    with pytest.raises(IdentityError, match="root has ended"):
        await issue(authority, clock)


async def test_a_damaged_store_is_named(store: MemoryStore, clock: Clock) -> None:
    await Authority.open(store, "mesh.local", clock)
    await store.commit([Put("authority/intermediate", b'{"certificate": 1}')])
    with pytest.raises(IdentityError, match="authority/intermediate in the store cannot be read"):
        await Authority.open(store, "mesh.local", clock)
    await store.commit([Delete("authority/root")])
    with pytest.raises(IdentityError, match="authority/root is missing"):
        await Authority.open(store, "mesh.local", clock)


async def test_the_alarm_for_the_root(store: MemoryStore, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    authority = await Authority.open(store, "mesh.local", clock)
    assert caplog.text == "" or "root ends" not in caplog.text
    clock.now += authority_module.ROOT_LIFE - 100 * DAY
    await authority.refresh()
    assert "the root ends in 100 days" in caplog.text
