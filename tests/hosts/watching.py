"""What tests of this room look at while hosts suffer: requests of every kind that pass two Envoys, and one placement's processes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.demo.oracle import RemoteOracle
from meshagent.lab import Host

CALLER = "h1"
SERVING = "cd /var/lib/meshagent/proxies && grep -Ho '\"generation\": [0-9]*' */generation.json"
PIECES = r"""
for pid in $(pgrep -x envoy); do
  echo "process in $(readlink /proc/$pid/cwd) of $(tr '\0' '\n' < /proc/$pid/cmdline | grep '^bootstrap-')"
done
ls -d /var/lib/meshagent/proxies/*/bootstrap-* /var/lib/meshagent/proxies/*/retired-* \
  /etc/systemd/system/meshagent-envoy@*.d /run/meshagent/*-* 2> /dev/null; true"""


@contextmanager
def load(mesh: HostMesh, rate: float = 150.0) -> Iterator[RemoteOracle]:
    """From h1 to what is on h2 and h3: HTTP requests on kept and on new connections, short TCP connections, and short gRPC streams."""
    # h1's own checks of a host that had just come up may have failed: two of them, 5 s apart, find it well again.
    until("h1 to find both hosts well", lambda: well(mesh) == 2, every=0.5)
    with mesh.oracle(CALLER) as oracle:
        oracle.http("catalog", mesh.address("catalog"), PORTS["catalog"], rate=rate)
        oracle.tcp("ledger", mesh.address("ledger"), PORTS["ledger"], rate=rate / 10)
        oracle.calls("quotes", mesh.address("quotes"), PORTS["quotes"], rate=rate / 10)
        flowing(oracle)
        assert oracle.failed() == []
        yield oracle
        flowing(oracle)


def well(mesh: HostMesh) -> int:
    """How many endpoints of catalog h1's Envoy thinks well of."""
    asked = "curl -sg --unix-socket /run/meshagent/*/admin.sock 'http://envoy/stats?filter=shop_catalog.*membership_healthy'"
    return int(mesh.host(CALLER).run(asked, check=True).stdout.rpartition(":")[2])


def flowing(oracle: RemoteOracle, requests: int = 100) -> None:
    """So many more requests of HTTP have been answered, and of each other load some."""
    before = {name: load.ok for name, load in oracle.loads().items()}

    def on() -> bool:
        return all(
            load.ok >= before[name] + (requests if name == "catalog" else 3) for name, load in oracle.loads().items()
        )

    until(f"{requests} more answers", on)


def answering(oracle: RemoteOracle, requests: int = 200) -> set[str]:
    """Who answers HTTP from now on."""
    before = oracle.loads()["catalog"].answers
    flowing(oracle, requests)
    return {name for name, number in oracle.loads()["catalog"].answers.items() if number > before[name]}


def calm(mesh: HostMesh, oracle: RemoteOracle, since: float) -> None:
    """All is in sync, and of what is sent from that moment of time.monotonic() on, 300 requests, none fails."""
    mesh.in_sync()
    until("that moment", lambda: time.monotonic() > since, seconds=30)
    flowing(oracle, 300)
    assert oracle.failed(since) == []


@dataclass(frozen=True)
class Placed:
    """One service's placement on one host."""

    host: Host
    service: str

    def state(self) -> dict[str, object]:
        """What the agent wrote of the generation that serves."""
        script = f"grep -l '/{self.service}\"' /var/lib/meshagent/proxies/*/generation.json | xargs cat"
        found: dict[str, object] = json.loads(self.host.run(script, check=True).stdout)
        return found

    @property
    def unit(self) -> str:
        state = self.state()
        return f"meshagent-envoy@{state['placement']}-{state['generation']}.service"

    def show(self, *properties: str, unit: str = "") -> list[str]:
        options = [f"--property={','.join(properties)}", unit or self.unit]
        lines = self.host.run(["systemctl", "show", *options], check=True).stdout.splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[each] for each in properties]

    @property
    def pid(self) -> int:
        return int(self.show("MainPID")[0])

    def live(self) -> list[int]:
        """The pids of this placement's Envoys that are LIVE, of whatever generation."""
        placement = self.state()["placement"]
        found = []
        listed = self.host.run(
            f"systemctl list-units --plain --no-legend --state=active 'meshagent-envoy@{placement}-*' | cut -d' ' -f1"
        ).stdout.split()
        for unit in listed:
            socket = f"/run/meshagent/{unit.removeprefix('meshagent-envoy@').removesuffix('.service')}/admin.sock"
            said = self.host.run(f"curl -s -m 2 --unix-socket {socket} http://envoy/server_info").stdout
            if '"state": "LIVE"' in said:
                found.append(int(self.show("MainPID", unit=unit)[0]))
        return found


def failed_units(mesh: HostMesh) -> list[str]:
    return [unit for host in mesh.hosts for unit in host.failed_units() if unit.startswith("meshagent")]


def tidy(host: Host) -> bool:
    """No process, drop-in, file or directory of sockets is there but those of one generation a placement."""
    serving = re.findall(r"(\w+)/generation.json:.* (\d+)", host.run(SERVING, check=True).stdout)
    expected = [
        piece.format(placement=placement, generation=generation)
        for placement, generation in serving
        for piece in (
            "process in /var/lib/meshagent/proxies/{placement} of bootstrap-{generation}.json",
            "/var/lib/meshagent/proxies/{placement}/bootstrap-{generation}.json",
            "/etc/systemd/system/meshagent-envoy@{placement}-{generation}.service.d",
            "/run/meshagent/{placement}-{generation}",
        )
    ]
    found = host.run(PIECES, check=True).stdout.splitlines()
    odd = [
        f"{found.count(piece)} of {piece}"
        for piece in sorted({*found, *expected})
        if found.count(piece) != expected.count(piece)
    ]
    assert not odd, f"{host}: {', '.join(odd)}"
    return True
