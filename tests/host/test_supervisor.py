"""The supervisors' contract, on real Envoys; one suite for every implementation.

systemd's runs where a host of the lab runs this file (tests/hosts/test_supervision.py): as root under systemd, with the units in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from meshagent.host import processes, users
from meshagent.host.child import ChildSupervisor
from meshagent.host.supervisor import (
    EnvoySpec,
    Next,
    Running,
    Supervisor,
    SupervisorError,
    described,
    intent,
    read_next,
    read_state,
    retired_path,
    write_next,
    write_state,
)
from meshagent.host.systemd import UNITS, SystemdSupervisor

pytestmark = pytest.mark.envoy

SUPERVISORS: dict[str, Callable[[], Supervisor]] = {"child": ChildSupervisor, "systemd": SystemdSupervisor}
HAS_UNITS = os.geteuid() == 0 and Path("/run/systemd/system").is_dir() and (UNITS / "meshagent-envoy@.service").exists()
DEADLINE = 30.0


# For what only processes without an init system can come to.
CHILD_ALONE = pytest.mark.parametrize("kind", ["child"])


@pytest.fixture(params=sorted(SUPERVISORS) if HAS_UNITS else ["child"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def supervisor(kind: str) -> Supervisor:
    return SUPERVISORS[kind]()


@pytest.fixture
def places(kind: str, run_dir: Path) -> Iterator[tuple[Path, Path]]:
    """A proxy's directory, and where its sockets are: where the units look for them."""
    name = f"t{secrets.token_hex(4)}"
    if kind == "child":
        (run_dir / name).mkdir()
        yield run_dir / name, run_dir
        return
    directory = Path("/var/lib/meshagent/proxies") / name
    directory.mkdir(parents=True)
    yield directory, Path("/run/meshagent")
    for left in (directory, *Path("/run/meshagent").glob(f"{name}-*")):
        shutil.rmtree(left)


@pytest.fixture
async def spec(kind: str, envoy_binary: Path, places: tuple[Path, Path]) -> AsyncIterator[EnvoySpec]:
    directory, sockets = places
    spec = generation(envoy_binary, directory, sockets, 1)
    write_bootstrap(kind, spec)
    yield spec
    end = SUPERVISORS[kind]()
    for left in await end.find(directory):
        await end.stop(left, 2.0)
    for number in range(1, 4):
        await end.forget(directory, number)


def generation(binary: Path, directory: Path, sockets: Path, number: int) -> EnvoySpec:
    place = sockets / f"{directory.name}-{number}"
    return EnvoySpec(
        directory=directory,
        resource="mesh/shop/virtualNode/web",
        binary=binary,
        version="1.40.0",
        generation=number,
        relay_socket=place / "relay.sock",
        admin_socket=place / "admin.sock",
        concurrency=1,
        drain_seconds=1,
    )


def write_bootstrap(kind: str, spec: EnvoySpec) -> None:
    spec.admin_socket.parent.mkdir(exist_ok=True, parents=True)
    admin = {"address": {"pipe": {"path": str(spec.admin_socket)}}}
    node = {"id": spec.id, "cluster": spec.resource, "metadata": {"generation": asdict(intent(spec))}}
    spec.bootstrap.write_text(json.dumps({"admin": admin, "node": node}))
    if kind == "systemd":
        os.chown(spec.bootstrap, users.ensure(0).uid, -1)


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def envoys(spec: EnvoySpec) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().decode().split("\0")
            if arguments[0] == str(spec.binary) and "-c" in arguments:
                path = Path(arguments[arguments.index("-c") + 1])
                there = path if path.is_absolute() else (entry / "cwd").readlink() / path
                found += [int(entry.name)] if there == spec.bootstrap else []
    return found


async def listening(spec: EnvoySpec) -> None:
    await until(spec.admin_socket.exists, "no admin socket")


def unexpected(what: object) -> None:
    raise AssertionError(f"neither stopped on purpose nor ended again: {what}")


async def test_a_started_envoy_runs_in_its_directory(supervisor: Supervisor, spec: EnvoySpec, kind: str) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    assert envoys(spec) == [running.pid]
    assert os.readlink(f"/proc/{running.pid}/cwd") == str(spec.directory)  # noqa: PTH115
    assert running.start_time == processes.start_time(running.pid)
    assert running == replace(intent(spec), pid=running.pid, start_time=running.start_time, boot_id=processes.boot_id())
    assert os.getsid(running.pid) != os.getsid(0)
    if kind == "child":
        assert (spec.directory / "envoy.log").stat().st_size > 0


async def test_a_generation_that_runs_is_not_started_twice(supervisor: Supervisor, spec: EnvoySpec) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    again = await supervisor.start(spec)
    assert (again.pid, again.start_time) == (running.pid, running.start_time)
    assert envoys(spec) == [running.pid]


async def test_what_runs_is_found_by_another_supervisor_and_its_end_is_seen(
    supervisor: Supervisor, spec: EnvoySpec, kind: str
) -> None:
    running = await supervisor.start(spec)
    other = SUPERVISORS[kind]()
    assert await other.find(spec.directory) == (running,)
    waiting = asyncio.create_task(other.ended(running))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.kill(running.pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE):
        await waiting
        assert await supervisor.ended(running)


async def test_nothing_runs_and_nothing_is_found(supervisor: Supervisor, spec: EnvoySpec) -> None:
    assert await supervisor.find(spec.directory) == ()


@pytest.mark.parametrize("left", ["state", "next", "bootstrap", "torn"])
async def test_an_envoy_is_found_and_described_whatever_file_is_left(
    supervisor: Supervisor, spec: EnvoySpec, left: str, kind: str
) -> None:
    """As when the agent is killed at any moment around a start."""
    running = await supervisor.start(spec)
    await listening(spec)
    if left == "state":
        write_state(spec.directory, intent(spec))
    elif left == "next":
        write_next(spec.directory, Next(intent(spec), "an order"))
    elif left == "torn":
        (spec.directory / "generation.json").write_text('{"generation": 1, "ver')
    assert await SUPERVISORS[kind]().find(spec.directory) == (running,)


async def test_two_generations_are_found_and_one_is_stopped(
    supervisor: Supervisor, spec: EnvoySpec, places: tuple[Path, Path], kind: str
) -> None:
    second = generation(spec.binary, *places, 2)
    write_bootstrap(kind, second)
    first_running = await supervisor.start(spec)
    second_running = await supervisor.start(second)
    await listening(spec)
    await listening(second)
    assert await supervisor.find(spec.directory) == (first_running, second_running)
    await supervisor.stop(first_running, 5.0)
    assert envoys(spec) == []
    assert await supervisor.find(spec.directory) == (second_running,)
    await supervisor.stop(second_running, 5.0)


async def test_h2_one_that_is_killed_comes_back(supervisor: Supervisor, spec: EnvoySpec) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    began = time.monotonic()
    await supervisor.kill(running)
    await supervisor.ended(running)
    async with asyncio.timeout(DEADLINE):
        back = await supervisor.again(running, unexpected, unexpected) or await supervisor.start(spec)
    assert time.monotonic() - began < 2.0
    assert back.pid != running.pid
    assert envoys(spec) == [back.pid]


async def test_stop_ends_it_for_good_and_is_fine_with_one_that_is_gone(supervisor: Supervisor, spec: EnvoySpec) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    await supervisor.stop(running, 5.0)
    assert envoys(spec) == []
    assert await supervisor.find(spec.directory) == ()
    await supervisor.stop(running, 5.0)


async def test_what_is_kept_of_a_generation_is_known_until_it_is_forgotten(
    supervisor: Supervisor, spec: EnvoySpec, kind: str
) -> None:
    """Whether it runs or not, and whoever asks."""
    running = await supervisor.start(spec)
    await listening(spec)
    await supervisor.stop(running, 5.0)
    assert await SUPERVISORS[kind]().kept(spec.directory) == ({1} if kind == "systemd" else set())
    await supervisor.forget(spec.directory, 1)
    assert await supervisor.kept(spec.directory) == set()


async def test_h5_one_that_hangs_is_ended_by_stop(supervisor: Supervisor, spec: EnvoySpec) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    os.kill(running.pid, signal.SIGSTOP)
    async with asyncio.timeout(DEADLINE):
        await supervisor.stop(running, 0.3)
    assert envoys(spec) == []


async def test_h1_an_envoy_outlives_the_process_that_started_it(
    supervisor: Supervisor, spec: EnvoySpec, kind: str
) -> None:
    program = (
        "import asyncio, os, pickle, signal, sys\n"
        f"from {type(supervisor).__module__} import {type(supervisor).__name__} as Made\n"
        "async def main():\n"
        "    await Made().start(pickle.loads(sys.stdin.buffer.read()))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], input=pickle.dumps(spec), timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL
    await listening(spec)
    (running,) = await supervisor.find(spec.directory)
    assert envoys(spec) == [running.pid]
    waiting = asyncio.create_task(supervisor.ended(running))
    await supervisor.stop(running, 5.0)
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_a_binary_that_is_not_there_is_named(supervisor: Supervisor, spec: EnvoySpec) -> None:
    with pytest.raises(SupervisorError, match="no-such-envoy: No such file"):
        await supervisor.start(replace(spec, binary=spec.directory / "no-such-envoy"))
    assert await supervisor.find(spec.directory) == ()


@CHILD_ALONE
async def test_a_pid_that_another_program_got_is_neither_awaited_nor_ended(spec: EnvoySpec) -> None:
    started = processes.start_time(os.getpid())
    assert started is not None
    mine = Running(1, "1.40.0", "", "", processes.boot_id(), os.getpid(), started - 1)
    supervisor = ChildSupervisor()
    async with asyncio.timeout(DEADLINE):
        await supervisor.stop(mine, 0.1)
        await supervisor.kill(mine)
        await supervisor.ended(mine)


def beside(spec: EnvoySpec) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(spec.binary), "-c", str(spec.bootstrap), "--disable-hot-restart"])


@CHILD_ALONE
async def test_of_two_processes_of_one_generation_the_one_in_the_state_file_stays(spec: EnvoySpec) -> None:
    first = await ChildSupervisor().start(spec)
    await listening(spec)
    write_state(spec.directory, first)
    # An orphan beside it, as no agent should ever make one: on another admin socket, of the same bootstrap's name.
    spec.bootstrap.write_text(spec.bootstrap.read_text().replace("admin.sock", "admin2.sock"))
    second = beside(spec)
    await until(lambda: processes.start_time(second.pid), "it runs")
    assert await ChildSupervisor().find(spec.directory) == (first,)
    assert await asyncio.to_thread(second.wait, DEADLINE) == -signal.SIGKILL


@CHILD_ALONE
async def test_a_long_log_is_set_aside(spec: EnvoySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from meshagent.host import child

    monkeypatch.setattr(child, "LOG_LIMIT", 10)
    (spec.directory / "envoy.log").write_text("words of an earlier life\n")
    await ChildSupervisor().start(spec)
    assert (spec.directory / "envoy.log.1").read_text() == "words of an earlier life\n"


# Of systemd alone.


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()


@pytest.fixture
def unit(kind: str, spec: EnvoySpec) -> str:
    if kind != "systemd":
        pytest.skip("systemd's alone: the lab's hosts run it")
    return f"meshagent-envoy@{spec.id}-1.service"


async def test_one_that_is_stopped_on_purpose_stays_so_until_it_is_started(
    supervisor: Supervisor, spec: EnvoySpec, unit: str
) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    await asyncio.to_thread(systemctl, "stop", unit)
    words: list[str] = []
    waiting = asyncio.create_task(supervisor.again(running, words.append, lambda _: None))
    await until(lambda: words, "told")
    assert f"systemctl start {unit}" in words[0]
    assert await supervisor.find(spec.directory) == ()
    assert not waiting.done()
    await asyncio.to_thread(systemctl, "start", unit)
    async with asyncio.timeout(DEADLINE):
        back = await waiting
    assert back is not None and envoys(spec) == [back.pid]


async def test_a_retired_generation_does_not_start(supervisor: Supervisor, spec: EnvoySpec, unit: str) -> None:
    running = await supervisor.start(spec)
    await listening(spec)
    retired_path(spec.directory, 1).touch()
    await supervisor.kill(running)
    await until(lambda: systemctl("is-active", unit) == "inactive", "it stays away")
    with pytest.raises(SupervisorError, match="did not start"):
        await supervisor.start(spec)
    assert systemctl("is-failed", unit) != "failed"


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def write_to(path: str, text: str) -> None:
    with Path(path).open("w") as stream:
        stream.write(text)


async def test_an_envoy_is_held_by_its_user_and_the_sandbox(supervisor: Supervisor, spec: EnvoySpec, unit: str) -> None:
    running = await supervisor.start(replace(spec, low_ports=True))
    await listening(spec)
    fields = process_status(running.pid)
    assert fields["Uid"].split()[0] == str(users.ensure(0).uid)
    assert int(fields["CapEff"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    assert fields["NoNewPrivs"] == "1"
    assert spec.admin_socket.owner() == "meshagent-p0"


async def test_what_envoy_says_to_stdout_is_in_the_journal(supervisor: Supervisor, spec: EnvoySpec, unit: str) -> None:
    """Access logs go to /dev/stdout, by its name."""
    running = await supervisor.start(spec)
    await listening(spec)
    write_to(f"/proc/{running.pid}/fd/1", "a line of the access log\n")
    read = ["journalctl", "-u", unit, "-o", "cat", "--no-pager"]

    def said() -> bool:
        done = subprocess.run(read, capture_output=True, text=True, timeout=30, check=False)
        return "a line of the access log" in done.stdout

    await until(said, "in the journal")


def test_what_is_remembered_comes_back_and_what_is_torn_does_not(tmp_path: Path) -> None:
    running = Running(3, "1.40.0", "/run/r.sock", "/run/a.sock", "boot", 7, 8, 2, "mesh/m/virtualNode/n", "made of")
    write_state(tmp_path, running)
    write_next(tmp_path, Next(replace(running, generation=4), "order", "it crashed"))
    assert read_state(tmp_path) == running
    assert read_next(tmp_path) == Next(replace(running, generation=4), "order", "it crashed")
    assert described(tmp_path, 4) == replace(running, generation=4, pid=0, start_time=0, placement=tmp_path.name)
    (tmp_path / "next.json").write_text("{")
    (tmp_path / "generation.json").write_text("[1]")
    assert read_next(tmp_path) is None
    assert read_state(tmp_path) is None
    assert described(tmp_path, 4).version == ""
