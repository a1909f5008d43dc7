"""DNS answers over a restart of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshagent.discovery.leases import Lookup
from meshagent.envoy.compile import Compiler
from meshagent.server import answers as answering
from meshagent.server.answers import Answers
from meshagent.server.catalog import Catalog
from meshagent.server.lineage import open_lineage
from meshagent.server.loop import Loop
from meshagent.server.reconcile import Reconciler
from meshagent.specs.keys import Key
from meshagent.store.memory import MemoryStore
from meshagent.xds.cache import SnapshotCache
from tests.server.meshes import SHOP, specs
from tests.server.serving import eventually

WEB = Lookup("web.example.com", "46")
NODE = """
---
kind: VirtualNode
meshName: shop
virtualNodeName: legacy
spec:
  listeners: [{portMapping: {port: 80, protocol: http}}]
  serviceDiscovery: {dns: {hostname: Legacy.Example.com}}
"""


async def written(answers: Answers, path: Path, text: str) -> None:
    task = asyncio.create_task(answers.run())
    await eventually("the answers to be written", lambda: path.exists() and text in path.read_text(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_answered_is_known_to_the_next_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PAUSE_SECONDS", 0.01)
    path = tmp_path / "resolved.json"
    first = Answers(path)
    first.note(WEB, ("10.0.0.1", "10.0.0.2"))
    first.note(Lookup("old.example.com", "4"), ("10.0.0.9",))
    first.keep([WEB])
    await written(first, path, "10.0.0.2")
    assert Answers(path).known == {WEB: ("10.0.0.1", "10.0.0.2")}


@pytest.mark.parametrize("content", ["", "[]", '{"answers": [{"hostname": 1}]}', "\x00"])
async def test_a_file_that_is_none_is_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "resolved.json"
    path.write_text(content)
    assert Answers(path).known == {}


async def test_d6_a_restarted_server_has_the_endpoints_before_dns_answers() -> None:
    store = MemoryStore()
    await open_lineage(store)
    await Catalog(store).apply(list(specs(SHOP + NODE).values()), "test")
    loop = Loop(store, Reconciler(Compiler(), "mesh.local"), SnapshotCache(), lambda: 0.0)
    loop.resolved(Lookup("legacy.example.com", "46"), ("10.0.0.7",))
    await loop.load()
    legacy = Key.parse("mesh/shop/virtualNode/legacy")
    assert [one.address for one in loop.reconciler.mesh.endpoints(legacy)] == ["10.0.0.7"]
    await store.close()
