"""The host's facts as they are reported: gathered in a thread now and then, said with the first report of a connection and when they
change. What only moves (load, memory, disks) is said at most once a minute, and wakes nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meshagent.host import facts, metadata
from meshagent.host.facts import Present, System
from meshagent.host.metadata import Instance, MetadataError
from meshagent.protocol import host_pb2

log = logging.getLogger(__name__)

EVERY = 30.0
SELDOM = 60.0
# An instance's metadata service may be late at boot. After the last pause it is asked no more.
METADATA_PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 600.0)
OFF = "off"


def message(system: System, present: Present, instance: Instance) -> host_pb2.Facts:
    return host_pb2.Facts(
        os=system.os,
        os_version=system.os_version,
        kernel=system.kernel,
        arch=system.arch,
        systemd=system.systemd,
        booted=system.booted,
        cpus=system.cpus,
        memory_total=system.memory_total,
        memory_available=present.memory_available,
        load=present.load,
        disks=[
            host_pb2.Disk(path=disk.path, total=disk.total, used_percent=disk.used_percent, read_only=disk.read_only)
            for disk in present.disks
        ],
        addresses=present.addresses,
        instance_id=instance.id,
        instance_type=instance.type,
        zone=instance.zone,
        region=instance.region,
    )


def at_rest(said: host_pb2.Facts) -> host_pb2.Facts:
    """Without what only moves."""
    still = host_pb2.Facts()
    still.CopyFrom(said)
    for name in ("load", "memory_available", "disks"):
        still.ClearField(name)
    return still


class Facts:
    """`changed` is called when there is something that should be reported before the next keepalive. `endpoint` is the metadata service's:
    None asks the usual one where the firmware says that this is EC2, OFF asks none."""

    def __init__(
        self,
        directories: Sequence[Path],
        endpoint: str | None,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directories = directories
        self._endpoint = endpoint
        self._changed = changed
        self._clock = clock
        self._system, self._present, self._instance = System(), Present(), Instance()
        self.known: host_pb2.Facts | None = None
        self._said: host_pb2.Facts | None = None
        self._said_at = 0.0

    def report(self, *, first: bool) -> host_pb2.Facts | None:
        """What to say now; None for nothing new. `first` on a connection, everything is."""
        if self.known is None:
            return None
        if not first and self._said is not None:
            if self.known == self._said:
                return None
            moved_only = at_rest(self.known) == at_rest(self._said)
            if moved_only and self._clock() - self._said_at < SELDOM:
                return None
        self._said, self._said_at = self.known, self._clock()
        return self.known

    async def run(self) -> None:
        """For ever."""
        self._system = await asyncio.to_thread(facts.system)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_metadata())
            while True:
                self._present = await asyncio.to_thread(facts.present, self._directories)
                self._take()
                await asyncio.sleep(EVERY * (0.9 + 0.2 * random.random()))  # noqa: S311

    def _take(self) -> None:
        before = self.known
        self.known = message(self._system, self._present, self._instance)
        if before is None or at_rest(before) != at_rest(self.known):
            self._changed()

    async def _ask_metadata(self) -> None:
        if self._endpoint == OFF or (self._endpoint is None and not await asyncio.to_thread(metadata.on_ec2)):
            return
        endpoint = self._endpoint or metadata.ENDPOINT
        for pause in METADATA_PAUSES:
            try:
                self._instance = await metadata.instance(endpoint)
                if self.known is not None:  # else it goes with the first
                    self._take()
                return
            except MetadataError as error:
                words = str(error)
            await asyncio.sleep(pause)
        log.warning("no instance metadata: %s", words)
