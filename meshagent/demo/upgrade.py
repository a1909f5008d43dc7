"""Envoy's version changed and changed back on two hosts, under a load that leaves no way around them: what fails, and what is cut.

h1 calls, h2 answers, h3 is drained. Each call passes web's Envoy on h1 and one of the three on h2, and each of the four is followed by
another version once there and once back. Besides thousands of requests a second there is one long gRPC stream and one held TCP connection:
such are cut when an Envoy's drain is over, and not before.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from meshagent.demo.hosts import PORTS, HostMesh, until
from meshagent.demo.oracle import RemoteOracle
from meshagent.demo.traffic import Load
from meshagent.demo.wrk import Count, Wrk

OLD, NEW = "1.39.3", "1.40.0"
CALLER, CALLEE, SPARE = "h1", "h2", "h3"
SERVICES = {CALLER: ("web",), CALLEE: ("catalog", "quotes", "ledger")}
STREAM, HELD = "quotes", "ledger"
KEPT, FRESH, CALLS = 90, 24, 50.0
RATE = 2000.0
DRAIN = 5.0
# After its drain time, what an Envoy's end may take on a busy machine.
END = 5.0
_AFTER = 1.0  # so much later than the agent a client may notice
_HANDOVER_LIMIT = 120.0
_APPLICATION = "swift-catalog"
_ENVOY = f"/var/lib/meshagent/envoys/{NEW}/envoy"
_SERVES = re.compile(r"(\w+): Envoy (\S+) serves, generation (\d+)$")
_ENDED = re.compile(r"(\w+): generation (\d+) has ended$")
_CUT = re.compile(r"(\w+): generation (\d+): (.* cut)$")

# An application that costs little beside the Envoys that are looked at.
_SWIFT = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: swift
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: swift}}
"""


@dataclass(frozen=True)
class Handover:
    """One Envoy followed by another. `began`, when it began to drain, and `ended` are time.monotonic()'s; `cut` are the agent's words."""

    host: str
    service: str
    version: str
    began: float
    ended: float
    cut: str = ""


@dataclass(frozen=True)
class Outcome:
    seconds: float
    loads: tuple[Count, ...]
    calls: Load
    long: tuple[tuple[Load, tuple[Handover, ...]], ...]  # what was held, and the handovers that it had to end at

    @property
    def requests(self) -> int:
        return sum(load.requests for load in self.loads) + self.calls.ok

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def failures(self) -> list[str]:
        """Of requests and short streams, in words."""
        said = [f"{load.name}: {number} x {kind}" for load in self.loads for kind, number in load.failures.items()]
        return said + [f"{self.calls.name}: {words}" for _, words in self.calls.failures]

    @property
    def failed(self) -> int:
        return sum(load.failed for load in self.loads) + self.calls.failed


def drained_for(load: Load, handovers: Iterable[Handover]) -> tuple[list[float], list[str]]:
    """For each time that a held stream or connection broke at a drain's end, the seconds since that drain began; and in words, where one
    broke otherwise, or outlived a drain."""
    left = sorted(handovers, key=lambda handover: handover.began)
    lived, odd = [], []
    for at, words in load.failures:
        handover = next((each for each in left if each.began <= at <= each.ended + _AFTER), None)
        if handover is None or "broke" not in words:
            odd.append(f"{load.name}: {words}, at no drain's end")
        else:
            left.remove(handover)
            lived.append(at - handover.began)
    return lived, odd + [f"{load.name}: outlived the drain of {each.service} on {each.host}" for each in left]


def change_and_back(mesh: HostMesh, say: Callable[[str], None]) -> Outcome:
    """The mesh is left as it was."""
    before = {host: _running(mesh, host) for host in SERVICES}
    try:
        say(f"both hosts to {OLD}, before the load")
        for host in SERVICES:
            mesh.meshctl("envoy", "use", OLD, "--host", host)
        _wait(mesh, {host: [OLD] * len(services) for host, services in SERVICES.items()})
        with _one_way(mesh), mesh.oracle(CALLER) as oracle:
            return _under_load(mesh, oracle, say)
    finally:
        for host in SERVICES:
            mesh.meshctl("envoy", "unset", "--host", host)
        _wait(mesh, before)
        mesh.in_sync()


def _under_load(mesh: HostMesh, oracle: RemoteOracle, say: Callable[[str], None]) -> Outcome:
    namespace = mesh.lab.layout.namespace(CALLER)
    quotes, ledger = mesh.address("quotes", CALLER), mesh.address("ledger", CALLER)
    url = f"http://{mesh.address('catalog', CALLER)}:{PORTS['catalog']}/"
    oracle.calls("short gRPC streams", quotes, PORTS["quotes"], rate=CALLS)
    oracle.grpc(STREAM, quotes, PORTS["quotes"])
    oracle.held(HELD, ledger, PORTS["ledger"])
    _flowing(oracle)
    handovers: list[Handover] = []
    with (
        Wrk("kept-alive connections", namespace, url, KEPT) as kept,
        Wrk("new connections", namespace, url, FRESH, fresh=True) as fresh,
    ):
        began = time.monotonic()
        calls_before = oracle.loads()["short gRPC streams"].ok
        for version in (NEW, OLD):
            for host in (CALLEE, CALLER):
                say(f"{host} to {version}")
                handovers += _handovers(mesh, host, version)
                _flowing(oracle)
        loads = oracle.loads()
        seconds = time.monotonic() - began
        counts = (kept.stop(), fresh.stop())
    calls = loads["short gRPC streams"]
    calls.ok -= calls_before
    on_the_way = {
        name: tuple(each for each in handovers if each.service in (name, *SERVICES[CALLER])) for name in (STREAM, HELD)
    }
    return Outcome(seconds, counts, calls, tuple((loads[name], on_the_way[name]) for name in (STREAM, HELD)))


def _flowing(oracle: RemoteOracle) -> None:
    """Every load of the oracle's goes on."""
    before = {name: load.ok for name, load in oracle.loads().items()}

    def on() -> bool:
        return all(load.ok > before[name] + 10 for name, load in oracle.loads().items())

    until("the held stream and connection and the short ones to go on", on, seconds=30)


def _handovers(mesh: HostMesh, host: str, version: str) -> list[Handover]:
    """Changes the version on one host; returns when every Envoy from before has ended."""
    since = time.monotonic()
    placements = {one["proxy"]: one["resource"].rpartition("/")[2] for one in mesh.proxies() if one["host"] == host}
    mesh.meshctl("envoy", "use", version, "--host", host)
    read = ["journalctl", "-u", "meshagent-agent", "--since=-10min", "-o", "json", "--output-fields=MESSAGE"]

    def done() -> list[Handover]:
        lines = [json.loads(line) for line in mesh.host(host).run(read, check=True).stdout.splitlines()]
        records = [(int(line["__MONOTONIC_TIMESTAMP"]) / 1e6, str(line["MESSAGE"])) for line in lines]
        found = handovers_of(host, version, placements, [record for record in records if record[0] >= since])
        assert len(found) == len(placements), found
        return found

    return until(f"Envoy {version} on {host}", done, _HANDOVER_LIMIT, every=1.0)


def handovers_of(
    host: str, version: str, placements: dict[str, str], records: Iterable[tuple[float, str]]
) -> list[Handover]:
    """Those that are over, from what the agent wrote and when. `placements`: the service of each id."""
    began: dict[str, float] = {}
    cut: dict[str, str] = {}
    found = []
    for at, message in records:
        if (serves := _SERVES.search(message)) and serves[2] == version:
            began[serves[1]] = at
        elif said := _CUT.search(message):
            cut[said[1]] = said[3]
        elif (over := _ENDED.search(message)) and over[1] in began:
            id = over[1]  # noqa: A001
            found.append(Handover(host, placements[id], version, began[id], at, cut.get(id, "")))
    return found


def _wait(mesh: HostMesh, versions: dict[str, list[str]]) -> None:
    """Until these run, and none before them drains any more."""
    units = "systemctl list-units --plain --no-legend 'meshagent-envoy@*' | wc -l"

    def there() -> bool:
        return all(
            _running(mesh, host) == every and int(mesh.host(host).run(units, check=True).stdout) == len(every)
            for host, every in versions.items()
        )

    until(f"versions {versions}", there, 180, every=1.0)


def _running(mesh: HostMesh, host: str) -> list[str]:
    return [(one.get("envoy") or {}).get("version", "") for one in mesh.proxies() if one["host"] == host]


@contextmanager
def _one_way(mesh: HostMesh) -> Iterator[None]:
    """All calls go to one host, and its catalog answers quickly."""
    host = mesh.host(CALLEE)
    host.write("/opt/swift.yaml", _SWIFT)
    host.run(["systemctl", "stop", "shop-catalog"], check=True)
    try:
        command = [_ENVOY, "-c", "/opt/swift.yaml", "-l", "error", "--concurrency", "1", "--disable-hot-restart"]
        host.run(["systemd-run", f"--unit={_APPLICATION}", "-p", "LimitNOFILE=65536", *command], check=True)
        until("the application", lambda: host.run("curl -sf http://127.0.0.1:8080/").stdout == "swift", 30)
        mesh.in_sync()
        mesh.meshctl("drain", SPARE, "--wait")
        yield
    finally:
        mesh.meshctl("undrain", SPARE)
        host.run(["systemctl", "stop", _APPLICATION])
        host.run(["systemctl", "start", "shop-catalog"], check=True)
