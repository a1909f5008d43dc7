"""The golden cases: documents and one placement each (cases/*.yaml), and what the compiler makes of them (golden/*.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshagent.envoy.compile import Compiled, Compiler
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import Endpoint, Health, Mode, Placement
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import MODELS, Spec
from meshagent.xds.snapshot import Snapshot

HERE = Path(__file__).parent
TRUST_DOMAIN = "shop.example"
LINEAGE = "0123456789abcdef"


@dataclass(frozen=True)
class Case:
    name: str
    mesh: Mesh
    placement: Placement

    @property
    def golden(self) -> Path:
        return HERE / "golden" / f"{self.name}.yaml"

    def compile(self) -> Compiled:
        return Compiler().compile(self.mesh, self.placement, TRUST_DOMAIN)


def spec_of(document: dict[str, Any]) -> Spec:
    kind = Kind(document["kind"])
    parent = document[kind.parent.name_field] if kind.parent is not None else None
    key = Key(document["meshName"], kind, document[kind.name_field], parent)
    return Spec(key, MODELS[kind].model_validate(document["spec"]))


def case_of(name: str, text: str) -> Case:
    case = yaml.safe_load(text)
    endpoints = {
        Key.parse(path): tuple(
            Endpoint(
                Key.parse(path),
                each["address"],
                health=Health(each.get("health", "healthy")),
                leased=each.get("leased", False),
            )
            for each in found
        )
        for path, found in case.get("endpoints", {}).items()
    }
    mesh = Mesh.build([spec_of(each) for each in case["documents"]], endpoints=endpoints, revision=1, lineage=LINEAGE)
    application = case.get("application", "127.0.0.1")
    proxy, ipv6 = Key.parse(case["proxy"]), case.get("ipv6", False)
    placement = Placement("p1", "host-1", proxy, Mode(case["mode"]), case["slot"], "10.0.0.1", application, ipv6)
    return Case(name, mesh, placement)


def golden_cases() -> list[Case]:
    return [case_of(path.stem, path.read_text()) for path in sorted((HERE / "cases").glob("*.yaml"))]


def golden_snapshots() -> dict[str, Snapshot]:
    """By the case's name."""
    return {case.name: case.compile().snapshot for case in golden_cases()}
