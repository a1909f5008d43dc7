"""The agent's own memory and processor time, with one and with five placements, after minutes of load through their Envoys."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import psutil
import yaml

from bench.figures import Figure
from meshagent.demo.traffic import Oracle
from meshagent.demo.world import HTTP_PROBE, TCP_PROBE, Host, Service, World

CALLED = (
    Service("catalog", "http", 8081, HTTP_PROBE),
    Service("prices", "http", 8082, HTTP_PROBE),
    Service("ledger", "tcp", 9000, TCP_PROBE),
    Service("quotes", "grpc", 9090, TCP_PROBE),
    Service("stock", "http", 8083, HTTP_PROBE),
)
HOSTS = (Host("one", (Service("web", "http", 8080, HTTP_PROBE),)), Host("five", CALLED))
GOALS = {"one": 60.0, "five": 75.0}
MIB = 1 << 20  # as ps counts


def documents() -> str:
    names = [f"{service.name}.shop.internal" for service in CALLED]

    def node(service: Service, backends: list[str]) -> dict[str, object]:
        spec: dict[str, object] = {
            "listeners": [{"portMapping": {"port": service.port, "protocol": service.kind}}],
            "serviceDiscovery": {"dns": {"hostname": f"{service.name}.shop.internal"}},
        }
        if backends:
            spec["backends"] = [{"virtualService": {"virtualServiceName": name}} for name in backends]
        return {"kind": "VirtualNode", "meshName": "shop", "virtualNodeName": service.name, "spec": spec}

    services = [
        {
            "kind": "VirtualService",
            "meshName": "shop",
            "virtualServiceName": name,
            "spec": {"provider": {"virtualNode": {"virtualNodeName": service.name}}},
        }
        for name, service in zip(names, CALLED, strict=True)
    ]
    nodes = [node(HOSTS[0].services[0], names), *(node(service, []) for service in CALLED)]
    return yaml.safe_dump_all([{"kind": "Mesh", "meshName": "shop", "spec": {}}, *nodes, *services])


async def measure(envoys: Path, minutes: float) -> list[Figure]:
    figures: list[Figure] = []
    async with World(envoys, hosts=HOSTS) as world, Oracle() as oracle:
        path = world.directory / "bench.yaml"
        path.write_text(documents())
        await world.up(path)
        for service in CALLED:
            address = world.service_address("web", f"{service.name}.shop.internal")
            match service.kind:
                case "http":
                    oracle.http(service.name, address, service.port, rate=50)
                case "tcp":
                    oracle.tcp(service.name, address, service.port)
                case "grpc":
                    oracle.grpc(service.name, address, service.port)
        processes = {name: psutil.Process(agent.pid) for name, agent in world.agents.items()}
        before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        started = time.monotonic()
        while (passed := time.monotonic() - started) < minutes * 60:
            now = ", ".join(f"{name} {process.memory_info().rss / MIB:.1f}" for name, process in processes.items())
            print(f"\ragent-memory: {passed / 60:4.1f} of {minutes:g} min, {oracle.ok} requests, {oracle.failed} failed, MB: {now}", end="",
                  file=sys.stderr, flush=True)  # fmt: skip
            await asyncio.sleep(min(5.0, minutes * 60))
        print(f"\n{oracle.report()}", file=sys.stderr)
        for name, process in processes.items():
            resident = process.memory_info().rss / MIB
            cpu = (sum(process.cpu_times()[:2]) - before[name]) / (time.monotonic() - started) * 100
            figures += [
                Figure(f"agent, {name} placement(s): resident after {minutes:g} min of load", resident, "MB", f"under {GOALS[name]:g} MB",
                       resident < GOALS[name]),
                Figure(f"agent, {name} placement(s): processor, of one core", cpu, "%"),
            ]  # fmt: skip
        figures.append(
            Figure("requests that failed meanwhile", oracle.failed, f"of {oracle.ok}", "0", oracle.failed == 0)
        )
    return figures
