"""Which machine is which host: a machine that was started anew takes over from itself, a copy of it is kept out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from meshagent.errors import MeshagentError
from meshagent.server.clones import CloneRefused, answered, both_live, named, refuse_clone
from meshagent.server.loop import Loop
from meshagent.server.records import HostRecord
from meshagent.server.registry import Edit, edit_host
from meshagent.server.session import Session, Standing
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
        Contested until it is known which, so that no copy disturbs a machine; a live one is heard of more often than every `patience`
        seconds."""
        if session is None or not session.boot or boot in ("", session.boot):
            return
        host = session.record.host

        def edit(record: HostRecord) -> HostRecord:
            # Of a name that is joined anew, the session is not the host's any more, whatever it is taken for until it ends.
            return record if session.leaf.issued < record.joined else both_live(record, boot)

        match session.standing(boot, self._clock(), patience):
            case Standing.OPEN:
                raise Contested(
                    f"host {host!r} is connected from another boot, or another machine: this one is it once nothing was heard of that for "
                    f"{patience:g} s"
                )
            case Standing.ALIVE:
                await self._write(host, edit)
            case Standing.DOWN:
                pass

    async def settle(self, session: Session) -> None:
        """Its second word came after our first: this machine is there now. Unless another answered meanwhile: then it says hello again."""
        if not session.named:

            def edit(record: HostRecord) -> HostRecord:
                return answered(record, session.boot) if record.boot in ("", session.boot_before) else record

            await self._write(session.record.host, edit)

    def changed(self, session: Session, record: HostRecord) -> None:
        """Ends the session when the host's new record is another machine's doing."""
        before, session.named = session.record, named(record, session.boot)
        for boot in set(record.clones) - set(before.clones):
            words = "%s: two machines have this host's identity; the one of boot %s, which came later, is kept out"
            _log.error(words, record.host, boot)
        try:
            refuse_clone(record, session.boot)
        except CloneRefused as error:
            session.end(str(error))
            return
        if session.leaf.issued < record.joined:
            session.end(f"host {record.host} has joined anew")
        elif record.boot not in ("", before.boot) and not session.named:
            session.end(f"another machine, or another boot of this one, is host {record.host} now")
        elif record.address != before.address:
            session.end(f"host {record.host} has another address: say hello again")

    async def _write(self, host: str, edit: Edit) -> None:
        """Seen by all sessions when it returns."""
        written = await edit_host(self._store, host, edit)
        if written is not None:
            await self._loop.reached(written[1])
