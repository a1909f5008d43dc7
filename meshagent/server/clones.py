"""One host, one machine: telling a machine that was started anew from a copy of its disk, by the ids of their boots. Pure.

A boot never returns once another has followed it. One that does was alive all along, and all that came after it are other machines with
the same identity. Only a boot that has answered this server counts: what a machine had sent before it went down may be read after its next
boot's first words.
"""

from __future__ import annotations

from dataclasses import replace

from meshagent.errors import MeshagentError
from meshagent.server.records import HostRecord

# Enough for a machine that is started again and again while its copy is off, and for an image that many were made from.
EARLIER_BOOTS, CLONES = 64, 1024


class CloneRefused(MeshagentError):
    """Another machine has this host's name and goes on with it."""


def answered(record: HostRecord, boot: str) -> HostRecord:
    """The record after a machine of this boot was seen to live: of two machines the one that came first keeps the name."""
    if not boot or boot == record.boot or boot in record.clones:
        return record
    boots = (*record.earlier_boots, record.boot) if record.boot else ()
    if boot not in boots:
        return replace(record, boot=boot, earlier_boots=boots[-EARLIER_BOOTS:])
    place = boots.index(boot)
    clones = (*record.clones, *boots[place + 1 :])[:CLONES]
    return replace(record, boot=boot, earlier_boots=boots[:place], clones=clones)


def both_live(record: HostRecord, boot: str) -> HostRecord:
    """The record after the machine that has the name and one of another boot were both seen to live."""
    if boot in record.earlier_boots:
        return answered(record, boot)
    if boot in ("", record.boot, *record.clones):
        return record
    if len(record.clones) >= CLONES:
        raise CloneRefused(
            f"more than {CLONES} machines have a copy of the identity of host {record.host!r}: join it anew, with a new token"
        )
    return replace(record, clones=(*record.clones, boot))


def forgotten(record: HostRecord) -> HostRecord:
    """The record of a name that is joined anew: by whichever machine, it is the one from now on."""
    return replace(record, boot="", earlier_boots=(), clones=())


def named(record: HostRecord, boot: str) -> bool:
    """Whether this boot is known to have the host's name. One that cannot be told, has."""
    return boot in ("", record.boot)


def refuse_clone(record: HostRecord, boot: str) -> None:
    """CloneRefused when a machine of this boot is to be kept out."""
    if boot in record.clones:
        raise CloneRefused(
            f"another machine, at {record.address}, is host {record.host!r}: this one has a copy of its identity and is kept out; give it "
            "another `host.name` and a join token of its own, or, if it is to be that host, a new token for that name"
        )
