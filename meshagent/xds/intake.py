"""An agent's upstream side of a delta ADS stream: collects pushes into closed snapshots, and answers for them once
Envoy has. Pure.

It subscribes to everything of the four types, and names on every connection what it holds. A push is several responses;
the last carries the snapshot's stamp, and only then is there a candidate. What becomes of a candidate (whether its
lineage is admitted, what Envoy says to it) is the caller's; `settle` turns the outcome into an ACK or a NACK for each
response that the candidate was made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshagent.errors import MeshagentError
from meshagent.xds.blame import mentioned
from meshagent.xds.messages import Rejection, Request, Response
from meshagent.xds.snapshot import ORDER, Resource, Snapshot, Stamp

# More responses than this without a stamp are not one push of one proxy.
MAX_UNSTAMPED = 4096

_WILDCARD = ("*",)


class IntakeError(MeshagentError):
    """The server broke the protocol; the stream is of no more use."""


@dataclass(frozen=True)
class _Received:
    """A response that waits for its answer: what it brought, by name."""

    type_url: str
    nonce: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class _Candidate:
    snapshot: Snapshot
    received: tuple[_Received, ...]


class Intake:
    """`held` is what Envoy serves from: of each resource the last version that it took."""

    def __init__(self, held: Snapshot | None = None) -> None:
        self.held = held if held is not None else Snapshot()
        self._building: dict[str, dict[str, Resource]] = {}
        self._received: list[_Received] = []
        self._candidates: list[_Candidate] = []
        self._restart()

    def open(self) -> list[Request]:
        """The first requests of a new connection. What an earlier one left half collected or unanswered is dropped."""
        self._restart()
        return [
            Request(
                type_url,
                subscribe=_WILDCARD,
                initial_versions={name: resource.version for name, resource in self.held.of(type_url).items()},
            )
            for type_url in ORDER
        ]

    def receive(self, response: Response) -> Snapshot | None:
        """The closed candidate, when this response ends a push. Raises IntakeError."""
        if response.type_url not in self._building:
            raise IntakeError(
                f"the server sent {response.type_url or 'a response without a type'}, which nobody asked for"
            )
        if len(self._received) >= MAX_UNSTAMPED:
            raise IntakeError(f"the server sent {len(self._received)} responses without the stamp that ends a push")
        resources = self._building[response.type_url]
        for name in response.removed:
            resources.pop(name, None)
        for resource in response.resources:
            resources[resource.name] = resource
        versions = {resource.name: resource.version for resource in response.resources}
        self._received.append(_Received(response.type_url, response.nonce, versions))
        if not response.system_version:
            return None
        try:
            stamp = Stamp.parse(response.system_version)
        except ValueError as error:
            raise IntakeError(f"the server's system_version_info: {error}") from None
        candidate = Snapshot({type_url: dict(by_name) for type_url, by_name in self._building.items()}, stamp)
        self._candidates.append(_Candidate(candidate, tuple(self._received)))
        self._received.clear()
        return candidate

    def settle(self, rejected: Iterable[Rejection] = (), candidate: Snapshot | None = None) -> list[Request]:
        """Envoy took `candidate` (by default the latest), but for what it `rejected`: answers for it and for those
        before it.

        A candidate of an earlier connection moves `held` on, and has nothing left to answer."""
        refused = {(rejection.type_url, rejection.name, rejection.version): rejection for rejection in rejected}
        if candidate is None:
            if not self._candidates:
                return []
            candidate = self._candidates[-1].snapshot
        index = next((i for i, each in enumerate(self._candidates) if each.snapshot is candidate), -1)
        answered = self._candidates[: index + 1]
        del self._candidates[: index + 1]
        self._revert(candidate, refused)
        return [_answer(received, refused) for each in answered for received in each.received]

    def _revert(self, candidate: Snapshot, refused: Mapping[tuple[str, str, str], Rejection]) -> None:
        """Takes the candidate as held, with the version before in the place of each refused one, and builds on from
        there."""
        held: dict[str, dict[str, Resource]] = {type_url: dict(candidate.of(type_url)) for type_url in ORDER}
        for type_url, name, version in refused:
            before = self.held.of(type_url).get(name)
            for resources in (held.get(type_url), self._building.get(type_url)):
                if resources is None or name not in resources or resources[name].version != version:
                    continue
                if before is None:
                    del resources[name]
                else:
                    # Maybe the same: a version that was taken once, and that an Envoy started since refuses, stays what
                    # is held.
                    resources[name] = before
        self.held = Snapshot(held, candidate.stamp)

    def _restart(self) -> None:
        self._building = {type_url: dict(self.held.of(type_url)) for type_url in ORDER}
        self._received.clear()
        self._candidates.clear()


def _answer(received: _Received, refused: Mapping[tuple[str, str, str], Rejection]) -> Request:
    """An ACK, or a NACK with the words of all that was refused; each name stands in them, so that the server can tell
    whom they are about."""
    words = []
    for name, version in received.versions.items():
        rejection = refused.get((received.type_url, name, version))
        if rejection is not None:
            told = rejection.words if mentioned(rejection.words, (name,)) else f"{name}: {rejection.words}"
            if told not in words:
                words.append(told)
    return Request(received.type_url, nonce=received.nonce, error="\n".join(words) if words else None)
