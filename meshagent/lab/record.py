"""What is remembered of a lab on disk, before anything of it is made: from this a later command finds and removes all of it.

A directory per lab: `lab.json`, the keys, and a directory per host with its disk. Writes are whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshagent.host import processes
from meshagent.host.files import make_directory, read_if_there, write_durably
from meshagent.lab.layout import Cut, LabError, Layout, layout, parse_network

_FILE = "lab.json"


@dataclass(frozen=True)
class Owner:
    """A process that a lab must not outlive."""

    pid: int
    start_time: int
    boot_id: str

    @property
    def lives(self) -> bool:
        return processes.boot_id() == self.boot_id and processes.start_time(self.pid) == self.start_time


@dataclass(frozen=True)
class Record:
    layout: Layout
    root: str  # the shared root file system
    cuts: frozenset[Cut] = frozenset()
    owner: Owner | None = None

    @property
    def abandoned(self) -> bool:
        return self.owner is not None and not self.owner.lives


def owner(pid: int) -> Owner:
    found = owner_if_there(pid)
    assert found is not None, f"process {pid} is asked to own a lab and does not run"
    return found


def owner_if_there(pid: int) -> Owner | None:
    started = processes.start_time(pid)
    return None if started is None else Owner(pid, started, processes.boot_id())


def write(directory: Path, record: Record) -> None:
    make_directory(directory)
    write_durably(directory / _FILE, render(record))


def render(record: Record) -> str:
    kept = record.owner
    return json.dumps(
        {
            "name": record.layout.name,
            "network": str(record.layout.network),
            "hosts": record.layout.count,
            "root": record.root,
            "cuts": sorted(record.cuts),
            "owner": [kept.pid, kept.start_time, kept.boot_id] if kept else None,
        },
        indent=2,
    )


def parse(text: bytes, place: str) -> Record:
    try:
        value = json.loads(text)
        kept = value["owner"]
        return Record(
            layout(value["name"], parse_network(value["network"]), value["hosts"]),
            str(value["root"]),
            frozenset((str(a), str(b)) for a, b in value["cuts"]),
            Owner(*kept) if kept else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"{place} is no record of a lab ({error}): `meshagent lab down` takes away what bears its name"
        ) from error


def read(directory: Path) -> Record | None:
    """None when there is no such lab."""
    text = read_if_there(directory / _FILE)
    return None if text is None else parse(text, str(directory / _FILE))


def all_in(state: Path) -> Iterator[tuple[str, Record | None]]:
    """Every lab's name, with its record if that can be read."""
    if not state.is_dir():
        return
    for directory in sorted(path for path in state.iterdir() if path.is_dir()):
        try:
            yield directory.name, read(directory)
        except LabError:
            yield directory.name, None
