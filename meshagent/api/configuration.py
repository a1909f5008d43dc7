"""What the API needs of the configuration it serves. The control plane's catalog is one; its comments are the contract.

Every refusal is an ApiError: NotFoundException, ConflictException, ResourceInUseException, LimitExceededException, and
ServiceUnavailableException while writes are refused or the store cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshagent.api.changes import Change, Record
from meshagent.specs.keys import Key
from meshagent.specs.spec import Spec

Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Written:
    """`revision` is the store's: the new one, or the present one where nothing had to change. `records` are as they are now."""

    revision: int
    changes: tuple[Change, ...]
    records: Mapping[Key, Record]


class Configuration(Protocol):
    async def records(self) -> tuple[Mapping[Key, Record], int]:
        """Everything, and the store's revision that it was read at."""

    async def record(self, key: Key) -> Record:
        """NotFoundException where there is none."""

    async def create(self, spec: Spec, who: str, tags: Tags = (), client_token: str = "") -> Record:
        """A second create that says the same gives the same resource; one that says something else is a ConflictException."""

    async def update(self, spec: Spec, who: str, client_token: str = "") -> Record:
        """Writes nothing where the spec is as it was."""

    async def delete(self, key: Key, who: str) -> tuple[Record, Written]:
        """The record as it was."""

    async def apply(self, documents: Sequence[Spec], who: str, dry_run: bool = False) -> Written:
        """All of it or nothing."""
