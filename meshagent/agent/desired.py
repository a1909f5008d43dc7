"""The host's desired state: what the agent takes of it, and what it keeps instead.

The same guard as for snapshots: an agent keeps what it has, and says why, when one comes of another lineage, of a lower revision, or
without any placement where there were some, and nobody's act is named. What is taken is on the disk, so that everything starts again
from it with no server in reach.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from meshagent.agent import cache
from meshagent.agent.relay import Admission
from meshagent.host.files import FileError
from meshagent.protocol.host_pb2 import Desired
from meshagent.xds.lineage import stale, succeeds
from meshagent.xds.snapshot import Stamp

log = logging.getLogger(__name__)


def refusal(held: Desired | None, offered: Desired, wanted: Collection[str]) -> str:
    """ "" when `offered` is to be taken, else why not. `wanted` are the resources that this host's own configuration asks for: placements
    that it no longer wants may go without a reason."""
    if not offered.stamp.lineage:
        return "a desired state without a lineage: keeping what is held"
    if held is None or offered.accept:
        return ""
    before, after = cache.decode_stamp(held.stamp), cache.decode_stamp(offered.stamp)
    reason = stale(before, after, replaces=offered.replaces)
    if reason or after.reason or succeeds(before, after, offered.replaces):
        return reason
    if not offered.placements and any(placement.resource in wanted for placement in held.placements):
        return (
            f"revision {after.revision} has no placement where there were some, and names no operator's act as the reason: "
            "keeping what is held until an operator accepts it"
        )
    return ""


class DesiredState:
    """`held` is what goes; `reason` why the last one that was offered does not."""

    def __init__(self, path: Path, wanted: Collection[str]) -> None:
        self._path = path
        self._wanted = frozenset(wanted)
        self.held = cache.load_desired(path)
        self.reason = ""
        self._offered: Desired | None = None

    @property
    def stamp(self) -> Stamp:
        return cache.decode_stamp(self.held.stamp) if self.held else Stamp()

    @property
    def admission(self) -> Admission:
        """From what was offered last, taken or not: the server's word on lineages is how one comes to be taken."""
        offered = self._offered
        return Admission(
            replaces=frozenset(offered.replaces) if offered else frozenset(),
            accepted=offered.accept if offered else False,
            lineage=self.stamp.lineage,
        )

    def offer(self, offered: Desired) -> bool:
        """True when it was taken."""
        self._offered = offered
        reason = refusal(self.held, offered, self._wanted)
        if reason != self.reason and reason:
            log.warning("%s", reason)
        self.reason = reason
        if reason:
            return False
        if offered != self.held:
            for problem in offered.problems:
                log.warning("%s: %s", problem.resource, problem.words)
            try:
                cache.save_desired(self._path, offered)
            except FileError as error:
                log.error("%s; it holds until this agent ends", error)
        self.held = offered
        return True
