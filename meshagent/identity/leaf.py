"""What a chain's first certificate says, as values: whoever only asks how long a certificate lasts needs no X.509 for it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from meshagent.errors import MeshagentError
from meshagent.identity import spiffe


@dataclass(frozen=True)
class Leaf:
    """Times are Unix seconds; `serial` is whole bytes in lower-case hex, as Envoy's /certs prints it; `issued` is when it was made, before
    backdating: life is counted from there."""

    serial: str
    issued: float
    end: float
    spiffe_id: spiffe.SpiffeId
    public_key_sha256: str


def encoded(leaf: Leaf) -> dict[str, Any]:
    """As JSON has it."""
    return {**asdict(leaf), "spiffe_id": str(leaf.spiffe_id)}


def decoded(values: Any) -> Leaf | None:
    """None for what `encoded` did not make."""
    try:
        return Leaf(
            serial=str(values["serial"]),
            issued=_seconds(values["issued"]),
            end=_seconds(values["end"]),
            spiffe_id=spiffe.parse(values["spiffe_id"]),
            public_key_sha256=str(values["public_key_sha256"]),
        )
    except (MeshagentError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value} is no time")
    return seconds


def note(leaf: Leaf, chain_sha256: str) -> str:
    """For a file beside the chain that it is of."""
    return json.dumps({"chain_sha256": chain_sha256, **encoded(leaf)}, indent=1) + "\n"


def noted(text: bytes, chain_sha256: str) -> Leaf | None:
    """What a note says of this very chain; None when it is of another, or is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("chain_sha256") != chain_sha256:
        return None
    return decoded(values)
