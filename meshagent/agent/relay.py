"""One proxy's configuration on its way: from the server, past the lineage's guard, to Envoy, onto the disk, and only then acknowledged.

Upstream it is a delta client; towards Envoy each generation has a face of its own. What the serving one takes or refuses is what upstream
hears; one on trial is given what the serving one took. It knows names, versions and stamps and is blind to bodies. Who connects the channel
and who starts the Envoys is not its business.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshagent.agent import cache
from meshagent.agent.crashes import Crashes
from meshagent.agent.face import Face
from meshagent.agent.link import BACKOFF_FIRST, BACKOFF_LONGEST, Link
from meshagent.errors import MeshagentError
from meshagent.host.files import FileError
from meshagent.protos import core
from meshagent.xds import upstream
from meshagent.xds.intake import Intake
from meshagent.xds.lineage import admit
from meshagent.xds.messages import Rejection
from meshagent.xds.server import AGENT_USER_AGENT
from meshagent.xds.snapshot import LISTENER, Snapshot, Stamp

log = logging.getLogger(__name__)

SAVE_AGAIN = 5.0
_STABLE = 10.0


@dataclass(frozen=True)
class Admission:
    """What the host's desired state says of lineages: which ones the present replaces, whether an operator released this host, and which
    lineage the host itself was moved to by such an act."""

    replaces: frozenset[str] = frozenset()
    accepted: bool = False
    lineage: str = ""

    def of(self, held: Snapshot | None, offered: Snapshot) -> str:
        """ "" when `offered` is to be taken, else why it is not."""
        # The host holds the offered lineage already: it was moved there deliberately, and its proxies follow.
        moved = held is not None and held.stamp.lineage != self.lineage == offered.stamp.lineage
        return admit(held, offered, replaces=self.replaces, accepted=self.accepted or moved)


@dataclass(frozen=True)
class _Offer:
    """A candidate that Envoy is being asked to take. `snapshot` is the candidate but for what is known to be refused."""

    candidate: Snapshot
    snapshot: Snapshot
    settle: upstream.Settle


class Relay:
    def __init__(
        self,
        id: str,  # noqa: A002
        resource: str,
        saved: Path,
        admission: Callable[[], Admission],
        changed: Callable[[], None],
    ) -> None:
        self.id, self.resource = id, resource
        self.held: Snapshot | None = cache.load(saved)
        self.held_reason = ""
        self._saved = saved
        self._admission = admission
        self._changed = changed
        self._intake = Intake(self.held)
        self._serving: Face | None = None
        self._trial: Face | None = None
        self._waiting: tuple[Snapshot, upstream.Settle] | None = None
        self._offer: _Offer | None = None
        self._refused: cache.Refusals = {}
        # What was taken but for what was refused, what of all that was refused Envoy is asked to take once more, and whether it did: the
        # server, to whom it was refused, is connected to anew then.
        self._partly: _Offer | None = None
        self._retried: frozenset[tuple[str, str]] = frozenset()
        self._mended = asyncio.Event()
        # Of what is held, what Envoy is to be seen without before it is asked to take it once more, and what it said of it the last time.
        self._without: Snapshot | None = None
        self._asked_again: cache.Refusals = {}
        self._crashes = Crashes()
        self._spoken = asyncio.Event()

    @property
    def stamp(self) -> Stamp:
        return self.held.stamp if self.held else Stamp()

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        return tuple(self._every_refusal().values())

    @property
    def listeners(self) -> Collection[str] | None:
        """Those that Envoy has, as far as it said; None before it took anything."""
        if self.held is None:
            return None
        refused = {each.name: each.version for each in self.rejections if each.type_url == LISTENER}
        return [each.name for each in self.held.of(LISTENER).values() if refused.get(each.name) != each.version]

    def _every_refusal(self) -> cache.Refusals:
        """With what an Envoy says of the configuration that it was started from, and what it said of what it is asked again."""
        return {**self._refused, **self._asked_again, **(self._serving.refusals if self._serving else {})}

    # Towards Envoy.

    def face(self) -> Face:
        """For a generation that is about to run; it serves nobody else, and nothing it says is heard upstream, until `serve_from` it."""
        face = Face(self.id, self._on_spoken, self._on_opened)
        if self.held is not None:
            face.offer(self.held)
        return face

    def try_out(self, face: Face | None) -> None:
        """The face of the generation that is on trial: given what the serving one takes, as soon as it did. Its gate is closed."""
        self._trial = face
        if face is not None:
            face.gate.close()

    def serve_from(self, face: Face) -> None:
        """What the generation behind `face` says is what upstream hears."""
        if face is self._trial:
            self._trial = None
        face.gate.open()
        self._serving = face
        snapshot = self._offer.snapshot if self._offer else self.held
        if snapshot is not None:
            face.offer(snapshot)
        self._spoken.set()

    def _on_opened(self, face: Face) -> None:
        if face is self._serving and self._offer is not None:
            self._crashes = self._crashes.asking(asyncio.get_running_loop().time())

    def _on_spoken(self, face: Face) -> None:
        if face is self._serving:
            self._spoken.set()

    def _give(self, snapshot: Snapshot) -> None:
        if self._serving is not None:
            self._serving.offer(snapshot)

    def ended(self) -> None:
        """The Envoy has ended, by itself. If what it was asked to take does that each time, the next one is given what was taken last."""
        offer, held = self._offer, self.held
        if offer is None or held is None:
            return
        self._crashes = self._crashes.ended(held, offer.snapshot, asyncio.get_running_loop().time())
        reason = self._crashes.forbids(held, offer.snapshot)
        if reason:
            log.error("%s: %s", self.id, reason)
            self._offer, self._waiting = None, (offer.candidate, offer.settle)
            self.held_reason = reason
            self._give(held)
            self._changed()

    async def settle(self) -> None:
        """Passes on what the serving generation says, for ever."""
        while True:
            await self._spoken.wait()
            self._spoken.clear()
            offer, face = self._offer, self._serving
            if offer and face and face.offered is offer.snapshot and face.in_sync:
                self._asked_again = {}
                refused = cache.standing({**self._refused, **face.refusals}, offer.candidate)
                if not await self._settled(offer, refused):
                    await asyncio.sleep(SAVE_AGAIN)
                    self._spoken.set()
            elif self._without and face and face.offered is self._without and face.in_sync:
                self._without = None
                if self.held is not None and not offer:
                    self._give(self.held)
            elif self._asked_again and face and face.offered is self.held and face.in_sync:
                still = {key: each for key, each in face.refusals.items() if key in self._retried}
                self._refused = {**self._refused, **still}
                if self._retried - still.keys():
                    self._mended.set()
                self._asked_again, self._retried = {}, frozenset()
                self._changed()
            elif not offer and face and face.rejected:
                self._changed()

    async def _settled(self, offer: _Offer, refused: cache.Refusals) -> bool:
        """Envoy has spoken: what it took goes onto the disk, then upstream hears. False when the disk cannot be written."""
        taken = cache.acceptable(offer.candidate, self.held, refused)
        try:
            await asyncio.to_thread(cache.save, self._saved, taken)
        except FileError as error:
            if self.held_reason != str(error):
                log.error(
                    "%s: Envoy took %s, which is not acknowledged until it is saved: %s", self.id, taken.stamp, error
                )
                self.held_reason = str(error)
                self._changed()
            return False
        self.held, self._refused = taken, refused
        if self._retried - refused.keys():
            self._mended.set()
        self._partly, self._retried = offer if refused else None, frozenset()
        if self._trial is not None:
            self._trial.offer(taken)
        if self._offer is offer:  # else a newer one came meanwhile, and speaks for itself
            self._offer = None
            self._crashes = self._crashes.taken()
            self.held_reason = ""
            # A restarted Envoy is given what this one took.
            self._give(taken)
        offer.settle(refused.values())
        for rejection in refused.values():
            log.warning("%s: Envoy refused %s: %s", self.id, rejection.name, rejection.words)
        revision = taken.stamp.revision
        about = {"about": {"revision": revision}}
        log.info("%s: Envoy took revision %d of %s", self.id, revision, self.resource, extra=about)
        self._changed()
        return True

    def again(self, listeners: Mapping[str, str]) -> None:
        """Has Envoy try once more the listeners of these names and versions, which it refused for a reason that is gone."""
        if self._offer is not None or self._waiting is not None or self.held is None:
            return  # something newer is on its way, and brings them along if it still has them
        if self._asked_again:
            return  # it has not answered yet
        refused, held = self._every_refusal(), self.held.of(LISTENER)
        retried = frozenset((LISTENER, name) for name, version in listeners.items() if _is(refused, name, version))
        of_held = {key for key in retried if key[1] in held and held[key[1]].version == refused[key].version}
        self._retried = frozenset((of_held or retried) & self._refused.keys())
        remaining = {key: each for key, each in self._refused.items() if key not in self._retried}
        if of_held:
            # What an Envoy refuses of that which is held, it must be seen to be without before it is given it again.
            self._refused, self._asked_again = remaining, {key: refused[key] for key in of_held}
            kept = {name: each for name, each in held.items() if (LISTENER, name) not in of_held}
            self._without = Snapshot({**self.held.resources, LISTENER: kept}, self.held.stamp)
            self._give(self._without)
        elif self._retried and self._partly is not None:
            offered = cache.acceptable(self._partly.candidate, self.held, remaining)
            self._offer = self._partly = replace(self._partly, snapshot=offered)
            self._refused = remaining
            self._give(offered)
        else:
            return
        names = ", ".join(sorted(name for _, name in of_held or self._retried))
        log.info("%s: asking Envoy again to listen: %s", self.id, names)

    # Towards the server.

    async def follow(self, link: Link) -> None:
        """Follows whatever server the link holds, for ever."""
        failures, told = 0, ""
        loop = asyncio.get_running_loop()
        while True:
            session = await link.wait()
            began = loop.time()
            try:
                self._mended.clear()
                following = upstream.follow(
                    session.channel, self._node(), self._intake, self._on_candidate, on_connected=self._on_connected
                )
                await session.during(self._unless_mended(following))
            except MeshagentError as error:
                if not session.ended.is_set() and str(error) != told:
                    told = str(error)
                    log.warning("%s: no configuration from %s: %s", self.id, session.server, told)
            failures = 0 if session.ended.is_set() or loop.time() - began > _STABLE else failures + 1
            pause = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.random())  # noqa: S311

    async def _unless_mended(self, following: Coroutine[Any, Any, None]) -> None:
        """Ends when `following` does, or when the server should hear from the start what Envoy has."""
        work, mended = asyncio.ensure_future(following), asyncio.ensure_future(self._mended.wait())
        try:
            await asyncio.wait({work, mended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            mended.cancel()
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    def reconsider(self) -> None:
        """The admission may say something else now."""
        if self._waiting is None:
            return
        candidate, settle = self._waiting
        admission = self._admission()
        offered = cache.acceptable(candidate, self.held, cache.standing(self._refused, candidate))
        reason = admission.of(self.held, candidate)
        if not reason and not admission.accepted:
            reason = self._crashes.forbids(self.held, offered)
        if reason:
            if reason != self.held_reason:
                log.warning("%s: %s", self.id, reason)
                self.held_reason = reason
                self._changed()
            return
        self._waiting = None
        self.held_reason = ""
        self._refused = cache.standing(self._refused, candidate)
        self._offer = _Offer(candidate, offered, settle)
        if self._serving is not None and self._serving.stream is not None:
            self._crashes = self._crashes.asking(asyncio.get_running_loop().time())
        self._give(offered)

    def _on_candidate(self, candidate: Snapshot, settle: upstream.Settle) -> None:
        self._waiting = (candidate, settle)
        self.reconsider()

    def _on_connected(self) -> None:
        """What an earlier connection brought and was not taken, this one brings again, if it is still so."""
        if self._waiting is not None:
            self._waiting = None
            self.held_reason = ""
            self._changed()

    def _node(self) -> Any:
        node = core.Node(id=self.id, cluster=self.resource, user_agent_name=AGENT_USER_AGENT)
        node.metadata.update({"lineage": self.stamp.lineage, "revision": str(self.stamp.revision)})
        return node


def _is(refused: cache.Refusals, name: str, version: str) -> bool:
    rejection = refused.get((LISTENER, name))
    return rejection is not None and rejection.version == version
