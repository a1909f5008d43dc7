"""What a spec says that is not compiled, or that cannot be: collected beside the result, never silently left out."""

from __future__ import annotations

from dataclasses import dataclass

from meshagent.specs.keys import Key


@dataclass(frozen=True, order=True)
class Notice:
    """`path` is the place in the resource's document, such as spec.httpRoute.action.weightedTargets[0].virtualNode; "" for all of it."""

    resource: Key
    path: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.resource.path}: {self.path}: {self.message}"
            if self.path
            else f"{self.resource.path}: {self.message}"
        )
