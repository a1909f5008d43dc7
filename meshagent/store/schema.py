"""The SQLite file's schema, as the steps by which it came to be: a file of any earlier version is brought to the
present one at open.

A step that was released is never edited; what must change becomes a step of its own. Knows SQL, not where the file
lies.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from meshagent.store.base import StoreError

# "MESH": the mark in the file's header by which another program's SQLite file is told from ours.
APPLICATION_ID = 0x4D455348


@dataclass(frozen=True)
class Step:
    title: str
    statements: tuple[str, ...]


STEPS = (
    Step(
        "entries at revisions",
        (
            """CREATE TABLE entries (
                 key TEXT PRIMARY KEY, value BLOB NOT NULL,
                 revision INTEGER NOT NULL, created INTEGER NOT NULL, lease INTEGER NOT NULL DEFAULT 0
               ) WITHOUT ROWID""",
            # A row of its own, so that the revision also survives the deletion of the last entry.
            "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL)",
            "INSERT INTO state VALUES (1, 0)",
        ),
    ),
    Step(
        "leases",
        # AUTOINCREMENT: an id is never given twice.
        ("CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL)",),
    ),
)
CURRENT = len(STEPS)


def version(connection: sqlite3.Connection, path: str) -> int:
    """The file's schema version, 0 for an empty file; StoreError where it is not ours or newer than this release."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").fetchone()
    if application == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is the SQLite file of another program: name another one, or move it away")
    (found,) = connection.execute("SELECT max(version) FROM migrations").fetchone()
    if found is None:
        raise StoreError(f"{path} names no schema version: restore it from a backup")
    if found > CURRENT:
        raise StoreError(
            f"{path} has schema version {found}, this release knows versions up to {CURRENT}: "
            "run the release that wrote it, or a newer one"
        )
    return int(found)


def migrate(connection: sqlite3.Connection, path: str, upto: int = CURRENT) -> int:
    """Brings the file to `upto`, each step whole or not at all, and returns the version that was found."""
    found = version(connection, path)
    for number in range(found + 1, upto + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if number == 1:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, title TEXT, applied TEXT)")
            for statement in STEPS[number - 1].statements:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations VALUES (?, ?, datetime('now'))", (number, STEPS[number - 1].title)
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    return found
