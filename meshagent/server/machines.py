"""Which machine is which host: a machine that was started anew takes over from itself, a copy of it is kept out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from meshagent.errors import MeshagentError
from meshagent.server.clones import CloneRefused, answered, both_live, named, refuse_clone
from meshagent.server.loop import Loop
from meshagent.server.records import HostRecord
from meshagent.server.registry import Edit, edit_host
from meshagent.server.session import Session
from meshagent.store.base import Store

_log = logging.getLogger(__name__)


class Contested(MeshagentError):
    """Another boot of this host, or another machine, is connected: not now."""


class Machines:
    def __init__(self, store: Store, loop: Loop, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, and that of Session.heard."""
        self._store, self._loop, self._clock = store, loop, clock

    async def contend(self, session: Session | None, boot: str, patience: float) -> None:
        """Another boot says that it is the host of this session: the same machine, which went down without a word, or a copy of it.
        Contested until it is known which, so that no copy disturbs a machine. Nothing heard for `patience` seconds means down."""
        if session is None or not session.boot or boot in ("", session.boot):
            return
        now = self._clock()
        if now - session.heard > patience:
            return
        host = session.record.host
        if not session.outlives(boot, now):
            raise Contested(
                f"host {host!r} is connected from another boot, or another machine: this one is it once nothing was heard of that for "
                f"{patience:g} s"
            )
        await self._write(host, lambda record: both_live(record, boot))

    async def settle(self, session: Session) -> None:
        """Its second word came after our first: this machine is there now."""
        if not session.named:
            await self._write(session.record.host, lambda record: answered(record, session.boot))

    def changed(self, session: Session, record: HostRecord) -> None:
        """Ends the session when, by the host's new record, another machine is the host."""
        for boot in set(record.clones) - set(session.record.clones):
            words = "%s: two machines have this host's identity; the one of boot %s, which came later, is kept out"
            _log.error(words, record.host, boot)
        was, session.named = session.named, named(record, session.boot)
        try:
            refuse_clone(record, session.boot)
        except CloneRefused as error:
            session.end(str(error))
            return
        if was and not session.named and record.boot:
            session.end(f"another machine, or another boot of this one, is host {record.host} now")

    async def _write(self, host: str, edit: Edit) -> None:
        """Seen by all sessions when it returns."""
        written = await edit_host(self._store, host, edit)
        if written is not None:
            await self._loop.reached(written[1])
