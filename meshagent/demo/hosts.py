"""A whole mesh on a lab's hosts, deployed by the roles as a user's is: what tests on hosts and benchmarks build on.

The inventory is inventories/lab.py: h4 is the server's, h1 runs web, h2 and h3 run catalog, quotes and ledger (roles/files/shop.yaml).
Needs a clone of the repository, its bundle and the deployment's environment: `make bundle deploy-setup`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from meshagent.demo.oracle import RemoteOracle
from meshagent.errors import MeshagentError
from meshagent.lab import Host, Lab, LabError, rootfs

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = ROOT / ".venv-deploy/bin/pyinfra"
BUNDLE = ROOT / "build/bundle/bundle.tar"
SERVER = "h4"
MESH = ("roles/site.py", "roles/shop.py")
PORTS = {"catalog": 8080, "quotes": 9090, "ledger": 9000}
_DEPLOY_LIMIT = 300.0
_TOTAL = re.compile(r"Grand total +(\d+|-) +(\d+|-) +(\d+|-) +(\d+|-)")


class HostMeshError(MeshagentError):
    """The mesh did not come up, or not into the state that was waited for."""


def why_not() -> str | None:
    """What is missing for a deployment, besides a lab."""
    missing = [target for target, path in (("deploy-setup", PYINFRA), ("bundle", BUNDLE)) if not path.exists()]
    if sys.version_info[:2] != rootfs.PYTHON:
        return f"the lab's hosts have Python {'.'.join(map(str, rootfs.PYTHON))}, and a bundle is for the Python that makes it"
    return f"needs the deployment's environment and a bundle: make {' '.join(missing)}" if missing else None


def until(what: str, condition: Callable[[], T], seconds: float = 60.0, every: float = 0.1) -> T:
    """Polls until `condition` returns something true, and returns it; a condition that raises is asked again. The default is long: waiting
    costs nothing where nobody says how fast it has to be."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            result = condition()
            if result:
                return result
            last = result
        except (OSError, LookupError, ValueError, AssertionError, LabError, HostMeshError) as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise HostMeshError(f"not within {seconds:.0f} s: {what} (last: {last!r})")
        time.sleep(every)


class HostMesh:
    """The mesh on one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def server(self) -> Host:
        return self.lab.host(SERVER)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Those that run agents."""
        return tuple(host for host in self.lab.hosts if host.name != SERVER)

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def deploy(self, *files: str) -> int:
        """Runs pyinfra with the lab's inventory, by default for the whole shop; how many operations changed something. HostMeshError with
        its last words when one failed."""
        done = self.pyinfra(*(files or MESH))
        words = str(done.stdout)
        total = _TOTAL.search(words)
        if done.returncode or total is None:
            raise HostMeshError(f"pyinfra ended with status {done.returncode}:\n{words[-6000:]}")
        return int(total[2].replace("-", "0"))

    def pyinfra(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Options and files for it; its own words, whichever way it ended."""
        with self.start_pyinfra(*words) as running:
            try:
                output, _ = running.communicate(timeout=_DEPLOY_LIMIT)
            except subprocess.TimeoutExpired as error:
                running.kill()
                raise HostMeshError(f"pyinfra {' '.join(words)}: no end within {_DEPLOY_LIMIT:.0f} s") from error
        return subprocess.CompletedProcess(running.args, running.returncode, output)

    def start_pyinfra(self, *words: str) -> subprocess.Popen[str]:
        """Its standard output and error are one pipe."""
        named = {"MESHAGENT_LAB": self.lab.name, "MESHAGENT_LAB_DIRECTORY": str(self.lab.places.state)}
        return subprocess.Popen(
            [PYINFRA, "-y", "inventories/lab.py", *words],
            cwd=ROOT,
            env={**os.environ, **named},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def meshctl(self, *words: str, limit: float = 60.0) -> str:
        """What meshctl printed, run by root on the server."""
        return self.server.run(["meshctl", *words], limit=limit, check=True).stdout

    def proxies(self) -> list[dict[str, Any]]:
        """As `meshctl status --output json` has them."""
        status: dict[str, Any] = json.loads(self.meshctl("status", "--output", "json"))
        return list(status["proxies"])

    def in_sync(self, seconds: float = 60.0, proxies: int | None = None) -> list[dict[str, Any]]:
        """Waits until every proxy (so many, if said) is connected, LIVE, healthy, and has the configuration of now."""

        def settled() -> list[dict[str, Any]]:
            found = self.proxies()
            for one in found:
                live = (one.get("envoy") or {}).get("state") == "LIVE"
                assert one["connected"] and one["synced"] and live and one["health"] == "healthy", one
            assert found if proxies is None else len(found) == proxies, f"{len(found)} proxies"
            return found

        return until("every proxy to be live, in sync and healthy", settled, seconds, every=0.3)

    def restore(self) -> None:
        """After whatever a test did: nothing is cut or drained, every host and daemon runs, all is in sync."""
        self.lab.heal()
        for host in self.lab.hosts:
            host.power_on()
        for host in self.lab.hosts:
            host.wait()
        self.server.run(["systemctl", "start", "meshagent-server"], check=True)
        for host in self.hosts:
            host.run(["systemctl", "start", "meshagent-agent"], check=True)
        for host in self.hosts:
            self.meshctl("undrain", host.name)
        self.in_sync()

    def address(self, service: str, host: str = "h1") -> str:
        """Where an application of that host finds a virtual service (`catalog`): the mesh's own address for it, on loopback."""
        lines = (
            self.host(host).run("cat /etc/hosts /var/lib/meshagent/proxies/*/hosts", check=False).stdout.splitlines()
        )
        for line in lines:
            address, *names = line.split()
            if f"{service}.shop.internal" in names:
                return address
        raise HostMeshError(f"host {host} has no address for {service}.shop.internal yet: {lines}")

    def oracle(self, host: str = "h1") -> RemoteOracle:
        """A traffic oracle in that host's network, with this machine's Python: it needs nothing of the host and outlives its reboots."""
        return RemoteOracle(("ip", "netns", "exec", self.lab.layout.namespace(host)))

    def start_traffic(self, oracle: RemoteOracle, host: str = "h1", rate: float = 100.0) -> None:
        """Loads of all three services, `catalog` (http), `ledger` (tcp) and `quotes` (one long gRPC stream)."""
        oracle.http("catalog", self.address("catalog", host), PORTS["catalog"], rate=rate)
        oracle.tcp("ledger", self.address("ledger", host), PORTS["ledger"], rate=rate / 5)
        oracle.grpc("quotes", self.address("quotes", host), PORTS["quotes"], rate=rate / 5)
