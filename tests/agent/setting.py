"""One host with one placement, the whole agent in this process and a real Envoy: what the tests of the agent as a whole begin with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshagent.agent import identity, run
from meshagent.agent.settings import Settings
from meshagent.host import processes
from meshagent.identity import x509
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import Resource, Snapshot, Stamp
from tests.agent.authority import TRUST_DOMAIN, Authority
from tests.agent.upstream import HOST, Upstream, server_name
from tests.xds.real import Backend, ask, cluster, endpoints, listener, route

WEB = "mesh/shop/virtualNode/web"
ID = "0123456789ab"


@dataclass
class Setting:
    """One host with one placement. `start` begins an agent, `stop` ends it as SIGKILL would: nothing is cleaned up."""

    settings: Settings
    upstream: Upstream
    backend: Backend
    port: int
    task: asyncio.Task[None] | None = None

    @property
    def proxy(self) -> Path:
        return self.settings.state_directory / "proxies" / ID

    def start(self) -> None:
        self.task = asyncio.create_task(run.run(self.settings))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    def resources(self, timeout: str = "1s") -> list[Resource]:
        return [
            cluster("web", connectTimeout=timeout),
            endpoints("web", self.backend.port),
            listener("in", self.port, "in"),
            route("in", "web"),
        ]

    def offer(self, revision: int, *resources: Resource, lineage: str = "aa") -> Snapshot:
        snapshot = Snapshot.build(
            resources or self.resources(), Stamp(lineage, revision, "specified" if resources else "")
        )
        self.upstream.snapshots.set(ID, snapshot)
        return snapshot

    async def reported(self, true: Callable[[host_pb2.PlacementStatus], Any], what: str, seconds: float = 20.0) -> None:
        def holds(observed: host_pb2.Observed) -> bool:
            return bool(observed.placements) and bool(true(observed.placements[0]))

        await self.upstream.until(holds, what, seconds)

    async def live(self, revision: int, pid_not: int = 0) -> int:
        """Waits until Envoy serves from that revision, healthy; its pid."""
        await self.reported(
            lambda s: (
                s.envoy_state == "LIVE"
                and s.health == host_pb2.HEALTHY
                and s.held.revision == revision
                and s.envoy_pid != pid_not
            ),
            f"live, healthy and on revision {revision}",
        )
        return int(self.upstream.observed.placements[0].envoy_pid)

    def pids(self) -> list[int]:
        return [p.pid for p in processes.own_processes() if any(a.startswith(f"{self.proxy}/") for a in p.arguments)]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def join_by_hand(directory: Path, authority: Authority, servers: list[str]) -> None:
    key = x509.new_key()
    identity.install(directory, key, authority.sign(x509.new_request(key), f"host/{HOST}"), authority.bundle)
    joined = {"host": HOST, "servers": servers, "server_name": server_name(), "trust_domain": TRUST_DOMAIN}
    (directory / "joined.json").write_text(json.dumps(joined))


async def until_answers(setting: Setting, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while await ask(setting.port) != "web":
        assert time.monotonic() < deadline, f"no answer within {seconds:g} s"
        await asyncio.sleep(0.02)
