"""Two generations at once, on real Envoys: what takes over, what is sent away, and what an agent makes of it that is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshagent.agent import generations, launch, run, upgrade
from meshagent.agent.settings import EnvoySettings
from meshagent.host import processes
from meshagent.host.supervisor import read_next, read_state
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import Resource
from tests.agent.setting import Setting
from tests.conftest import ENVOYS
from tests.xds.real import ask, route, until

pytestmark = pytest.mark.envoy

OLD, NEW = "1.39.3", "1.40.0"


@pytest.fixture(autouse=True)
def both_versions() -> None:
    if not (ENVOYS / OLD / "envoy").exists():
        pytest.skip(f"needs Envoy {OLD}: run `make setup`")


def envoy(setting: Setting, version: str, **more: object) -> None:
    envoy = replace(setting.settings.envoy, version=version, **more)  # type: ignore[arg-type]
    setting.settings = replace(setting.settings, envoy=envoy)


@contextlib.asynccontextmanager
async def asked_all_the_time(port: int) -> AsyncIterator[list[str]]:
    """New connections, one after the other; what did not succeed is in the list."""
    failed: list[str] = []
    count = 0
    over = asyncio.Event()

    async def go() -> None:
        nonlocal count
        while not over.is_set():
            count += 1
            answer = await ask(port)
            if answer != "web":
                failed.append(answer or "nothing")
            await asyncio.sleep(0)

    asking = asyncio.create_task(go())
    try:
        yield failed
    finally:
        over.set()
        await asking
    assert count


def serving(setting: Setting) -> list[int]:
    """Without those that only look at a bootstrap."""
    own = [p for p in processes.own_processes() if "--disable-hot-restart" in p.arguments]
    return [p.pid for p in own if any(a.startswith(f"{setting.proxy}/") for a in p.arguments)]


async def serves(setting: Setting, version: str) -> None:
    await setting.reported(
        lambda s: s.envoy_version == version and s.envoy_state == "LIVE" and not s.upgrade_failure, f"{version} serves"
    )


async def test_h3_another_version_takes_over_and_back_and_no_request_is_lost(setting: Setting) -> None:
    envoy(setting, OLD)
    setting.start()
    first = await setting.live(1)
    async with asked_all_the_time(setting.port) as failed:
        for version in (NEW, OLD):
            await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version=version, number=7))
            await serves(setting, version)
            await until(lambda: len(setting.pids()) == 1, "the old one has ended", 15.0)
    assert failed == []
    status = setting.upstream.observed.placements[0]
    assert (status.generation, status.wanted_version, status.envoy_order) == (3, OLD, 7)
    assert setting.pids() != [first]
    await until(lambda: setting.upstream.seen.synced(1), "in sync upstream")
    await until(lambda: not list(setting.proxy.glob("retired-*")), "the old one's files are gone")
    assert [path.name for path in setting.proxy.glob("bootstrap-*")] == ["bootstrap-3.json"]
    assert [path.name for path in setting.settings.runtime_directory.glob("*-*")] == [f"{setting.proxy.name}-3"]
    # And the new one is what is configured now.
    setting.offer(2, *setting.resources("2s"))
    await setting.live(2)


async def test_what_else_an_envoy_is_made_of_takes_over_too_at_the_agents_next_start(setting: Setting) -> None:
    setting.start()
    first = await setting.live(1)
    await setting.stop()
    envoy(setting, NEW, log_level="warning")
    setting.upstream.observed = host_pb2.Observed()
    async with asked_all_the_time(setting.port) as failed:
        setting.start()
        await setting.reported(lambda s: s.generation == 2 and s.envoy_state == "LIVE", "another generation")
        await until(lambda: len(setting.pids()) == 1, "the old one has ended", 15.0)
    assert failed == []
    assert setting.pids() != [first]


PREDICATE = "envoy.retry_host_predicates.previous_hosts"
BROKEN = {
    "crashes": "#!/bin/sh\nexit 3\n",
    "hangs": '#!/bin/sh\n[ "$1" = --mode ] && exit 0\nexec sleep 600\n',
    "refuses": "#!/bin/sh\necho it does not like this >&2\nexit 1\n",
    # A real one, of which a part is switched off that the routes below name.
    "refuses-routes": f'#!/bin/sh\nexec {ENVOYS / NEW}/envoy --disable-extensions envoy.retry_host_predicates/{PREDICATE} "$@"\n',
}


def picky_route() -> Resource:
    type_url = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    predicate = {"name": PREDICATE, "typed_config": {"@type": type_url}}
    action = {"cluster": "web", "retry_policy": {"retry_host_predicate": [predicate]}}
    routes = [{"match": {"prefix": "/"}, "route": action}]
    return route("in", "web", virtualHosts=[{"name": "all", "domains": ["*"], "routes": routes}])


@pytest.mark.parametrize("fault", BROKEN)
async def test_h4_a_version_that_does_not_come_up_is_ended_and_the_old_one_never_noticed(
    setting: Setting,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
) -> None:
    versions = run_dir / "envoys"
    broken = versions / "1.41.0" / "envoy"
    broken.parent.mkdir(parents=True)
    broken.write_text(BROKEN[fault])
    broken.chmod(0o755)
    (versions / NEW).symlink_to((ENVOYS / NEW).absolute())
    envoy(setting, NEW, directory=versions)
    setting.offer(1, *setting.resources()[:3], picky_route())
    setting.start()
    pid = await setting.live(1)
    if fault == "hangs":
        monkeypatch.setattr(upgrade, "TRIAL_SECONDS", 2.0)
    async with asked_all_the_time(setting.port) as failed:
        await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version="1.41.0", number=1))
        await setting.reported(lambda s: s.upgrade_failure, "told")
    status = setting.upstream.observed.placements[0]
    assert (status.envoy_pid, status.generation, status.wanted_version) == (pid, 1, "1.41.0")
    assert failed == []
    await until(lambda: setting.pids() == [pid], "the new one is gone")
    # It is not tried again, not by another agent either; until it is asked for anew.
    await setting.stop()
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    await setting.reported(lambda s: s.upgrade_failure and s.envoy_pid == pid, "told again")
    follower = read_next(setting.proxy)
    assert follower is not None and follower.running.generation == 2
    await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version="1.41.0", number=2))
    await until(lambda: (f := read_next(setting.proxy)) and f.running.generation == 3, "tried again")
    await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version=NEW, number=3))
    await setting.reported(lambda s: not s.upgrade_failure and s.envoy_pid == pid, "no longer wanted")


# Where an upgrade has come to when it goes no further, and nothing after it is done.
MOMENTS: dict[str, tuple[object, str]] = {
    "trial": (generations.Generations, "_verdict"),
    "promoted": (generations.Generations, "_end"),
    "draining": (generations.Generations, "_retire"),
    "retired": (launch.admin, "drain"),
}


async def stop_amid_an_upgrade(setting: Setting, monkeypatch: pytest.MonkeyPatch, moment: tuple[object, str]) -> None:
    """Two generations run, and no agent."""
    reached = asyncio.Event()

    async def stuck(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(*moment, stuck)
        await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version=NEW, number=1))
        async with asyncio.timeout(20):
            await reached.wait()
        await until(lambda: len(serving(setting)) == 2, "two run")
        await setting.stop()


@pytest.mark.parametrize("moment", ["trial", "promoted", "draining"])
async def test_h1_an_agent_that_is_killed_during_an_upgrade_leaves_it_to_the_next_one(
    setting: Setting,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    envoy(setting, OLD)
    setting.start()
    await setting.live(1)
    async with asked_all_the_time(setting.port) as failed:
        await stop_amid_an_upgrade(setting, monkeypatch, MOMENTS[moment])
    async with asked_all_the_time(setting.port) as failed_after:
        setting.upstream.observed = host_pb2.Observed()
        setting.start()
        await serves(setting, NEW)
        await until(lambda: len(setting.pids()) == 1, "one runs", 15.0)
    assert failed + failed_after == []
    state = read_state(setting.proxy)
    assert state is not None and (state.version, state.pid) == (NEW, setting.pids()[0])
    assert read_next(setting.proxy) is None


@pytest.mark.parametrize("moment", ["trial", "retired"])
async def test_h9_of_an_upgrade_that_a_power_cut_ended_nothing_is_left(
    setting: Setting, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy(setting, OLD)
    setting.start()
    await setting.live(1)
    await stop_amid_an_upgrade(setting, monkeypatch, MOMENTS[moment])
    assert len(list(setting.proxy.glob("bootstrap-*"))) == 2
    await power_cut(setting)
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    await serves(setting, NEW)
    await until(lambda: len(serving(setting)) == 1, "one runs", 15.0)
    await until(lambda: not list(setting.proxy.glob("retired-*")), "nothing is being retired")
    state = read_state(setting.proxy)
    assert state is not None
    assert [path.name for path in setting.proxy.glob("bootstrap-*")] == [f"bootstrap-{state.generation}.json"]
    assert state.generation == {"trial": 3, "retired": 2}[moment]


async def test_h9_a_host_whose_power_was_cut_amid_the_end_of_all_its_envoys_serves_again(
    setting: Setting,
) -> None:
    """The generation that served may not start any more; another one does, and of the one before nothing is left."""
    setting.start()
    await setting.live(1)
    await setting.stop()
    (setting.proxy / "retired-1").touch()
    await power_cut(setting)
    setting.upstream.observed = host_pb2.Observed()
    setting.start()
    await setting.reported(lambda s: s.generation == 2 and s.envoy_state == "LIVE", "another generation")
    await until(lambda: not (setting.proxy / "retired-1").exists(), "nothing is left of it")
    assert [path.name for path in setting.proxy.glob("bootstrap-*")] == ["bootstrap-2.json"]


async def power_cut(setting: Setting) -> None:
    for each in setting.pids():
        os.kill(each, signal.SIGKILL)
    await until(lambda: not setting.pids(), "no Envoy runs")
    shutil.rmtree(setting.settings.runtime_directory)


async def test_h2_an_envoy_that_is_killed_right_after_an_upgrade_comes_back_as_the_new_one(setting: Setting) -> None:
    envoy(setting, OLD)
    setting.start()
    await setting.live(1)
    await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version=NEW, number=1))
    await serves(setting, NEW)
    pid = setting.upstream.observed.placements[0].envoy_pid
    os.kill(pid, signal.SIGKILL)
    await setting.live(1, pid_not=pid)
    await serves(setting, NEW)


async def test_h5_an_envoy_that_hangs_is_unhealthy_then_ended_and_started_again(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting.start()
    pid = await setting.live(1)
    loop = asyncio.get_running_loop()
    os.kill(pid, signal.SIGSTOP)
    began = loop.time()
    await setting.reported(lambda s: s.health == host_pb2.UNHEALTHY, "unhealthy", 15.0)
    await setting.live(1, pid_not=pid)
    assert loop.time() - began < 17.0
    assert await ask(setting.port) == "web"


async def test_a_version_that_cannot_be_had_is_told_and_nothing_changes(setting: Setting) -> None:
    setting.start()
    pid = await setting.live(1)
    await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version="9.9.9", number=1))
    await setting.reported(lambda s: "not pinned" in s.upgrade_failure and s.envoy_pid == pid, "told")


async def test_a_host_that_boots_starts_what_served_and_then_what_is_wanted(setting: Setting, run_dir: Path) -> None:
    envoy(setting, OLD)
    setting.start()
    await setting.live(1)
    await setting.stop()
    await power_cut(setting)
    envoy(setting, NEW)
    setting.upstream.observed = host_pb2.Observed()
    setting.upstream.history.clear()
    setting.start()
    await serves(setting, NEW)
    ran = [
        each.envoy_version for observed in setting.upstream.history for each in observed.placements if each.envoy_pid
    ]
    assert ran[0] == OLD and ran[-1] == NEW


async def test_where_nothing_is_served_yet_the_wanted_version_comes_at_once(setting: Setting) -> None:
    envoy(setting, "9.9.9")
    setting.start()
    await setting.reported(lambda s: "not pinned" in s.health_detail, "told")
    await setting.upstream.say(envoy=host_pb2.EnvoyVersion(version=NEW, number=1))
    await setting.live(1)
    await serves(setting, NEW)


def test_the_program_is_the_servers_where_it_names_one(run_dir: Path, setting: Setting) -> None:
    settings = replace(setting.settings, envoy=EnvoySettings("1.39.3", "https://example.com/e", "0" * 64))
    assert run._program(settings, None).version == "1.39.3"
    assert run._program(settings, host_pb2.Desired()).source == run.Source("0" * 64, "https://example.com/e")
    named = host_pb2.EnvoyVersion(version="1.41.0", url="https://example.com/f", sha256="1" * 64, number=4)
    program = run._program(settings, host_pb2.Desired(envoy=named))
    assert (program.version, program.order) == ("1.41.0", 4)
    assert program.source == run.Source("1" * 64, "https://example.com/f")
