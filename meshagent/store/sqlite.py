"""The durable store of a single server: SQLite in WAL mode, written by one worker thread, read from memory.

The file is one process's at a time, since watches are told in the process: a lock beside it says whose. Every commit is
on disk before anyone sees it. Knows nothing of what keys mean.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from meshagent.store import schema
from meshagent.store.base import Entry, StoreError
from meshagent.store.embedded import HISTORY, Clock, EmbeddedStore
from meshagent.store.table import Batch, Table

BUSY_MILLISECONDS = 5000

T = TypeVar("T")
_log = logging.getLogger(__name__)


class SqliteStore(EmbeddedStore):
    @classmethod
    async def open(cls, path: Path | str, clock: Clock = time.monotonic, history: int = HISTORY) -> SqliteStore:
        """Makes the file where there is none. StoreError says why a file cannot be used."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            file, found = await asyncio.get_running_loop().run_in_executor(worker, _open, Path(path))
        except BaseException:
            worker.shutdown(wait=False)
            raise
        store = cls(
            _Journal(file, worker),
            Table(found.entries, found.revision),
            ttls=found.ttls,
            last_lease=found.last_lease,
            clock=clock,
            history=history,
        )
        if found.ttls:
            store._start_sweeping()
        return store


@dataclass(frozen=True)
class _Found:
    """What the file held when it was opened."""

    entries: tuple[Entry, ...]
    revision: int
    ttls: Mapping[int, float]
    last_lease: int


def _open(path: Path) -> tuple[_File, _Found]:
    # Resolved, so that one file has one lock by whatever name it is called.
    file = _File(path.resolve())
    try:
        return file, file.read()
    except BaseException as error:
        file.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{path} cannot be read as a store: {error}: restore it from a backup") from error
        raise


class _Journal:
    """Carries batches to the worker thread, one at a time."""

    def __init__(self, file: _File, worker: ThreadPoolExecutor) -> None:
        self._file = file
        self._worker = worker

    async def write(self, batch: Batch) -> None:
        await self._on_worker(lambda: self._file.write(batch))

    async def close(self) -> None:
        await self._on_worker(self._file.close)
        self._worker.shutdown(wait=False)

    async def _on_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


class _File:
    """The open file. All of it is called on the worker thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = ""
        _make_directory(path.parent)
        self._lock = _take_lock(path)
        try:
            self._connection = _connect(path)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise StoreError(f"{path} cannot be opened as a store: {error}") from error
        except BaseException:
            os.close(self._lock)
            raise

    def read(self) -> _Found:
        """Brings the schema up to date and reads all of it; sqlite3.Error where that fails."""
        execute = self._connection.execute
        found = schema.migrate(self._connection, str(self.path))
        if 0 < found < schema.CURRENT:
            _log.info("%s: schema brought from version %d to %d", self.path, found, schema.CURRENT)
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        state = execute("SELECT revision FROM state").fetchone()
        if verdict != "ok" or state is None:
            raise StoreError(f"{self.path} is damaged ({verdict}): restore it from a backup")
        _sync_directory(self.path.parent)
        rows = execute("SELECT key, value, revision, created, lease FROM entries").fetchall()
        last = execute("SELECT seq FROM sqlite_sequence WHERE name = 'leases'").fetchone()
        ttls = dict(execute("SELECT id, ttl FROM leases").fetchall())
        return _Found(tuple(Entry(*row) for row in rows), state[0], ttls, last[0] if last else 0)

    def write(self, batch: Batch) -> None:
        if self._broken:
            raise StoreError(self._broken)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._execute(batch)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(error)
            raise StoreError(f"{self.path} cannot be written: {error}") from error

    def _execute(self, batch: Batch) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        many(
            "INSERT OR REPLACE INTO entries (key, value, revision, created, lease) VALUES (?, ?, ?, ?, ?)",
            [(e.key, e.value, e.revision, e.created, e.lease) for event in batch.events if (e := event.entry)],
        )
        many("DELETE FROM entries WHERE key = ?", [(event.key,) for event in batch.events if event.entry is None])
        many("INSERT INTO leases (id, ttl) VALUES (?, ?)", batch.granted.items())
        many("DELETE FROM leases WHERE id = ?", [(lease,) for lease in batch.ended])
        execute("UPDATE state SET revision = ?", (batch.revision,))

    def _undo(self, error: sqlite3.Error) -> None:
        """After a failed COMMIT it must be certain that nothing was written; where it is not, this file takes no more
        writes."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            why = f"a write failed ({error}) and could not be undone ({second})"
            self._broken = f"{self.path}: {why}: restart the server"

    def close(self) -> None:
        try:
            self._connection.close()
        finally:
            os.close(self._lock)


def _make_directory(directory: Path) -> None:
    """A directory that is made here is nobody else's to read; one that is there is as its owner wants it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory} cannot be made for the store: {error.strerror}") from error


def _take_lock(path: Path) -> int:
    """The lock's descriptor. The kernel lets go of it with the process, however that ends."""
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{lock} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(f"{path} is in use by another server (process {holder}): a store has one server") from error
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Made before SQLite opens it, so that at no moment it is readable by others; its WAL takes the file's mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=BUSY_MILLISECONDS / 1000, isolation_level=None)
    try:
        # Looked at before anything is set: a file of another program stays as it is.
        schema.version(connection, str(path))
        path.chmod(0o600)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path}: its file system cannot keep a write-ahead log (found {mode}): use a local one")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _sync_directory(directory: Path) -> None:
    """So that the file's name survives a power cut as well as what is in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
