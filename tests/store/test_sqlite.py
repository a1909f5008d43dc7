"""The SQLite store: the contract, and that what was committed is there after a restart, a kill and a migration."""

# ruff: noqa: ASYNC220, ASYNC240 (the files of these tests are small and local)

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from meshagent.store import schema
from meshagent.store.base import Change, Delete, LeaseGone, Put, StoreError
from meshagent.store.sqlite import SqliteStore
from tests.store.clock import FakeClock
from tests.store.contract import Contract, Harness, following, keys
from tests.store.model import COMMITS, follow_a_model, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "store.db"


@pytest.fixture
async def harness(path: Path) -> AsyncIterator[Harness]:
    clock = FakeClock()
    store = await SqliteStore.open(path, clock)

    async def advance(seconds: float) -> None:
        clock.now += seconds
        await store.sweep()

    yield Harness(store, advance)
    await store.close()


class TestSqlite(Contract):
    pass


@settings(max_examples=15)
@given(COMMITS)
def test_any_sequence_of_commits_survives_a_restart(commits: list[tuple[list[Change], dict[str, int]]]) -> None:
    async def main(path: Path) -> None:
        model = await follow_a_model(await SqliteStore.open(path), commits)
        store = await SqliteStore.open(path)
        assert {entry.key: entry for entry in (await store.list(""))[0]} == model
        await store.close()

    with tempfile.TemporaryDirectory() as directory:
        run(main(Path(directory) / "store.db"))


async def test_revisions_only_grow_also_when_the_last_rows_are_deleted(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put("a", b"1")])
    deleted = await store.commit([Delete("a")])
    await store.close()
    store = await SqliteStore.open(path)
    assert await store.revision() == deleted
    assert await store.commit([Put("a", b"1")]) == deleted + 1
    await store.close()


async def test_watches_after_a_restart_begin_at_its_revision(path: Path) -> None:
    store = await SqliteStore.open(path)
    revision = await store.commit([Put("a", b"1"), Put("b", b"1")])
    await store.close()
    store = await SqliteStore.open(path)
    with pytest.raises(StoreError, match="list again"):
        await following(store.watch("", revision - 1))
    watch = store.watch("", revision)
    after = await store.commit([Put("a", b"2")])
    assert await following(watch) == [("a", b"2", after)]
    await store.close()


async def test_leases_have_one_full_life_after_a_restart(path: Path) -> None:
    store = await SqliteStore.open(path, FakeClock())
    lease, gone = await store.grant(10), await store.grant(10)
    await store.commit([Put("e", b"", lease), Put("g", b"", gone)])
    await store.revoke(gone)
    await store.close()

    clock = FakeClock()
    clock.now = 0.0
    store = await SqliteStore.open(path, clock)
    with pytest.raises(LeaseGone):
        await store.keepalive(gone)
    clock.now = 9.0
    await store.sweep()
    assert await keys(store) == ["e"]
    await store.keepalive(lease)
    clock.now = 18.0
    await store.sweep()
    assert await keys(store) == ["e"]
    assert await store.grant(10) > gone
    clock.now = 20.0
    await store.sweep()
    assert await keys(store) == []
    await store.close()


async def test_leases_of_before_a_restart_end_by_themselves(path: Path) -> None:
    store = await SqliteStore.open(path)
    lease = await store.grant(0.3)
    revision = await store.commit([Put("e", b"", lease)])
    await store.close()
    store = await SqliteStore.open(path)
    assert await following(store.watch("e", revision)) == [("e", None, revision + 1)]
    await store.close()


async def test_files_are_nobody_elses(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put("authority/key", b"secret")])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) == {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await store.close()


async def test_settings_that_durability_rests_on(path: Path) -> None:
    store = await SqliteStore.open(path)
    execute = store._journal._file._connection.execute  # type: ignore[attr-defined]
    on_worker = store._journal._on_worker  # type: ignore[attr-defined]
    assert await on_worker(lambda: execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    assert await on_worker(lambda: execute("PRAGMA synchronous").fetchone()) == (2,)
    await store.close()


async def test_a_second_server_is_refused_and_told_who_is_there(path: Path) -> None:
    store = await SqliteStore.open(path)
    with pytest.raises(StoreError, match=f"in use by another server \\(process {os.getpid()}\\)"):
        await SqliteStore.open(path)
    await store.close()
    await (await SqliteStore.open(path)).close()


async def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE guests (name)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to have a header of one" * 50)
    with pytest.raises(StoreError, match="not a database"):
        await SqliteStore.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="directory"):
        await SqliteStore.open(path)


async def test_a_damaged_file_is_refused(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put(f"k/{number}", b"x" * 500) for number in range(200)])
    await store.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = os.urandom(40960 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        await SqliteStore.open(path)


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO migrations VALUES (?, 'of the future', '')", (schema.CURRENT + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=f"schema version {schema.CURRENT + 1}, this release knows versions up to"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("version", range(schema.CURRENT))
async def test_a_file_of_an_earlier_version_is_brought_to_the_present_one(path: Path, version: int) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    if version:
        schema.migrate(connection, str(path), upto=version)
        connection.execute(
            "INSERT INTO entries (key, value, revision, created) VALUES ('config/mesh/shop', x'7b7d', 3, 2)"
        )
        connection.execute("UPDATE state SET revision = 5")
    connection.close()

    store = await SqliteStore.open(path)
    entry = await store.get("config/mesh/shop")
    if version:
        assert entry is not None and (entry.value, entry.revision, entry.created) == (b"{}", 3, 2)
        assert await store.revision() == 5
    else:
        assert entry is None
    lease = await store.grant(10)
    await store.commit([Put("e", b"", lease)])
    await store.close()

    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM migrations ORDER BY version").fetchall() == [
        (number,) for number in range(1, schema.CURRENT + 1)
    ]
    connection.close()


async def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await SqliteStore.open(path)).close()
    broken = schema.Step("broken", ("CREATE TABLE half (a)", "CREATE TABLE half (a)"))
    with monkeypatch.context() as patched:
        patched.setattr(schema, "STEPS", (*schema.STEPS, broken))
        patched.setattr(schema.migrate, "__defaults__", (schema.CURRENT + 1,))
        with pytest.raises(StoreError, match="half already exists"):
            await SqliteStore.open(path)
    await (await SqliteStore.open(path)).close()


async def test_a_write_that_fails_changes_nothing(path: Path) -> None:
    store = await SqliteStore.open(path)
    revision = await store.commit([Put("a", b"1")])
    journal = store._journal
    execute = journal._file._connection.execute  # type: ignore[attr-defined]
    await journal._on_worker(lambda: execute("PRAGMA max_page_count = 8"))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="full"):
        await store.commit([Put("a", b"2"), Put("b", b"x" * 200_000)])
    assert (await keys(store), await store.revision()) == (["a"], revision)
    await journal._on_worker(lambda: execute("PRAGMA max_page_count = 100000"))  # type: ignore[attr-defined]
    assert await store.commit([Put("a", b"3")]) == revision + 1
    await store.close()
    store = await SqliteStore.open(path)
    assert [entry.value for entry in (await store.list(""))[0]] == [b"3"]
    await store.close()


_WRITER = """
import asyncio, sys
from meshagent.store.base import Put
from meshagent.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    number = 0
    while True:
        number += 1
        revision = await store.commit([Put(f"a/{number}", b"x" * 100), Put(f"b/{number}", b"y" * 100)])
        print(revision, number, flush=True)

asyncio.run(main())
"""


async def test_what_was_committed_survives_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(40):
            revision, number = map(int, (await asyncio.to_thread(writer.stdout.readline)).split())
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                revision, number = map(int, line.split())
    store = await SqliteStore.open(path)
    assert await store.revision() >= revision
    found = await keys(store)
    for said in range(1, number + 1):
        assert f"a/{said}" in found and f"b/{said}" in found
    assert len([key for key in found if key.startswith("a/")]) == len([key for key in found if key.startswith("b/")])
    await store.close()
