"""One route changes: compiling and handing over what it touches, beside compiling everything.

500 services (each a service, a router, a route and a node), 1,000 proxies of 20 backends, each proxy on a host of its own with a lease.
What is timed begins with the store's change, decoded, and ends when every touched proxy's stream has the responses that go on the wire.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time

from bench.figures import Figure
from meshagent.envoy.compile import Compiler
from meshagent.mesh.placement import Endpoint, Mode
from meshagent.server.events import Changes
from meshagent.server.reconcile import Reconciler
from meshagent.server.records import HostRecord, LineageRecord, PlacementRecord
from meshagent.specs.keys import Key, Kind, mesh_key, node_key, route_key, router_key, service_key
from meshagent.specs.spec import MODELS, Spec
from meshagent.xds.intake import Intake
from meshagent.xds.snapshot import Resource
from meshagent.xds.stream import AdsStream, Pacing, Protocol, Request

SERVICES, PROXIES, BACKENDS, CHANGES, FULL_COMPILES = 500, 1000, 20, 40, 3
MESH = "bench"


def spec(key: Key, body: dict[str, object]) -> Spec:
    return Spec(key, MODELS[key.kind].model_validate(body))


def route(number: int, weight: int) -> Spec:
    other = (number + 1) % SERVICES
    targets = [{"virtualNode": f"n{number}", "weight": weight}, {"virtualNode": f"n{other}", "weight": 100 - weight}]
    body = {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": targets}}}
    return spec(route_key(MESH, f"r{number}", "split"), body)


def everything() -> Changes:
    specs = [spec(mesh_key(MESH), {})]
    for number in range(SERVICES):
        listeners = [{"portMapping": {"port": 8080, "protocol": "http"}}]
        specs += [
            spec(service_key(MESH, f"s{number}"), {"provider": {"virtualRouter": {"virtualRouterName": f"r{number}"}}}),
            spec(router_key(MESH, f"r{number}"), {"listeners": listeners}),
            route(number, 100),
        ]
    for number in range(PROXIES):
        backends = [
            {"virtualService": {"virtualServiceName": f"s{(number * 7 + step * 23) % SERVICES}"}}
            for step in range(BACKENDS)
        ]
        body = {
            "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
            "serviceDiscovery": {"dns": {"hostname": f"n{number}.internal"}},
            "backends": backends,
        }
        specs.append(spec(node_key(MESH, f"n{number}"), body))
    changes = Changes(revision=1, lineage=LineageRecord("bench"))
    changes.specs = {each.key: each for each in specs}
    changes.indexes = {service_key(MESH, f"s{number}"): number + 1 for number in range(SERVICES)}
    for number in range(PROXIES):
        host, address, node = f"h{number}", f"10.0.{number >> 8}.{number & 255}", node_key(MESH, f"n{number}")
        placement = PlacementRecord(f"p{number}", node.path, 0, 0, Mode.BIND.value, address, "127.0.0.1", leased=True)
        changes.hosts[host] = HostRecord(host, (node.path,), address=address, placements=(placement,))
        changes.leases[placement.id] = Endpoint(node, address, host, placement.id, leased=True)
    return changes


class Agents:
    """Every proxy's stream as the server holds it, and the far end that acknowledges, which is not timed."""

    def __init__(self, reconciler: Reconciler) -> None:
        self.streams: dict[str, AdsStream] = {}
        self.intakes: dict[str, Intake] = {}
        for proxy in reconciler.placements:
            self.streams[proxy] = stream = AdsStream(Protocol.DELTA, Pacing.PIPELINED)
            self.intakes[proxy] = intake = Intake()
            for request in intake.open():
                assert stream.receive(request) == []
            self.acknowledge(proxy, stream.offer(_snapshot(reconciler, proxy)))

    def acknowledge(self, proxy: str, responses: list[object]) -> int:
        """Returns how many resources came."""
        stream, intake = self.streams[proxy], self.intakes[proxy]
        resources: list[Resource] = []
        requests: list[Request] = []
        for response in responses:
            resources += response.resources  # type: ignore[attr-defined]
            if intake.receive(response) is not None:  # type: ignore[arg-type]
                requests += intake.settle(())
        for request in requests:
            assert stream.receive(request) == []
        assert stream.synced, proxy
        return len(resources)


def _snapshot(reconciler: Reconciler, proxy: str) -> object:
    snapshot = reconciler.snapshot(proxy)
    assert snapshot is not None
    return snapshot


def full_compile(changes: Changes) -> tuple[Reconciler, float]:
    gc.collect()
    reconciler = Reconciler(Compiler(), "mesh.local")
    started = time.perf_counter()
    applied = reconciler.apply(changes)
    took = time.perf_counter() - started
    assert len(applied.recompiled) == PROXIES and not reconciler.failures, reconciler.failures
    return reconciler, took


def measure() -> list[Figure]:
    changes = everything()
    fulls: list[float] = []
    for number in range(FULL_COMPILES):
        print(f"\rroute-change: full compile {number + 1} of {FULL_COMPILES}", end="", file=sys.stderr, flush=True)
        reconciler, took = full_compile(changes)
        fulls.append(took)
    agents = Agents(reconciler)
    singles: list[float] = []
    touched: list[int] = []
    for number in range(CHANGES):
        print(f"\rroute-change: change {number + 1} of {CHANGES}       ", end="", file=sys.stderr, flush=True)
        changed = route((number * 11) % SERVICES, 90 - number)
        event = Changes(revision=2 + number, specs={changed.key: changed})
        gc.collect()
        started = time.perf_counter()
        applied = reconciler.apply(event)
        pushes = {proxy: agents.streams[proxy].offer(_snapshot(reconciler, proxy)) for proxy in applied.recompiled}
        singles.append(time.perf_counter() - started)
        touched.append(len(pushes))
        assert pushes and all(agents.acknowledge(proxy, responses) for proxy, responses in pushes.items())
    print(file=sys.stderr)
    full, single = statistics.median(fulls), statistics.median(singles)
    assert Kind.ROUTE is changed.key.kind
    return [
        Figure(f"full compile: {SERVICES} services, {PROXIES} proxies of {BACKENDS} backends, median of {FULL_COMPILES}", full * 1000, "ms",
               "under 3000 ms", full < 3),
        Figure(f"one route change, {statistics.mean(touched):.0f} proxies touched, to their streams, median of {CHANGES}", single * 1000,
               "ms", "under 10 ms", single < 0.010),
        Figure("full compile against one route change", full / single, "times", "200 times", full / single >= 200),
    ]  # fmt: skip
