"""Parts joined into the resources of one proxy, and the resources of a proxy patched where some of its parts came out differently.

Both give the same: of two resources of one name that of the first part counts. A patch costs what changed and no more; what did not
change stays the very same mapping, by which those who hold it see that nothing did. Knows of parts, not of what they are made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from meshagent.envoy.listeners import Part
from meshagent.envoy.memo import Piece
from meshagent.mesh.graph import Touch
from meshagent.xds.snapshot import ORDER, Resource

Tables = Mapping[str, Mapping[str, Resource]]


def joined(parts: Sequence[Part], before: Tables) -> Tables:
    """Of what is equal in `before`, the mapping that is there."""
    tables: tuple[dict[str, Resource], ...] = tuple({} for _ in ORDER)
    for part in reversed(parts):
        for table, added in zip(tables, part.by_type, strict=True):
            table.update(added)
    return {
        type_url: known if (known := before.get(type_url)) == table else table
        for type_url, table in zip(ORDER, tables, strict=True)
    }


def all_touched(pieces: Iterable[Piece[Part]], more: frozenset[Touch], before: frozenset[Touch]) -> frozenset[Touch]:
    """Of two equal sets `before`."""
    touched = more.union(*(piece.touched for piece in pieces))
    return before if touched == before else touched


@dataclass(frozen=True)
class Difference:
    """Between two values of one piece: `names` are those whose resources differ, by place in ORDER. `touched` says whether what they
    touched differs, `beside` whether more than resources does: notices, or chains of a listener that belongs to several parts."""

    names: tuple[tuple[int, tuple[str, ...]], ...]
    touched: bool
    beside: bool

    @classmethod
    def between(cls, old: Piece[Part], new: Piece[Part]) -> Difference:
        names = (
            tuple(name for name in {**was, **now} if _differ(was.get(name), now.get(name)))
            for was, now in zip(old.value.by_type, new.value.by_type, strict=True)
        )
        return cls(
            tuple((place, each) for place, each in enumerate(names) if each),
            old.touched != new.touched,
            old.value.notices != new.value.notices or old.value.chains != new.value.chains,
        )


class Differences:
    """Each is found once for all proxies that share the pieces; forgotten by `clear`."""

    def __init__(self) -> None:
        self._found: dict[tuple[Piece[Part], Piece[Part]], Difference] = {}

    def between(self, old: Piece[Part], new: Piece[Part]) -> Difference:
        found = self._found.get((old, new))
        if found is None:
            found = self._found[old, new] = Difference.between(old, new)
        return found

    def clear(self) -> None:
        self._found.clear()


def patched(before: Tables, pieces: Sequence[Piece[Part]], differences: Sequence[Difference]) -> Tables:
    """`pieces` as they are now, in order; `differences` from those that `before` was joined from."""
    tables = dict(before)
    for place, names in chain.from_iterable(difference.names for difference in differences):
        type_url = ORDER[place]
        firsts = {name: _first(pieces, place, name) for name in names}
        changed = {name: each for name, each in firsts.items() if _differ(tables[type_url].get(name), each)}
        if changed:
            table = dict(tables[type_url])
            for name, each in changed.items():
                if each is not None:
                    table[name] = each
                else:
                    del table[name]
            tables[type_url] = table
    return tables


def _first(pieces: Iterable[Piece[Part]], place: int, name: str) -> Resource | None:
    return next((found for piece in pieces if (found := piece.value.by_type[place].get(name))), None)


def _differ(was: Resource | None, now: Resource | None) -> bool:
    """A version is a hash of what is in it."""
    return was is not now and (was is None or now is None or was.version != now.version)
