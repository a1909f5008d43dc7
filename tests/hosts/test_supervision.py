"""Who keeps Envoys and the agent running on real hosts, and what an upgrade costs, with the traffic oracle running through all of it."""

from __future__ import annotations

import json
import random
import re
import tarfile
import time
from pathlib import Path

import _pytest
import iniconfig
import packaging
import pluggy
import py
import pygments
import pytest
import pytest_asyncio
import typing_extensions

from meshagent.demo.hosts import HostMesh, until
from meshagent.demo.traffic import TIMEOUT
from tests.conftest import ROOT
from tests.hosts.watching import Placed, calm, failed_units, load, tidy

pytestmark = pytest.mark.lab

AGENT = "meshagent-agent.service"
OLD, NEW, BROKEN = "1.39.3", "1.40.0", "1.42.0"


@pytest.fixture
def catalog(mesh: HostMesh) -> Placed:
    return Placed(mesh.host("h2"), "catalog")


def versions(mesh: HostMesh) -> set[str]:
    return {one["envoy"]["version"] for one in mesh.in_sync()}


@pytest.mark.parametrize(("what", "limit"), [("agent", 5.0), ("envoy", 2.5)])
def test_units_are_exposed_no_more_than_they_must_be(catalog: Placed, what: str, limit: float) -> None:
    unit = AGENT if what == "agent" else catalog.unit
    said = catalog.host.run(["systemd-analyze", "security", "--no-pager", unit], check=True).stdout
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert exposure is not None and float(exposure[1]) <= limit, said


def test_an_envoy_reads_its_own_keys_and_no_other_ones(catalog: Placed) -> None:
    """Each placement has a user of its own, and root's files are root's."""
    placement = catalog.state()["placement"]
    keys = catalog.host.run("ls /var/lib/meshagent/proxies/*/tls/current/key.pem", check=True).stdout.split()
    script = 'for f; do cat "$f" >/dev/null 2>&1 && echo "$f"; done; true'
    uid = catalog.host.run(f"stat -c %u /var/lib/meshagent/proxies/{placement}/tls/current/key.pem").stdout.strip()
    read = catalog.host.run(
        ["setpriv", f"--reuid={uid}", "--clear-groups", "sh", "-c", script, "-", *keys], check=True
    ).stdout
    assert len(keys) > 1
    assert read.split() == [f"/var/lib/meshagent/proxies/{placement}/tls/current/key.pem"]
    tries = f"cd /var/lib/meshagent/proxies/{placement} && for f in . tls tls/current/; do touch $f/mine && echo $f; done; true"
    assert catalog.host.run(["setpriv", f"--reuid={uid}", "--clear-groups", "sh", "-c", tries], check=True).stdout == ""
    assert catalog.host.run(f"stat -c %u /var/lib/meshagent/proxies/{placement}/bootstrap-*").stdout.strip() == "0"
    others = "cat /var/lib/meshagent/host/current/key.pem || ls /var/lib/meshagent/proxies"
    assert catalog.host.run(["setpriv", f"--reuid={uid}", "--clear-groups", "sh", "-c", others]).returncode != 0


def test_the_supervisors_contract_holds_on_systemd(mesh: HostMesh, tmp_path: Path) -> None:
    """tests/host/test_supervisor.py, run by a host itself, with this machine's pytest."""
    bundle = tmp_path / "tests.tar"
    with tarfile.open(bundle, "w") as archive:
        for name in ("tests", "pyproject.toml"):
            archive.add(ROOT / name, f"opt/contract/{name}")
        for module in (pytest, _pytest, pluggy, py, iniconfig, packaging, pytest_asyncio, pygments, typing_extensions):
            path = Path(module.__file__ or "")
            path = path.parent if path.name == "__init__.py" else path
            archive.add(path, f"opt/contract/packages/{path.name}")
            for metadata in path.parent.glob("pytest_asyncio-*.dist-info"):
                archive.add(metadata, f"opt/contract/packages/{metadata.name}")
    host = mesh.host("h1")
    host.copy(bundle, "/opt/contract.tar")
    script = """cd / && tar -xf /opt/contract.tar --no-same-owner && cd /opt/contract && PYTHONPATH=packages \
      MESHAGENT_ENVOYS=/var/lib/meshagent/envoys /opt/meshagent/venv/bin/python -m pytest -q \
      -p no:cacheprovider -k systemd tests/host/test_supervisor.py"""
    try:
        done = host.run(script, limit=180)
    finally:
        host.run(["rm", "-rf", "/opt/contract", "/opt/contract.tar"])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-500:]


def test_h1_the_agent_is_killed_a_hundred_times_and_nobody_notices(mesh: HostMesh, catalog: Placed) -> None:
    pid = catalog.pid
    script = """
    last=0
    for i in $(seq 100); do
      for j in $(seq 300); do
        now=$(systemctl show -P MainPID meshagent-agent)
        [ "$now" != 0 ] && [ "$now" != "$last" ] && break
        sleep 0.05
      done
      [ "$now" != "$last" ] || exit 1
      last=$now
      sleep 0.$((i % 10))
      kill -KILL $now
    done"""
    with load(mesh) as oracle:
        assert catalog.host.run(script, limit=500).returncode == 0
        mesh.in_sync()
        assert oracle.failed() == []
    assert catalog.pid == pid
    assert int(catalog.show("NRestarts", unit=AGENT)[0]) >= 100
    assert failed_units(mesh) == []


def test_h3_another_version_and_back_on_every_host_loses_no_request(mesh: HostMesh) -> None:
    with load(mesh) as oracle:
        for version in (OLD, NEW):
            for host in mesh.hosts:
                mesh.meshctl("envoy", "use", version, "--host", host.name)
            until(f"{version} everywhere", lambda wanted=version: versions(mesh) == {wanted}, seconds=180, every=1.0)
        assert oracle.failed() == []
    for host in mesh.hosts:
        until("one generation each", lambda host=host: tidy(host), seconds=30)
    assert failed_units(mesh) == []


def test_an_envoy_that_crashes_again_and_again_is_told_costs_little_and_is_back_soon(
    mesh: HostMesh, catalog: Placed
) -> None:
    host, unit, pid = catalog.host, catalog.unit, catalog.pid
    binary = f"/var/lib/meshagent/envoys/{catalog.state()['version']}/envoy"

    def restarts() -> int:
        return int(catalog.show("NRestarts", unit=unit)[0])

    before = restarts()
    with load(mesh) as oracle:
        # What runs keeps the file that it was started from.
        host.run(["mv", binary, f"{binary}.aside"], check=True)
        try:
            host.write(binary, "#!/bin/sh\nexit 3\n", 0o755)
            host.run(f"kill -KILL {pid}", check=True)

            def told() -> bool:
                here = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
                words = [one["endpointWords"] for one in here["proxies"]]
                there = [one for one in mesh.proxies() if "times in a row" in one["healthDetail"]]
                return any("times in a row" in one for one in words) and any(
                    one["envoy"]["restarts"] >= 3 for one in there
                )

            until("host and server say so", told, seconds=30)
            assert "times in a row" in mesh.meshctl("status")
            until("it makes its longest pauses", lambda: restarts() >= before + 5, seconds=30)
            count, began = restarts(), time.monotonic()
            until("two more", lambda: restarts() >= count + 2, seconds=30, every=0.1)
            assert time.monotonic() - began > 4.0, "a pause of 4 s before each, of which the first had begun"
        finally:
            host.run(["mv", f"{binary}.aside", binary], check=True)
        until("another process, LIVE", lambda: catalog.live() and catalog.live() != [pid], seconds=15, every=0.1)
        calm(mesh, oracle, time.monotonic() + 2.0)
    assert catalog.unit == unit, "of the same generation"
    assert failed_units(mesh) == []


def test_an_envoy_whose_connections_are_turned_has_no_capability(mesh: HostMesh, catalog: Placed) -> None:
    fields = catalog.host.run(f"grep -E '^Cap(Prm|Eff|Bnd|Amb):' /proc/{catalog.pid}/status", check=True).stdout
    assert {int(line.split()[1], 16) for line in fields.splitlines()} == {0}, fields


def test_h4_a_version_that_crashes_is_ended_told_and_the_old_one_serves(mesh: HostMesh, catalog: Placed) -> None:
    host, pid = catalog.host, catalog.pid
    host.write(f"/var/lib/meshagent/envoys/{BROKEN}/envoy", "#!/bin/sh\nexit 3\n", 0o755)
    try:
        with load(mesh) as oracle:
            mesh.meshctl("envoy", "install", BROKEN, "--sha256", "0" * 64)
            mesh.meshctl("envoy", "use", BROKEN, "--host", host.name)
            until("it is told", lambda: "before it served" in mesh.meshctl("envoy", "list"), seconds=60)
            assert oracle.failed() == []
        assert catalog.pid == pid
        assert len(catalog.live()) == 1
    finally:
        mesh.meshctl("envoy", "use", NEW, "--host", host.name)
        host.run(["rm", "-r", f"/var/lib/meshagent/envoys/{BROKEN}"])
    mesh.in_sync()
    assert failed_units(mesh) == []


def test_h5_an_envoy_that_hangs_is_out_of_rotation_then_ended_and_back(mesh: HostMesh, catalog: Placed) -> None:
    """What was sent to it before it was out of rotation fails when its callers give up; nothing that is sent later fails."""
    before = catalog.pid
    with load(mesh) as oracle:
        catalog.host.run(["systemctl", "kill", "--signal=STOP", catalog.unit], check=True)
        began = time.monotonic()

        def unhealthy() -> bool:
            return any(one["health"] != "healthy" for one in mesh.proxies())

        until("it is unhealthy", unhealthy, seconds=15)
        told = time.monotonic() + 1.0
        until("another process", lambda: catalog.pid not in (0, before), seconds=17)
        assert time.monotonic() - began < 17.0
        mesh.in_sync()
        until("what was in flight to end", lambda: time.monotonic() > told + 2 * TIMEOUT, seconds=30)
        assert oracle.failed(told) == []


def test_h11_storms_of_restarts_and_reloads_end_in_no_dead_end(mesh: HostMesh, catalog: Placed) -> None:
    host = catalog.host
    storm = f"""
    for i in $(seq 15); do
      systemctl restart --no-block {AGENT}; systemctl daemon-reload
      systemctl kill -s KILL {catalog.unit}
    done; true"""
    with load(mesh) as oracle:
        host.run(storm, check=True, limit=120)
        mesh.in_sync()
        calm(mesh, oracle, time.monotonic() + 2.0)
    assert failed_units(mesh) == []
    assert len(catalog.live()) == 1


def test_stopped_on_purpose_stays_stopped_until_it_is_started(mesh: HostMesh) -> None:
    ledger = Placed(mesh.host("h3"), "ledger")
    unit, host = ledger.unit, ledger.host
    host.run(["systemctl", "stop", unit], check=True, limit=120)
    try:
        host.run(["systemctl", "restart", AGENT], check=True)

        def told() -> bool:
            status = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
            return any(f"systemctl start {unit}" in one["endpointWords"] for one in status["proxies"])

        until("the host's status says so", told, seconds=20)
        assert ledger.show("ActiveState", unit=unit) == ["inactive"]
    finally:
        host.run(["systemctl", "start", unit], check=True)
    mesh.in_sync()
    assert ledger.unit == unit


def test_what_envoy_logs_to_stdout_is_in_the_journal_under_its_proxy(mesh: HostMesh, catalog: Placed) -> None:
    placement = catalog.state()["placement"]
    catalog.host.run(f"echo a line of the access log > /proc/{catalog.pid}/fd/1", check=True)
    read = ["journalctl", f"PROXY={placement}", "--no-pager", "-o", "cat", "-n", "200"]
    until("the line", lambda: "a line of the access log" in catalog.host.run(read).stdout, seconds=10)
    said = catalog.host.run([*read, "_SYSTEMD_UNIT=meshagent-agent.service"]).stdout
    assert f"{placement}: " in said


OPERATIONS = (
    "kill envoy",
    "kill agent",
    "restart agent",
    "stop agent",
    "start agent",
    "reload",
    "stop envoy",
    "start envoy",
)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_operations_leaves_one_live_generation_or_none_that_was_stopped(mesh: HostMesh, seed: int) -> None:
    chance = random.Random(seed)
    ledger = Placed(mesh.host("h3"), "ledger")
    host, unit = ledger.host, ledger.unit
    stopped, done = False, []
    for _ in range(12):
        operation = chance.choice(OPERATIONS)
        done.append(operation)
        verb, what = operation.partition(" ")[::2]
        target = AGENT if what == "agent" else unit
        if verb == "kill":
            host.run(["systemctl", "kill", "--signal=KILL", target])  # nothing runs: nothing is killed
        elif verb == "reload":
            host.run(["systemctl", "daemon-reload"], check=True)
        else:
            host.run(["systemctl", verb, target], check=True, limit=120)
        stopped = (what == "envoy" and verb == "stop") or (stopped and not (what == "envoy" and verb == "start"))
        if chance.random() < 0.5:
            continue
        host.run(["systemctl", "start", AGENT], check=True)
        until(f"what holds after {done}", lambda s=stopped: len(ledger.live()) == (not s), seconds=10)
    host.run(["systemctl", "start", unit, AGENT], check=True)
    mesh.in_sync()
    assert failed_units(mesh) == []
    until("nothing of any other generation", lambda: tidy(host), seconds=10)
