"""Real App Mesh definitions, replayed call by call through boto3 as their authors made them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meshagent.specs.keys import Kind
from tests.api.test_appmesh import payload
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases"
SETS = sorted(path.name for path in CASES.iterdir() if path.is_dir()) if CASES.is_dir() else []


def sequences(directory: Path) -> list[list[Path]]:
    """The steps of a set, in order; a file 00-cfn-... is a second form of the same mesh, and a sequence of its own."""
    files = sorted(directory.glob("*.calls.json"))
    other = [file for file in files if file.name.startswith("00-cfn-")]
    return [*([file] for file in other), [file for file in files if file not in other]]


@pytest.mark.skipif(not SETS, reason=f"needs App Mesh definitions in {CASES}")
@pytest.mark.parametrize("name", SETS or ["none"])
def test_a_set_of_definitions_is_taken_call_by_call(aws: Any, name: str) -> None:
    for steps in sequences(CASES / name):
        calls = [call for step in steps for call in json.loads(step.read_text())["calls"]]
        # Some sets were written for a mesh that is already there.
        created = {call["params"]["meshName"] for call in calls if call["op"] == "CreateMesh"}
        for mesh in {call["params"]["meshName"] for call in calls} - created:
            aws.create_mesh(meshName=mesh)
        for call in calls:
            answer = payload(getattr(aws, words(call["op"]))(**call["params"]))
            for field, value in call["params"].items():
                if field not in ("clientToken", "tags", "meshOwner"):
                    assert answer[field] == value, f"{call['op']}: {field}"
        clear(aws)


def words(operation: str) -> str:
    """boto3's name for an operation or a kind: create_virtual_node."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()


def clear(aws: Any) -> None:
    """Everything that is left can be deleted, users first, by its own list's names."""
    order = (
        Kind.GATEWAY_ROUTE,
        Kind.VIRTUAL_GATEWAY,
        Kind.VIRTUAL_SERVICE,
        Kind.ROUTE,
        Kind.VIRTUAL_ROUTER,
        Kind.VIRTUAL_NODE,
    )
    for mesh in [item["meshName"] for item in aws.list_meshes()["meshes"]]:
        for kind in order:
            word = words(kind.value)
            parents = [{}] if kind.parent is None else items(aws, mesh, kind.parent, {})
            for parent in parents:
                for names in items(aws, mesh, kind, parent):
                    getattr(aws, f"delete_{word}")(meshName=mesh, **names)
        aws.delete_mesh(meshName=mesh)


def items(aws: Any, mesh: str, kind: Kind, parent: dict[str, str]) -> list[dict[str, str]]:
    word = words(kind.value)
    found = getattr(aws, f"list_{word}s")(meshName=mesh, **parent)[kind.segment + "s"]
    return [{**parent, kind.name_field: item[kind.name_field]} for item in found]
