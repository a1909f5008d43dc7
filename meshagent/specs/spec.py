"""Spec: one thing that a person wrote, parsed and frozen, with where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshagent.specs.fields import Model
from meshagent.specs.gateways import GatewayRouteSpec, VirtualGatewaySpec
from meshagent.specs.keys import Key, Kind
from meshagent.specs.meshes import MeshSpec
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.specs.policies import MeshPolicySpec, VirtualNodePolicySpec
from meshagent.specs.routes import RouteSpec
from meshagent.specs.services import VirtualRouterSpec, VirtualServiceSpec

MODELS: Mapping[Kind, type[Model]] = {
    Kind.MESH: MeshSpec,
    Kind.VIRTUAL_NODE: VirtualNodeSpec,
    Kind.VIRTUAL_SERVICE: VirtualServiceSpec,
    Kind.VIRTUAL_ROUTER: VirtualRouterSpec,
    Kind.ROUTE: RouteSpec,
    Kind.VIRTUAL_GATEWAY: VirtualGatewaySpec,
    Kind.GATEWAY_ROUTE: GatewayRouteSpec,
    Kind.MESH_POLICY: MeshPolicySpec,
    Kind.VIRTUAL_NODE_POLICY: VirtualNodePolicySpec,
}


@dataclass(frozen=True)
class Source:
    """Where a spec was written: a file and the line (from 1) where its document starts, or an API call."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, eq=False)
class Spec:
    """`body` is the model of `key.kind`. Two specs are equal when they say the same of the same key, wherever they were written."""

    key: Key
    body: Any
    source: Source = field(default_factory=Source)

    @cached_property
    def digest(self) -> str:
        """Equal for equal content: what memoisation compares instead of whole models."""
        wire = json.dumps(self.body.wire(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{self.key.path}\n{wire}".encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
