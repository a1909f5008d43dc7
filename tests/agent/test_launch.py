"""A generation whose process ends again and again: what is counted and said of it, and who makes the pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from meshagent.agent import launch
from meshagent.agent.bootstrap import Node
from meshagent.agent.launch import Generation, Ground, Program, spec_for
from meshagent.host.supervisor import Running, Supervisor, SupervisorError, intent
from tests.xds.real import until

NODE = Node("p1", "mesh/shop/virtualNode/web")


@dataclass
class Manager:
    """As systemd: a process that has ended is followed by the next. `lives` are how many processes to come end at once; the one after them
    stays until `end` is set."""

    spec: Any
    lives: int
    unseen: int = 0  # that end before anybody sees them, after the first
    pid: int = 0
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self, running: Running) -> str:
        if running.pid > self.lives:
            await self.end.wait()
            self.end.clear()
        return "ended"

    async def again(self, running: Running, stopped: Callable[[str], None], missed: Callable[[int], None]) -> Running:
        if self.unseen:
            missed(self.unseen)
            self.unseen = 0
        self.pid += 1
        return replace(intent(self.spec), pid=self.pid)


class Face:
    async def serve(self, socket: Path, owner: int | None) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def kept(lives: int, unseen: int = 0) -> AsyncIterator[tuple[Generation, Manager, list[int]]]:
    spec = spec_for(Program("1.40.0", Path("/envoys"), Path("/run/m")), NODE, Path("/state/p1"), 1)
    manager = Manager(spec, lives, unseen)
    ground = Ground(NODE, cast(Supervisor, manager), lambda: "", lambda: None, None)
    generation = Generation(spec, cast(Any, Face()), ground, False, None, known=intent(spec))
    counted: list[int] = []
    generation.ended = lambda: counted.append(1)
    task = asyncio.create_task(generation.run())
    try:
        yield generation, manager, counted
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_ends_in_a_row_are_said_until_one_has_run_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(5), kept(lives=20) as (generation, manager, counted):
        # In a moment: the pauses are the manager's.
        await until(lambda: generation.running is not None and generation.running.pid == 21, "the one that stays")
        assert len(counted) == 20
        assert "20 times in a row" in generation.crashes
        monkeypatch.setattr(launch, "_STEADY", 0.0)
        await until(lambda: generation.crashes == "", "it has run")
        manager.end.set()
        await until(lambda: generation.running is not None and generation.running.pid == 22, "the next")
        assert generation.crashes == "", "one end, long after"
        assert len(counted) == 21


async def test_ends_that_came_too_fast_to_be_seen_are_counted() -> None:
    async with asyncio.timeout(5), kept(lives=1, unseen=4) as (generation, _, counted):
        await until(lambda: generation.running is not None and generation.running.pid == 2, "the one that stays")
        assert len(counted) == 5
        assert "5 times in a row" in generation.crashes


async def test_two_ends_may_be_chance() -> None:
    async with asyncio.timeout(5), kept(lives=2) as (generation, _, counted):
        await until(lambda: generation.running is not None and generation.running.pid == 3, "the one that stays")
        assert len(counted) == 2
        assert generation.crashes == ""


class Failing:
    """Starts take until `go`, and fail."""

    def __init__(self) -> None:
        self.starts, self.begun, self.go = 0, asyncio.Event(), asyncio.Event()

    async def start(self, spec: Any) -> Running:
        self.starts += 1
        self.begun.set()
        await self.go.wait()
        raise SupervisorError("it did not start")


async def test_one_that_is_retired_while_it_starts_is_not_started_again(run_dir: Path) -> None:
    """Whatever comes after is sure that nothing of it comes back."""
    manager = Failing()
    spec = spec_for(Program("1.40.0", run_dir, run_dir), NODE, run_dir, 1)
    ground = Ground(NODE, cast(Supervisor, manager), lambda: "", lambda: None, None)
    generation = Generation(spec, cast(Any, Face()), ground, False, None)
    task = asyncio.create_task(generation.run())
    try:
        async with asyncio.timeout(20):
            await manager.begun.wait()
            retired = asyncio.create_task(generation.retires())
            await asyncio.sleep(0)
            assert not retired.done()
            manager.go.set()
            await retired
            assert generation.retiring
            await generation._start()
            assert manager.starts == 1
    finally:
        task.cancel()
        await asyncio.wait({task})
