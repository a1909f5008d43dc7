"""Numbers of worlds: no two on a machine have one, whoever runs them."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meshagent.demo.world import WORLDS, World, WorldError


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


async def test_a_number_is_one_worlds_and_free_after_it(tmp_path: Path) -> None:
    async with World(tmp_path) as one:
        async with World(tmp_path) as two:
            assert one.number != two.number
            freed = two.number
        async with World(tmp_path) as three:
            assert three.number == freed


async def test_when_all_are_taken_it_is_said(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(WorldError, match="worlds run on this machine already: end one"):
            for _ in range(WORLDS + 1):
                await stack.enter_async_context(World(tmp_path))
