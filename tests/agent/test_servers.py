"""The agent and its servers: those that refuse, hang, go and come back, and those that are not its own."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from click.testing import CliRunner, Result

from meshagent.agent import link
from meshagent.cli.meshagent import meshagent
from meshagent.protocol import host_pb2
from tests.agent.authority import Authority
from tests.agent.setting import ID, Setting, free_port, join_by_hand
from tests.xds.real import ask

pytestmark = pytest.mark.envoy


async def test_c6_servers_that_refuse_or_hang_are_left_for_one_that_answers(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "FIRST_WORD", 0.5)
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        servers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{hanging.getsockname()[1]}", setting.upstream.address]
        join_by_hand(setting.settings.state_directory / "host", setting.upstream.authority, servers)
        setting.start()
        await setting.live(1)


async def test_c6_a_server_that_begins_to_hang_is_noticed_and_taken_back(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "FIRST_WORD", 0.5)
    monkeypatch.setattr(link, "CHECK_TIMEOUT", 0.5)
    setting.start()
    await setting.live(1)
    await setting.upstream.say(lease_seconds=1)
    hellos = len(setting.upstream.hellos)
    setting.upstream.well.clear()
    deadline = time.monotonic() + 20
    while "the server hangs" not in caplog.text:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await ask(setting.port) == "web"
    setting.upstream.well.set()
    while len(setting.upstream.hellos) == hellos:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_servers_that_the_host_joined_with_are_tried_when_those_it_was_told_of_are_gone(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "FIRST_WORD", 0.5)
    setting.start()
    await setting.live(1)
    # As after a join anew, at another place: what lies on the disk names the servers of before.
    await setting.upstream.say(servers=[f"127.0.0.1:{free_port()}"], stamp=host_pb2.Stamp(lineage="aa", revision=2))
    await setting.upstream.until(lambda o: o.held.revision == 2, "taken")
    await setting.stop()
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    await setting.live(1)
    # And while it runs.
    await setting.upstream.stop()
    setting.upstream.observed = host_pb2.Observed()
    await setting.upstream.start()
    await setting.reported(lambda s: s.envoy_state == "LIVE", "back", 8.0)


async def test_a_returned_server_is_seen_fast(setting: Setting) -> None:
    setting.start()
    await setting.live(1)
    await setting.upstream.stop()
    await asyncio.sleep(0.5)
    setting.upstream.observed = host_pb2.Observed()
    await setting.upstream.start()
    await setting.reported(lambda s: s.envoy_state == "LIVE", "reported to the returned server", 8.0)


async def test_a_server_of_another_authority_is_not_spoken_to(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    await setting.upstream.stop()
    setting.upstream.authority = Authority()
    hellos = len(setting.upstream.hellos)
    await setting.upstream.start()
    await asyncio.sleep(1.0)
    assert len(setting.upstream.hellos) == hellos
    assert await ask(setting.port) == "web"
    assert setting.pids() == [pid]


async def test_c3_the_host_says_how_it_does_with_and_without_a_server(setting: Setting) -> None:
    config = setting.settings.state_directory.parent / "agent.yaml"
    config.write_text(f"runtime_directory: {setting.settings.runtime_directory}\nplacements: []\n")

    async def status(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, meshagent, ["status", "--config", str(config), *arguments], env={"COLUMNS": "200"}
        )

    refused = await status()
    assert refused.exit_code == 1
    assert "no agent answers on" in refused.output
    setting.start()
    pid = await setting.live(1)
    said = json.loads((await status("--output", "json")).output)
    assert (said["server"], said["staleSince"], said["healthStatus"]) == (setting.upstream.address, None, "HEALTHY")
    proxy = said["proxies"][0]
    assert (proxy["envoyPid"], proxy["sync"], proxy["endpointHealth"]) == (pid, "current", "healthy")
    lines = (await status()).output.splitlines()
    assert f"connected to {setting.upstream.address}" in lines[0]
    assert ID in lines[2]
    await setting.upstream.stop()
    output = ""
    async with asyncio.timeout(10):
        while not ("stale since" in output and "server: " in output):
            output = (await status()).output
            await asyncio.sleep(0.05)
    assert "stale 1" in output
