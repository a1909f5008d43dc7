"""Certificates are renewed in time on real hosts, whatever becomes of the disk that they lie on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.lab import Host
from tests.hosts.test_doctor import finds

pytestmark = pytest.mark.lab

STATE, KEPT = "/var/lib/meshagent", "/root/kept"
OPTIONS = "/etc/meshagent/server.env"
STOP = "systemctl stop meshagent-agent && meshagent agent --stop-proxies"
LIFE = 60.0
# What is done and undone, and the kernel's words. A disk with an open file cannot be made read-only: the agent's sight of it can.
_AGENTS = "nsenter --mount --target $(systemctl show -P MainPID meshagent-agent)"
PROXIES = f"{STATE}/proxies"
FAULTS = {
    "full": (f"dd if=/dev/zero of={STATE}/filler bs=4k; true", f"rm {STATE}/filler", "No space left"),
    "read-only": (
        f"{_AGENTS} mount --bind {PROXIES} {PROXIES} && {_AGENTS} mount -o remount,ro,bind {PROXIES}",
        f"{_AGENTS} umount {PROXIES}",
        "Read-only file system",
    ),
}


@contextmanager
def short_lives(mesh: HostMesh) -> Iterator[None]:
    """The server issues certificates for a minute."""
    server, before = mesh.server, mesh.server.read(OPTIONS)

    def restart(options: str) -> None:
        server.write(OPTIONS, options)
        server.run(["systemctl", "restart", "meshagent-server"], check=True)

    restart(before.rstrip().removesuffix('"') + f' --certificate-life {LIFE:.0f}s"\n')
    try:
        yield
    finally:
        restart(before)


@contextmanager
def small_disk(host: Host) -> Iterator[None]:
    """The agent's state lies on a disk of its own, without its proxies' certificates: they are issued anew."""
    host.run(
        f"{STOP} && mkdir -p {KEPT} && mount --bind {STATE} {KEPT} && mount --make-private {KEPT}"
        f" && mount -t tmpfs -o size=8m,mode=0711 small {STATE}"
        f" && (cd {KEPT} && cp -a $(ls -A | grep -v '^envoys$') {STATE}) && rm -rf {STATE}/proxies/*/tls"
        f" && mkdir {STATE}/envoys && mount --bind {KEPT}/envoys {STATE}/envoys && systemctl start meshagent-agent",
        check=True,
        limit=60,
    )
    try:
        yield
    finally:
        host.run(
            f"rm -f {STATE}/filler; {STOP}; umount {STATE}/envoys; umount {STATE};"
            f" umount {KEPT} && rmdir {KEPT} && systemctl start meshagent-agent",
            check=True,
            limit=60,
        )


def held(mesh: HostMesh, host: Host) -> dict[str, str]:
    """The serials of the certificates that the host's Envoys hold, by placement."""
    proxies = [one for one in mesh.in_sync() if one["host"] == host.name]
    found = {one["proxy"]: one["certificate"]["serial"] for one in proxies if one["certificate"]["serial"]}
    assert found
    return found


def refused(host: Host, words: str, since: float) -> set[str]:
    """The placements whose agent said that it could not renew, and why."""
    lines = host.run(f"journalctl -u meshagent-agent -o cat --since @{since:.0f} | grep 'not renewed'").stdout
    return {line.split(" ", 1)[0] for line in lines.splitlines() if words in line}


def test_k5_a_disk_that_is_full_or_read_only_at_renewal_costs_no_request(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    with short_lives(mesh), small_disk(host):
        mesh.in_sync()
        with mesh.oracle("h1") as oracle:
            oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=100)
            until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
            for fault, (plant, undo, kernel) in FAULTS.items():
                before, began = held(mesh, host), time.time()
                host.run(plant, check=True)
                until(
                    f"every renewal to fail ({fault})",
                    lambda kernel=kernel, began=began, before=before: refused(host, kernel, began) >= set(before),
                )
                if fault == "full":
                    finds(host, "disk", "no space left", "remove what fills it")
                assert host.run(f"find {STATE}/ -xdev -name '*.pem' -size 0", check=True).stdout == ""
                assert held(mesh, host) == before
                host.run(undo, check=True)
                until(
                    "every certificate to be renewed",
                    lambda before=before: not set(held(mesh, host).values()) & set(before.values()),
                )
            goal = oracle.loads()["catalog"].ok + 100
            until("more answers", lambda goal=goal: oracle.loads()["catalog"].ok > goal)
            assert oracle.failed() == []
    mesh.restore()
