"""What tests of the agent may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshagent.agent.settings import EnvoySettings, HostSettings, PlacementSettings, ProbeSettings, Settings
from meshagent.host.child import ChildSupervisor
from meshagent.protocol import host_pb2
from tests.agent.authority import Authority
from tests.agent.setting import ID, WEB, Setting, free_port, join_by_hand
from tests.agent.upstream import HOST, serving
from tests.xds.real import Backend


@pytest.fixture
async def setting(run_dir: Path, envoy_binary: Path) -> AsyncIterator[Setting]:
    authority = Authority()
    async with serving(authority) as upstream, Backend("web") as backend:
        state = run_dir / "state"
        probe = ProbeSettings(interval=0.1, timeout=0.5)
        settings = Settings(
            state_directory=state,
            runtime_directory=run_dir / "run",
            placements=(PlacementSettings(WEB, probe=probe),),
            host=HostSettings(HOST, "127.0.0.1"),
            envoy=EnvoySettings(directory=envoy_binary.parent.parent, concurrency=1, drain=1.0),
        )
        join_by_hand(state / "host", authority, [upstream.address])
        made = Setting(settings, upstream, backend, free_port())
        placement = host_pb2.Placement(
            id=ID,
            resource=WEB,
            mode="bind",
            address="127.0.0.9",
            application="127.0.0.1",
            probes=[host_pb2.Probe(port=backend.port, protocol="tcp")],
            names=[host_pb2.ServiceName(service="catalog.local", address="127.64.0.1")],
        )
        await upstream.say(
            stamp=host_pb2.Stamp(lineage="aa", revision=1),
            placements=[placement],
            lease_seconds=3,
            trust_bundle=authority.bundle.decode(),
        )
        made.offer(1)
        yield made
        await made.stop()
        supervisor = ChildSupervisor()
        for left in await supervisor.find(made.proxy):
            await supervisor.stop(left, 2.0)
