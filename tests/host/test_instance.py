"""A generation's unit: what is written for it, what follows from its state, and the pauses that it makes between quick ends."""

from __future__ import annotations

import os
import re
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from meshagent.host.instance import Unit, drop_in, ends
from meshagent.host.supervisor import EnvoySpec


def spec(low_ports: bool) -> EnvoySpec:
    run = Path("/run/meshagent/p1-1")
    return EnvoySpec(
        directory=Path("/var/lib/meshagent/proxies/p1"),
        resource="mesh/shop/virtualNode/web",
        binary=Path("/var/lib/meshagent/envoys/1.40.0/envoy"),
        version="1.40.0",
        generation=1,
        relay_socket=run / "relay.sock",
        admin_socket=run / "admin.sock",
        low_ports=low_ports,
    )


def test_a_capability_is_given_for_low_ports_alone() -> None:
    assert "Capabilit" not in drop_in(spec(low_ports=False), "meshagent-p0")
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in drop_in(spec(low_ports=True), "meshagent-p0")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Unit(active="activating", sub="auto-restart", restarts=7), 0),  # the one that was seen has ended
        (Unit(active="activating", sub="auto-restart", job=1, restarts=8), 0),  # and is about to be followed
        (Unit(active="activating", sub="start-pre", job=1, restarts=8), 0),
        (Unit(active="active", sub="running", restarts=8), 0),
        (Unit(active="activating", sub="auto-restart", restarts=8), 1),  # the next one has ended, too
        (Unit(active="activating", sub="start-pre", job=1, restarts=10), 2),
        (Unit(active="active", sub="running", restarts=10), 2),
        (Unit(active="inactive", sub="dead", restarts=7), 0),
        (Unit(active="active", sub="running", restarts=0), 0),  # somebody has started it
    ],
)
def test_ends_that_nobody_saw_are_counted(state: Unit, expected: int) -> None:
    assert ends(7, state) == expected


class Pauses:
    """The template's own words, run by a shell, with a clock and a sleep of the test's."""

    def __init__(self, directory: Path) -> None:
        text = (resources.files("meshagent.host") / "units" / "meshagent-envoy@.service").read_text()
        found = re.search(r"^ExecStartPre=-/bin/sh -c '(.*?)'$", text, re.MULTILINE | re.DOTALL)
        assert found is not None
        self.script = found[1].replace("\\\n", " ").replace("$$", "$").replace("%%", "%")
        self.directory, self.now = directory, 1000
        for name, words in (
            ("date", 'cat "$RUNTIME_DIRECTORY/now"'),
            ("sleep", 'echo "$1" >> "$RUNTIME_DIRECTORY/slept"'),
        ):
            (directory / name).write_text(f"#!/bin/sh\n{words}\n")
            (directory / name).chmod(0o755)

    def start(self) -> int:
        """The pause before the process."""
        (self.directory / "now").write_text(f"{self.now}\n")
        slept = self.directory / "slept"
        slept.unlink(missing_ok=True)
        environment = {"RUNTIME_DIRECTORY": str(self.directory), "PATH": f"{self.directory}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", self.script], env=environment, capture_output=True, text=True, timeout=10, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return int(slept.read_text()) if slept.exists() else 0


@pytest.fixture
def pauses(tmp_path: Path) -> Pauses:
    return Pauses(tmp_path)


def test_h2_a_single_end_makes_no_pause(pauses: Pauses) -> None:
    assert pauses.start() == 0
    for _ in range(5):
        pauses.now += 6
        assert pauses.start() == 0
    pauses.now += 1
    assert pauses.start() == 0, "soon after its start"


def test_what_ends_again_and_again_makes_pauses_that_grow_up_to_a_limit(pauses: Pauses) -> None:
    assert [pauses.start() for _ in range(7)] == [0, 0, 1, 2, 4, 4, 4]
    pauses.now += 6
    assert pauses.start() == 0, "it ran"
    assert [pauses.start() for _ in range(3)] == [0, 1, 2]


def test_a_clock_that_is_put_back_makes_no_pause(pauses: Pauses) -> None:
    assert [pauses.start() for _ in range(4)] == [0, 0, 1, 2]
    pauses.now -= 3600
    assert [pauses.start() for _ in range(2)] == [0, 0]
