"""What has been compiled already: pieces that many proxies share, kept until something that they read changes.

A piece is the value of a function of a Reading and a few small arguments. It is kept with everything it touched in the mesh; the next mesh
drops exactly the pieces that touched what differs. Who takes a piece from here touches what it touched. Bounded: what was not asked for
the longest goes first. Knows nothing of Envoy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from meshagent.mesh.graph import Mesh, Touch, View

T = TypeVar("T")
P = ParamSpec("P")

PIECES = 1 << 18


@dataclass(frozen=True)
class Digested:
    """A value too big to compare: two are equal when their digests are."""

    digest: str
    value: Any = field(compare=False, repr=False)


@dataclass(slots=True, eq=False)
class Piece(Generic[T]):
    """`value` is what `build(reading, *args)` returned. While the piece is `alive`, it would return the same of the memo's mesh."""

    build: Callable[..., T]
    args: tuple[Any, ...]
    value: T
    touched: frozenset[Touch]
    used: int
    alive: bool = True


class Memo:
    """Of one mesh at a time: `advance` to the next before reading it."""

    def __init__(self, limit: int = PIECES) -> None:
        self._limit = limit
        self._mesh: Mesh | None = None
        self._turn = 0
        self._pieces: dict[Any, Piece[Any]] = {}
        self._readers: dict[Touch, set[Any]] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def advance(self, mesh: Mesh) -> None:
        """Before each compile: forgets the pieces that read differently in `mesh`, and when there are too many, those unused for long."""
        self._turn += 1
        if len(self._pieces) > self._limit:
            self._shrink()
        if mesh is self._mesh:
            return
        if self._mesh is not None:
            self._forget(mesh.changes_since(self._mesh))
        self._mesh = mesh

    @property
    def turn(self) -> int:
        """What `used` is for a piece that is used now."""
        return self._turn

    def find(self, build: Callable[..., T], args: tuple[Any, ...]) -> Piece[T] | None:
        piece = self._pieces.get((build, args))
        if piece is not None:
            piece.used = self._turn
        return piece

    def keep(self, build: Callable[..., T], args: tuple[Any, ...], value: T, touched: Iterable[Touch]) -> Piece[T]:
        key = (build, args)
        piece = self._pieces[key] = Piece(build, args, value, frozenset(touched), self._turn)
        for touch in piece.touched:
            self._readers.setdefault(touch, set()).add(key)
        return piece

    def _shrink(self) -> None:
        """To half, so that it is seldom."""
        oldest = sorted(self._pieces, key=lambda key: self._pieces[key].used)
        for key in oldest[: len(oldest) - self._limit // 2]:
            self._drop(key)

    def _forget(self, changed: Iterable[Touch]) -> None:
        for key in {key for touch in changed for key in self._readers.get(touch, ())}:
            self._drop(key)

    def _drop(self, key: Any) -> None:
        piece = self._pieces.pop(key)
        piece.alive = False
        for touch in piece.touched:
            readers = self._readers[touch]
            readers.discard(key)
            if not readers:
                del self._readers[touch]


class Reading(View):
    """A View that can take pieces from a memo."""

    __slots__ = ("_memo",)

    def __init__(self, mesh: Mesh, memo: Memo) -> None:
        super().__init__(mesh)
        self._memo = memo

    def once(self, build: Callable[Concatenate[Reading, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `build(reading, *args)` returns, the very same object as long as what it reads stays the same.

        `build` must depend on its arguments and on what it reads alone; arguments are positional, hashable and cheap to compare."""
        assert not kwargs, "pieces are told apart by positional arguments"
        return self.piece(build, *args).value

    def piece(self, build: Callable[..., T], *args: Any) -> Piece[T]:
        """The same as it is kept, for those who look later whether it still holds."""
        piece = self._memo.find(build, args)
        if piece is None:
            inner = Reading(self.mesh, self._memo)
            piece = self._memo.keep(build, args, build(inner, *args), inner.touched)
        self.touched |= piece.touched
        return piece
