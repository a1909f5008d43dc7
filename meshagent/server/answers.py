"""What DNS answered last, kept on this server's disk: after a restart the endpoints are there before DNS has answered again, or
although it does not.

A cache and no more: not in the store, whose revision it would move on at every start, and so hide that the store is an old one. Lost, it
costs what it is there to spare.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from meshagent.discovery.leases import Lookup
from meshagent.host.files import FileError, read_if_there, write_durably

# Answers that come together are written together; a disk that cannot be written is tried again as late.
PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Answers:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = dict(_read(path))
        self._changed = asyncio.Event()

    @property
    def known(self) -> Mapping[Lookup, tuple[str, ...]]:
        return self._known

    def note(self, lookup: Lookup, addresses: tuple[str, ...]) -> None:
        if self._known.get(lookup) != addresses:
            self._known[lookup] = addresses
            self._changed.set()

    def keep(self, lookups: Collection[Lookup]) -> None:
        """Only these are still asked for."""
        gone = self._known.keys() - set(lookups)
        for lookup in gone:
            del self._known[lookup]
        if gone:
            self._changed.set()

    async def run(self) -> None:
        """Writes what changed, for ever."""
        told = ""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await asyncio.to_thread(write_durably, self._path, _text(self._known))
                told = ""
            except FileError as error:
                if str(error) != told:
                    _log.warning("answers of DNS are not kept over a restart: %s", error)
                told = str(error)
                self._changed.set()
            await asyncio.sleep(PAUSE_SECONDS)


def _text(known: Mapping[Lookup, tuple[str, ...]]) -> str:
    answers = [
        {"hostname": lookup.hostname, "families": lookup.families, "addresses": list(addresses)}
        for lookup, addresses in sorted(known.items())
    ]
    return json.dumps({"answers": answers}, indent=1) + "\n"


def _read(path: Path) -> Mapping[Lookup, tuple[str, ...]]:
    try:
        content = read_if_there(path)
        if content is None:
            return {}
        return {
            Lookup(str(one["hostname"]), str(one["families"])): tuple(map(str, one["addresses"]))
            for one in json.loads(content)["answers"]
        }
    except (FileError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be used, DNS will be asked: %s", path, error)
        return {}
