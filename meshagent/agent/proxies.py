"""All placements of a host: one Proxy each, begun and ended as the desired state says.

A placement that is no longer desired is drained, stopped and removed with its keys; one that comes again while it is being removed
begins when that is done. One whose slot has become another is drained and stopped, too, and begins anew with what it has: another slot is
another user that its Envoy runs as, and other addresses of its services.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from meshagent.agent.launch import retire_all
from meshagent.agent.proxy import Proxy, Surroundings
from meshagent.errors import MeshagentError
from meshagent.host.files import remove_tree
from meshagent.host.supervisor import Running, Supervisor
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import Stamp

log = logging.getLogger(__name__)

_AGAIN = 5.0


class Proxies:
    """`group` runs what the placements need; a defect in one of them ends the agent, never its Envoys."""

    def __init__(self, around: Surroundings, group: asyncio.TaskGroup) -> None:
        self._around = around
        self._group = group
        self._running: dict[str, tuple[Proxy, asyncio.Task[None]]] = {}
        self._leaving: dict[str, Proxy | None] = {}
        self._desired: dict[str, host_pb2.Placement] = {}
        self._order = 0  # of Envoy's version: what is reported is about this one

    @property
    def all(self) -> tuple[Proxy, ...]:
        return tuple(proxy for proxy, _ in self._running.values())

    @property
    def placed(self) -> tuple[Proxy, ...]:
        """With those whose Envoys still drain."""
        return (*self.all, *(proxy for proxy in self._leaving.values() if proxy is not None))

    def want(self, desired: host_pb2.Desired, *, confirmed: bool) -> None:
        """Begins, updates and ends what `desired` says. Unless it is `confirmed` by a server, nothing is ended by what it lacks: it may
        come from a disk on which something is missing."""
        self._desired = {placement.id: placement for placement in desired.placements}
        self._order = desired.envoy.number
        if confirmed:
            for stranger in self._left_behind():
                self._leave(stranger)
            for moved in self._moved():
                self._leave(moved, stays=True)
        begun = self._begin()
        for proxy in self.all:
            if confirmed:
                proxy.trust(desired.trust_bundle.encode())
            if proxy.id in self._desired and proxy.id not in begun and proxy.id not in self._leaving:
                proxy.update(self._desired[proxy.id])
            proxy.reconsider()

    def reconsider(self) -> None:
        """What the server says of lineages has changed, though its desired state was not taken."""
        for proxy in self.all:
            proxy.reconsider()

    def connected(self) -> None:
        for proxy in self.all:
            proxy.connected()

    async def stop(self, id: str, generation: int) -> str | None:  # noqa: A002
        """See Proxy.stop; None for a placement that is not here."""
        proxy = next((proxy for proxy in self.all if proxy.id == id), None)
        return await proxy.stop(generation) if proxy is not None else None

    def statuses(self) -> list[host_pb2.PlacementStatus]:
        found = [proxy.status() for proxy in self.all]
        for status in found:
            status.envoy_order = self._order
        return found

    def highest(self, lineage: str) -> Stamp:
        """The latest stamp of that lineage that a proxy holds."""
        stamps = (proxy.stamp for proxy in self.all)
        return max(
            (stamp for stamp in stamps if stamp.lineage == lineage),
            key=lambda stamp: stamp.revision,
            default=Stamp(lineage),
        )

    def _begin(self) -> set[str]:
        fresh = [id for id in self._desired if id not in self._running and id not in self._leaving]  # noqa: A001
        for id in fresh:  # noqa: A001
            try:
                proxy = Proxy(self._desired[id], self._around)
            except MeshagentError as error:  # its directory cannot be made
                log.error("%s: %s", id, error)
                continue
            self._running[id] = (proxy, self._group.create_task(proxy.run(), name=f"proxy {id}"))
        return set(fresh)

    def _left_behind(self) -> set[str]:
        """Ids that have a proxy, or a directory from earlier, and are not desired."""
        return (_on_disk(self._around.directory) | set(self._running)) - set(self._desired) - set(self._leaving)

    def _moved(self) -> set[str]:
        """Ids that run in another slot than they are to."""
        there = ((proxy.placement, self._desired.get(proxy.id)) for proxy in self.all)
        return {now.id for now, wanted in there if wanted is not None and wanted.slot != now.slot} - set(self._leaving)

    def _leave(self, id: str, stays: bool = False) -> None:  # noqa: A002
        self._leaving[id] = self._running[id][0] if id in self._running else None
        self._group.create_task(self._left(id, stays), name=f"leaving {id}")

    async def _left(self, id: str, stays: bool) -> None:  # noqa: A002
        """`stays`: with its keys and its configuration."""
        log.info("%s: %s: draining its Envoy", id, "its slot is another now" if stays else "no longer wanted here")
        _, task = self._running.pop(id, (None, None))
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        directory = self._around.directory / id
        while True:
            try:
                await retire_all(directory, self._around.supervisor)
                if not stays or id not in self._desired:
                    await asyncio.to_thread(remove_tree, directory)
                break
            except MeshagentError as error:
                log.error("%s: %s", id, error)
                await asyncio.sleep(_AGAIN)
        log.info("%s: %s", id, "ended" if stays else "removed")
        self._leaving.pop(id, None)
        self._begin()
        self._around.changed()


async def stop_all(directory: Path, supervisor: Supervisor) -> list[Running]:
    """Ends every Envoy below `directory` (proxies/), all at once, each drained first. What lies there stays. One that cannot be ended does
    not keep the others from it, and is raised afterwards."""
    ids = sorted(_on_disk(directory))
    outcomes = await asyncio.gather(*(retire_all(directory / id, supervisor) for id in ids), return_exceptions=True)  # noqa: A001
    ended: list[Running] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        ended += outcome
    return ended


def _on_disk(directory: Path) -> set[str]:
    """The ids of the proxies that have a directory."""
    return {path.name for path in directory.iterdir() if path.is_dir()} if directory.is_dir() else set()
