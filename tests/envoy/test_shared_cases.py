"""Whole App Mesh meshes, as their authors called them into being, compiled for each of their proxies; the real Envoy accepts each.

The cases lie beside the project; where they do not, this is skipped.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from meshagent.cli.standins import StandIn, stand_in, with_stand_ins
from meshagent.envoy.compile import Compiled, Compiler, static_form
from meshagent.envoy.readable import readable_snapshot
from meshagent.envoy.routes import clusters_named
from meshagent.envoy.static import message_of
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import Mode, Placement
from meshagent.specs.documents import parse_document
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Source, Spec
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases"
SETS = sorted(path.name for path in CASES.iterdir() if path.is_dir()) if CASES.is_dir() else []
PROXIED = (Kind.VIRTUAL_NODE, Kind.VIRTUAL_GATEWAY)
VALIDATIONS_AT_ONCE = 2

pytestmark = pytest.mark.skipif(not SETS, reason=f"needs the App Mesh cases at {CASES}")

Specs = Mapping[Key, Spec]


@dataclass(frozen=True)
class State:
    """What a set's calls have come to after a step, where it is worth a look: at the end, and before something is deleted."""

    after: str
    specs: Specs


def states(name: str) -> Iterator[State]:
    steps = sorted((CASES / name).glob("*.calls.json"))
    # A set's 00-cfn-mesh is a second form of the mesh that the other steps make.
    alone = [step for step in steps if step.name.startswith("00-cfn-mesh")]
    for sequence in (alone, [step for step in steps if step not in alone]):
        specs: dict[Key, Spec] = {}
        last = ""
        for step in sequence:
            calls = json.loads(step.read_text())["calls"]
            if specs and any(call["op"].startswith("Delete") for call in calls):
                yield State(last, dict(specs))
            for call in calls:
                apply(specs, call["op"], call["params"], str(step.relative_to(CASES)))
            last = step.name
        if specs:
            yield State(last, specs)


def apply(specs: dict[Key, Spec], op: str, params: Mapping[str, Any], file: str) -> None:
    if op.startswith("Delete"):
        kind = Kind(op.removeprefix("Delete"))
        parent = params[kind.parent.name_field] if kind.parent else None
        # One set takes down a mesh that it never made.
        specs.pop(Key(params["meshName"], kind, params[kind.name_field], parent), None)
        return
    loaded = parse_document(params, Source(file))
    assert not loaded.errors, "\n".join(map(str, loaded.errors))
    (spec,) = loaded.specs
    assert op.removeprefix("Create").removeprefix("Update") == spec.key.kind
    specs[spec.key] = spec


@dataclass(frozen=True)
class Proxy:
    state: str
    key: Key
    mode: Mode
    compiled: Compiled


@cache
def proxies(name: str) -> tuple[Proxy, ...]:
    found = []
    for state in states(name):
        mesh, compiler = Mesh.build(state.specs.values()), Compiler()
        for key in sorted(key for key in state.specs if key.kind in PROXIED):
            for slot, mode in enumerate(Mode):
                placement = Placement("p", "host", key, mode, slot, "127.0.0.2")
                found.append(Proxy(state.after, key, mode, compiler.compile(mesh, placement, "mesh.local")))
    return tuple(found)


def gaps(snapshot: Snapshot) -> set[str]:
    """What a snapshot's resources refer to and it does not have."""
    clusters = {name: message_of(each) for name, each in snapshot.of(CLUSTER).items()}
    named: set[str] = set()
    for each in snapshot.of(ROUTE).values():
        named |= clusters_named(message_of(each))
    eds = {name for name, each in clusters.items() if each.HasField("eds_cluster_config")}
    routes, targets = referred(readable_snapshot(snapshot)["listeners"])
    return ((named | targets) - set(clusters)) | (eds - set(snapshot.of(ENDPOINT))) | (routes - set(snapshot.of(ROUTE)))


def referred(form: Any) -> tuple[set[str], set[str]]:
    """The route configurations and tcp_proxy's clusters that listeners name."""
    routes: set[str] = set()
    clusters: set[str] = set()
    todo = [form]
    while todo:
        each = todo.pop()
        if isinstance(each, list):
            todo += each
        elif isinstance(each, dict):
            todo += each.values()
            if "rds" in each:
                routes.add(each["rds"]["route_config_name"])
            if each.get("@type", "").endswith("tcp_proxy.v3.TcpProxy"):
                weighted = each.get("weighted_clusters", {}).get("clusters", ())
                clusters |= {each["cluster"]} if "cluster" in each else {one["name"] for one in weighted}
    return routes, clusters


@pytest.mark.parametrize("name", SETS)
def test_every_proxy_compiles(name: str) -> None:
    assert proxies(name), "a set that comes to nothing"
    for proxy in proxies(name):
        where = f"{proxy.key} after {proxy.state}, {proxy.mode}"
        snapshot = proxy.compiled.snapshot
        assert not gaps(snapshot), where
        assert snapshot.of(LISTENER) or proxy.compiled.notices, f"{where}: nothing to listen on, and no word of why"


class Files:
    """A directory in which every file that a document names as a certificate or key exists, under a name of its own."""

    def __init__(self, directory: Path, given: StandIn) -> None:
        self.directory, self.given = directory, given
        for name, content in (("chain.pem", given.certificate), ("key.pem", given.key)):
            (directory / name).write_text(content)

    def standing_in(self, form: Any) -> Any:
        """Certificates' files, and the access logs' that are no devices, put into the directory."""
        if isinstance(form, list):
            return [self.standing_in(each) for each in form]
        if not isinstance(form, dict):
            return form
        made = {key: self.standing_in(value) for key, value in form.items()}
        for key in ("certificate_chain", "trusted_ca", "private_key"):
            if "filename" in made.get(key, {}):
                made[key] = {"filename": str(self.directory / ("key.pem" if key == "private_key" else "chain.pem"))}
        if made.get("@type", "").endswith("FileAccessLog") and not made["path"].startswith("/dev/"):
            made["path"] = str(self.directory / "access.log")
        return made


def refusal(envoy: Path, directory: Path, number: int, form: Mapping[str, Any]) -> str:
    """What Envoy says against a static configuration; "" when it accepts."""
    bootstrap = {
        "static_resources": {"listeners": form["listeners"], "clusters": form["clusters"]},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
    }
    file = directory / f"{number}.json"
    file.write_text(json.dumps(bootstrap))
    run = subprocess.run(
        [str(envoy), "--mode", "validate", "-c", str(file), "-l", "error", "--concurrency", "1"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.mark.envoy
@pytest.mark.parametrize("name", SETS)
def test_envoy_accepts_every_proxy(name: str, envoy_binary: Path, tmp_path: Path) -> None:
    given = stand_in()
    files = Files(tmp_path, given)
    forms: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for proxy in proxies(name):
        form = files.standing_in(with_stand_ins(readable_snapshot(static_form(proxy.compiled.snapshot)), given))
        forms.setdefault(json.dumps(form), (f"{proxy.key} after {proxy.state}, {proxy.mode}", form))
    with ThreadPoolExecutor(VALIDATIONS_AT_ONCE) as pool:
        words = list(
            pool.map(
                lambda each: (each[1][0], refusal(envoy_binary, tmp_path, each[0], each[1][1])),
                enumerate(forms.values()),
            )
        )
    refused = [f"{who}:\n{said}" for who, said in words if said]
    assert not refused, "\n".join(refused)
