"""Selectors: which hosts an operator means by `zone=eu-west-1a,role=web`. Pure.

All conditions must hold. What they are matched against is a host's attributes: its labels, which its own configuration gives, and what was
found out of it (os, arch, zone, instance-type, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshagent.errors import MeshagentError
from meshagent.protocol.labels import label_fault

MOST_CONDITIONS = 16
_FORM = "must be conditions such as zone=eu-west-1a,role=web"


class SelectorError(MeshagentError):
    """A selector that says nothing that hosts could be matched against."""


@dataclass(frozen=True)
class Selector:
    """In its one spelling: sorted by key, each key once."""

    conditions: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """SelectorError where it is none."""
        found: dict[str, str] = {}
        for part in text.split(","):
            key, separator, value = (one.strip() for one in part.partition("="))
            if not separator:
                raise SelectorError(f"selector {text[:80]!r}: {_FORM}")
            if words := label_fault(key, value):
                raise SelectorError(f"selector {text[:80]!r}: {words}")
            if key in found:
                raise SelectorError(f"selector {text[:80]!r}: {key} is given twice, and no host has two values")
            found[key] = value
        if len(found) > MOST_CONDITIONS:
            raise SelectorError(f"selector: must be at most {MOST_CONDITIONS} conditions, found {len(found)}")
        return cls(tuple(sorted(found.items())))

    def matches(self, attributes: Mapping[str, str]) -> bool:
        return all(attributes.get(key) == value for key, value in self.conditions)

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.conditions)
