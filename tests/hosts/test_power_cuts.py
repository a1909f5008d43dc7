"""A host loses its power at any moment of a change, on a real host. What a disk may have kept by then: tests/agent/test_power_cuts.py."""

from __future__ import annotations

import json
import random
import time

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until
from tests.hosts.watching import flowing, tidy

pytestmark = pytest.mark.lab

VERSIONS = ("1.39.3", "1.40.0")
CUTS = 4
CHANGE_SECONDS = 6.0  # in which one of h3's Envoys is followed by another


def test_h9_a_host_whose_power_is_cut_amid_a_change_comes_back_with_the_old_or_the_new(mesh: HostMesh) -> None:
    host, chance = mesh.host("h3"), random.Random(9)
    try:
        with mesh.oracle("h1") as oracle:
            oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100, fresh=1.0)
            until("h3 to answer", lambda: oracle.loads()["catalog"].answers.get("catalog-h3"))
            for number in range(CUTS):
                version = VERSIONS[number % 2]
                mesh.meshctl("envoy", "use", version, "--host", host.name)
                cut = time.monotonic() + chance.uniform(0, CHANGE_SECONDS)
                until("that moment", lambda cut=cut: time.monotonic() >= cut, seconds=30, every=0.01)
                before = oracle.loads()["catalog"].answers["catalog-h3"]
                host.reboot(hard=True)
                until("it to serve one of the two", lambda: running(mesh) <= set(VERSIONS) and serving(mesh))
                until(f"all to be {version}", lambda version=version: running(mesh) == {version}, seconds=120)
                mesh.in_sync(proxies=7)
                until(
                    "h3 to answer",
                    lambda before=before: oracle.loads()["catalog"].answers["catalog-h3"] > before,
                )
                settled = time.monotonic()
                flowing(oracle, 150)
                assert oracle.failed(settled) == []
                assert host.failed_units() == []
                until("nothing of any other generation", lambda: tidy(host))
    finally:
        mesh.meshctl("envoy", "unset", "--host", host.name)
        mesh.in_sync(seconds=120, proxies=7)


def running(mesh: HostMesh) -> set[str]:
    return {one["envoy"]["version"] for one in mesh.proxies() if one["host"] == "h3"}


def serving(mesh: HostMesh) -> bool:
    said = json.loads(mesh.host("h3").run(["meshagent", "status", "--output", "json"], check=True).stdout)
    return [one["envoyState"] for one in said["proxies"]] == ["LIVE"] * 3
