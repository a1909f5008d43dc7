"""Probes of a service and by a command, as real systemd runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from meshagent.demo.hosts import HostMesh, until
from meshagent.lab import Host

pytestmark = pytest.mark.lab

CONFIG = "/etc/meshagent/agent.yaml"
CATALOG = "mesh/shop/virtualNode/catalog"
CHECK = "/usr/local/bin/check"


@contextmanager
def probed(host: Host, probe: dict[str, Any]) -> Iterator[None]:
    """The catalog of this host, probed as `probe` says."""
    before = host.read(CONFIG)
    changed = yaml.safe_load(before)
    for placement in changed["placements"]:
        if placement["resource"] == CATALOG:
            placement["probe"] = probe
    host.write(CONFIG, yaml.safe_dump(changed))
    host.run(["systemctl", "restart", "meshagent-agent"], check=True)
    try:
        yield
    finally:
        host.write(CONFIG, before)
        host.run(["systemctl", "restart", "meshagent-agent"], check=True)


def catalog(host: Host) -> dict[str, Any]:
    said = json.loads(host.run(["meshagent", "status", "--output", "json"], check=True).stdout)
    return next(dict(one) for one in said["proxies"] if one["resource"] == CATALOG)


def becomes(host: Host, health: str, words: str = "") -> None:
    def so() -> bool:
        found = catalog(host)
        assert found["endpointHealth"] == health and words in found["endpointWords"], found["endpointWords"]
        return True

    until(f"the catalog of {host.name} to be {health} {words}", so)


def test_d1_a_service_is_healthy_while_it_is_active(mesh: HostMesh) -> None:
    host = mesh.host("h2")
    with probed(host, {"unit": "shop-catalog.service", "interval": "200ms"}):
        becomes(host, "healthy")
        host.run(["systemctl", "stop", "shop-catalog"], check=True)
        becomes(host, "unhealthy", "shop-catalog.service: it is inactive (dead)")
        host.run(["systemctl", "start", "shop-catalog"], check=True)
        becomes(host, "healthy")


def test_a_command_decides_and_runs_with_nothing_to_its_name(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    host.write("/run/verdict", "0\n")
    # It may say who it is and what it may do, in its own journal, and is as healthy as /run/verdict says.
    host.write(
        CHECK,
        "#!/bin/sh\necho user $(id -u); grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; touch /etc/mine 2>/dev/null && exit 9\n"
        "exit $(cat /run/verdict)\n",
        0o755,
    )
    with probed(host, {"command": [CHECK], "interval": "300ms", "timeout": "2s"}):
        becomes(host, "healthy")
        unit = f"meshagent-probe-{catalog(host)['id']}.service"
        printed = host.run(["journalctl", "-u", unit, "-o", "cat", "--no-pager"], check=True).stdout
        assert "user " in printed and "user 0\n" not in printed
        assert "CapEff:\t0000000000000000" in printed
        assert "NoNewPrivs:\t1" in printed
        host.write("/run/verdict", "3\n")
        becomes(host, "unhealthy", f"{CHECK}: exit status 3")
        host.write("/run/verdict", "$(sleep 60; echo 0)\n")
        host.write(CHECK, "#!/bin/sh\nexec sleep 60\n", 0o755)
        becomes(host, "unhealthy", "it did not end within 2 s")
        if (
            "memory" in host.read("/sys/fs/cgroup/cgroup.controllers").split()
        ):  # else no unit's memory can be limited there
            host.write(CHECK, "#!/usr/bin/python3\nimport time\nb'x' * (200 << 20)\ntime.sleep(60)\n", 0o755)
            becomes(host, "unhealthy", "it took more than 64 MiB")
        host.run(["rm", CHECK], check=True)
        becomes(host, "unhealthy", "systemd cannot run it")
    assert not host.failed_units()
    left = host.run("systemctl list-units --all --no-legend 'meshagent-probe-*'").stdout
    assert left.strip() == ""
