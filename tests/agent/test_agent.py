"""The whole agent in one process: a server's words in, real Envoys out, and what it does when either is gone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _registered  # noqa: F401

from meshagent.agent import admin, cache, identity, proxy, run
from meshagent.agent.settings import Settings
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import LISTENER, ORDER, Resource
from tests.agent.setting import WEB, Setting, join_by_hand, until_answers
from tests.xds.real import ADS, HCM, ROUTER, ask, cluster, endpoints, listener, until

pytestmark = pytest.mark.envoy


async def test_a_placement_comes_up_and_serves(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    assert await ask(setting.port) == "web"
    assert setting.pids() == [pid]
    await until(lambda: setting.upstream.seen.synced(1), "acknowledged upstream")
    saved = cache.load(setting.proxy / "snapshot.bin")
    assert saved is not None and saved.stamp.revision == 1
    assert (setting.proxy / "hosts").read_text() == "127.64.0.1\tcatalog.local\n"
    generation = json.loads((setting.proxy / "generation.json").read_text())
    assert (generation["pid"], generation["resource"]) == (pid, WEB)
    hello = setting.upstream.hellos[0]
    assert (hello.protocol, hello.address, hello.placements[0].resource) == (1, "127.0.0.1", WEB)


async def test_c1_h2_from_disk_alone_an_envoy_comes_back_at_once_and_a_host_starts_anew(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    await setting.upstream.stop()
    os.kill(pid, signal.SIGKILL)
    await until_answers(setting, 2.0)
    # As after a reboot: no agent, no Envoy, no sockets, no server.
    await setting.stop()
    for each in setting.pids():
        os.kill(each, signal.SIGKILL)
    await until(lambda: not setting.pids(), "no Envoy runs")
    shutil.rmtree(setting.settings.runtime_directory)
    setting.start()
    await until_answers(setting, 10.0)
    assert len(setting.pids()) == 1
    # The server is back: in sync, and nothing is sent again.
    await setting.upstream.start()
    await setting.live(1)
    await until(lambda: bool(setting.upstream.seen.streams) and setting.upstream.seen.stream.synced, "in sync")
    assert setting.upstream.seen.stream._nonces == 0


async def test_h2_an_envoy_that_was_started_again_is_an_endpoint_once_it_is_live(setting: Setting) -> None:
    """Its predecessor's good name is not its own: until it listens, who is sent to it is refused."""
    setting.start()
    pid = await setting.live(1)
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        fresh = await setting.live(1, pid_not=pid)
        said = [
            each for observed in setting.upstream.history for each in observed.placements if each.envoy_pid == fresh
        ]
        assert [
            each.envoy_state for each in said if each.health == host_pb2.HEALTHY and each.envoy_state != "LIVE"
        ] == []
        pid = fresh


async def test_an_envoy_that_does_not_say_what_it_holds_holds_what_it_said_last(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "CERTIFICATES", 0.1)
    monkeypatch.setattr(proxy, "POLL", 0.1)
    asked = 0

    async def late(_: str) -> tuple[admin.Held, ...] | None:
        """An answer that never comes in time again."""
        nonlocal asked
        asked += 1
        return (admin.Held("ab", 4102444800, (f"spiffe://mesh.local/{WEB}",)),) if asked == 1 else None

    monkeypatch.setattr(admin, "certificates", late)
    setting.start()
    await setting.reported(lambda s: s.certificate_serial == "ab", "its certificate")
    seen = len(setting.upstream.history)
    await until(lambda: asked > 6, "asked again and again")
    said = [each for observed in list(setting.upstream.history)[seen:] for each in observed.placements]
    assert [each.certificate_serial for each in said if each.certificate_serial != "ab"] == []


async def test_h1_a_restarted_agent_adopts_the_envoy_that_runs(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    for _ in range(3):
        await setting.stop()
        assert await ask(setting.port) == "web"
        setting.upstream.observed = host_pb2.Observed()
        setting.start()
        assert await setting.live(1) == pid
        assert setting.pids() == [pid]
    await setting.stop()
    (setting.proxy / "generation.json").unlink()
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    setting.offer(2, *setting.resources("2s"))
    assert await setting.live(2) == pid


async def test_nothing_is_acknowledged_or_saved_before_envoy_has_spoken(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        setting.offer(2, *setting.resources("2s"))
        await until(lambda: setting.upstream.seen.stream._types[ORDER[0]].in_flight, "sent to the agent")
        await asyncio.sleep(0.3)
        saved = cache.load(setting.proxy / "snapshot.bin")
        assert saved is not None and saved.stamp.revision == 1
        assert not setting.upstream.seen.stream.synced
    finally:
        os.kill(pid, signal.SIGCONT)
    await setting.live(2)
    await until(lambda: setting.upstream.seen.synced(2), "acknowledged upstream")


async def test_c9_a_foreign_lineage_and_an_empty_state_are_kept_out_until_accepted(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    foreign = host_pb2.Stamp(lineage="bb", revision=1)
    placements = list(setting.upstream.desired.placements)
    await setting.upstream.say(stamp=foreign, placements=[])
    setting.offer(1, *setting.resources("3s"), lineage="bb")
    await setting.upstream.until(lambda o: "lineage bb" in o.held_reason, "the host says why")
    await setting.reported(lambda s: "lineage bb" in s.held_reason, "the proxy says why")
    assert setting.upstream.observed.held.lineage == "aa"
    assert await ask(setting.port) == "web"
    assert setting.pids() == [pid]
    await setting.upstream.say(placements=placements, accept=True)
    await setting.reported(lambda s: s.held.lineage == "bb" and not s.held_reason, "released")
    await setting.upstream.until(lambda o: o.held.lineage == "bb" and not o.held_reason, "released")
    assert setting.pids() == [pid]


async def test_c12_what_envoy_refuses_is_told_in_its_words_and_the_last_good_goes_on(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    chain = {"certificateChain": {"filename": "/no/such.pem"}, "privateKey": {"filename": "/no/such.key"}}
    tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    socket_ = {"name": "tls", "typedConfig": {"@type": tls, "commonTlsContext": {"tlsCertificates": [chain]}}}
    hcm = {"filters": [], "transportSocket": socket_}
    bad = listener("in", setting.port, "in", filterChains=[hcm])
    fine = setting.resources("2s")
    setting.offer(2, *[each for each in fine if each.type_url != LISTENER], bad)
    await setting.reported(lambda s: s.rejections and s.held.revision == 2, "refused")
    rejection = setting.upstream.observed.placements[0].rejections[0]
    assert (rejection.name, rejection.version) == ("in", bad.version)
    assert "/no/such" in rejection.words
    await until(lambda: setting.upstream.seen.stream.rejected, "refused upstream")
    assert "/no/such" in setting.upstream.seen.stream.rejected[0].words
    assert await ask(setting.port) == "web"
    saved = cache.load(setting.proxy / "snapshot.bin")
    assert saved is not None
    assert saved.of(LISTENER)["in"].version != bad.version
    # Envoy comes back with the last good listener, and is not asked about the bad one again.
    os.kill(pid, signal.SIGKILL)
    await until_answers(setting, 2.0)
    assert setting.upstream.observed.placements[0].rejections
    # What it holds is offered again, and it hears that the refusal is over.
    setting.offer(3, *fine)
    await setting.reported(lambda s: not s.rejections and s.held.revision == 3, "taken back")
    mended = listener("in", setting.port, "in", perConnectionBufferLimitBytes=65536)
    setting.offer(4, *[each for each in fine if each.type_url != LISTENER], mended)
    await setting.reported(lambda s: not s.rejections and s.held.revision == 4, "mended")
    assert await ask(setting.port) == "web"


DEADLY = """os.exit(3)
function envoy_on_request(request_handle) end
"""


def deadly(port: int) -> Resource:
    """A listener that ends the Envoy which takes it: its script does, as it is loaded."""
    lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    script = {"name": "lua", "typedConfig": {"@type": lua, "defaultSourceCode": {"inlineString": DEADLY}}}
    router = {"name": "router", "typedConfig": {"@type": ROUTER}}
    rds = {"configSource": ADS, "routeConfigName": "in"}
    hcm = {"@type": HCM, "statPrefix": "in", "rds": rds, "httpFilters": [script, router]}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": hcm}]}
    return listener("in", port, "in", filterChains=[chain])


async def test_what_ends_every_envoy_that_takes_it_is_set_aside_and_the_last_good_goes_on(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    rest = [each for each in setting.resources() if each.type_url != LISTENER]
    setting.offer(2, *rest, deadly(setting.port))
    await setting.reported(lambda s: "Envoy ended each time" in s.held_reason, "set aside")
    await setting.live(1, pid_not=pid)
    assert await ask(setting.port) == "web"
    ends = setting.upstream.observed.placements[0].envoy_restarts
    assert ends == 2
    # What else changes with it does not make it less deadly: nobody is asked to take it.
    setting.offer(3, *rest, deadly(setting.port), cluster("other"), endpoints("other", 1))
    await until(lambda: setting.upstream.seen.stream._types[LISTENER].in_flight, "sent to the agent")
    # An agent that begins anew finds out anew, and falls back again.
    await setting.stop()
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    await setting.reported(lambda s: "revision 3" in s.held_reason, "set aside again")
    await setting.live(1)
    assert await ask(setting.port) == "web"
    # An operator may have it tried again, at the cost of one Envoy.
    ends = setting.upstream.observed.placements[0].envoy_restarts
    await setting.upstream.say(accept=True)
    await setting.reported(
        lambda s: s.envoy_restarts > ends and "revision 3" in s.held_reason, "tried again, set aside"
    )
    await setting.upstream.say(accept=False)
    await setting.live(1)
    assert setting.upstream.observed.placements[0].envoy_restarts == ends + 1
    good = setting.resources("3s")
    setting.offer(4, *good)
    await setting.live(4)
    await until(lambda: setting.upstream.seen.synced(4), "acknowledged upstream")
    assert not setting.upstream.observed.placements[0].held_reason


async def test_d1_health_is_reported_when_the_application_goes_and_comes(setting: Setting) -> None:
    setting.start()
    await setting.live(1)
    server = setting.backend._server
    assert server is not None
    server.close()
    await setting.reported(
        lambda s: s.health == host_pb2.UNHEALTHY and "refused" in s.health_detail.lower(), "unhealthy", 3.0
    )
    setting.backend._server = await asyncio.start_server(setting.backend._serve, "127.0.0.1", setting.backend.port)
    await setting.reported(lambda s: s.health == host_pb2.HEALTHY, "healthy", 3.0)


async def test_a_placement_that_goes_is_drained_ended_and_removed_with_its_keys(setting: Setting) -> None:
    setting.start()
    await setting.live(1)
    placements = list(setting.upstream.desired.placements)
    await setting.upstream.say(stamp=host_pb2.Stamp(lineage="aa", revision=2), placements=[])
    await setting.upstream.until(
        lambda o: "no placement" in o.held_reason, "an empty state without a reason is kept out"
    )
    assert setting.pids()
    await setting.upstream.say(
        stamp=host_pb2.Stamp(lineage="aa", revision=3, reason="deleted mesh/shop"), placements=[]
    )
    await until(lambda: not setting.proxy.exists(), "removed")
    assert setting.pids() == []
    assert [path.name for path in setting.settings.runtime_directory.iterdir()] == ["agent.sock"]
    await setting.upstream.say(stamp=host_pb2.Stamp(lineage="aa", revision=4), placements=placements)
    await setting.live(1)


async def test_certificates_are_renewed_and_the_connection_with_them(setting: Setting) -> None:
    setting.upstream.authority.life = 6.0
    join_by_hand(setting.settings.state_directory / "host", setting.upstream.authority, [setting.upstream.address])
    setting.start()
    pid = await setting.live(1)
    first = setting.upstream.peers[0]
    serial = current_serial(setting)
    await until(lambda: setting.upstream.peers[-1] != first, "another host certificate", 15.0)
    await until(lambda: current_serial(setting) != serial, "another certificate for the proxy", 15.0)
    assert await setting.live(1) == pid
    await until(lambda: bool(setting.upstream.seen.streams) and setting.upstream.seen.stream.synced, "in sync")
    assert setting.upstream.seen.stream._nonces == 0


def current_serial(setting: Setting) -> str:
    held = identity.read(setting.proxy / "tls")
    return held.leaf.serial if held else ""


async def test_stop_proxies_ends_what_runs_when_no_agent_does(setting: Setting) -> None:
    setting.start()
    await setting.live(1)
    await setting.stop()
    assert await asyncio.to_thread(run.stop_proxies, setting.settings) == 1
    assert setting.pids() == []
    assert await asyncio.to_thread(run.stop_proxies, setting.settings) == 0


def test_two_agents_do_not_share_a_state_directory(tmp_path: Path) -> None:
    settings = Settings(state_directory=tmp_path, runtime_directory=tmp_path / "run", placements=())
    with run._alone(tmp_path), pytest.raises(run.AgentError, match=f"pid {os.getpid()}"):
        run.stop_proxies(settings)


async def test_a_placement_in_another_slot_begins_anew_as_who_it_was(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the slot, its Envoy's user is another: the next one is started for that one."""
    slots: list[int] = []
    monkeypatch.setattr(run, "_owner", lambda _: slots.append)
    setting.start()
    pid = await setting.live(1)
    serial = setting.upstream.observed.placements[0].certificate_serial
    (placement,) = setting.upstream.desired.placements
    moved = host_pb2.Placement()
    moved.CopyFrom(placement)
    moved.slot = 58  # nobody else's on this machine
    await setting.upstream.say(placements=[moved])
    await setting.live(1, pid_not=pid)
    assert slots == [0, 58]
    assert setting.pids() == [setting.upstream.observed.placements[0].envoy_pid]
    assert setting.upstream.observed.placements[0].certificate_serial == serial
    assert not setting.upstream.observed.placements[0].upgrade_failure
    await until_answers(setting, 5.0)
