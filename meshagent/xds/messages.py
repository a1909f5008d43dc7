"""What is said on an ADS stream, as values: requests, responses, rejections.

One pair of shapes for both protocols. Delta fills `subscribe`, `unsubscribe` and `initial_versions`; state of the world
fills `names` and `version`. `wire` turns them into protobuf and back; nothing here knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from meshagent.xds.snapshot import Resource


class Protocol(StrEnum):
    DELTA = "delta"
    SOTW = "sotw"


class Pacing(StrEnum):
    """How a push is laid out in time."""

    ACKNOWLEDGED = "acknowledged"
    """Towards an Envoy: a later step of make-before-break waits until the earlier one is acknowledged or rejected."""
    PIPELINED = "pipelined"
    """Towards an agent: all steps at once, in order. It collects them into one closed Snapshot; the last carries the
    stamp."""


@dataclass(frozen=True)
class Request:
    """A subscription, an ACK or a NACK, or several of these at once.

    `error` is a NACK's words, None when it is none. `names` and `version` are state of the world's resource_names and
    version_info."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None
    names: tuple[str, ...] | None = None
    version: str = ""


@dataclass(frozen=True)
class Response:
    """`system_version` is, in delta, the snapshot's stamp at the end of a pipelined push, else ""; in state of the
    world the set's version."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    system_version: str = ""


@dataclass(frozen=True)
class Rejection:
    """One version of one resource that a client refused, in its own words."""

    type_url: str
    name: str
    version: str
    words: str
