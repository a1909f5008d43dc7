"""The agent at rest on a real systemd host: processor and memory, with one and with five placements. Needs root, and what `make test` needs
for hosts: it makes a lab of its own."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import yaml

from bench.figures import Figure
from meshagent.demo.hosts import HostMesh, until
from meshagent.demo.hosts import why_not as no_deployment
from meshagent.lab import Host, Lab, machine

ONE, FIVE = "h1", "h2"
CONFIG, TOKEN = "/etc/meshagent/agent.yaml", "/etc/meshagent/join-token"
# h2 has three from its inventory.
MORE = ("spare-1", "spare-2")
GOALS = {ONE: 60.0, FIVE: 75.0}
CPU_GOAL = 0.5  # per cent of a core
MIB = 1 << 20
_SETTLE = 30.0


@dataclass(frozen=True)
class Use:
    at: float
    seconds: float
    resident: int


def why_not() -> str | None:
    return machine.why_not() or no_deployment()


def measure(minutes: float) -> list[Figure]:
    with Lab.of_process(hosts=4) as lab:
        mesh = HostMesh(lab)
        print("agent-host: deploying", file=sys.stderr)
        mesh.deploy()
        more_placements(mesh)
        mesh.in_sync(proxies=7 + len(MORE))
        # What a start costs is not what resting costs.
        time.sleep(_SETTLE)
        hosts = {name: mesh.host(name) for name in (ONE, FIVE)}
        before = {name: use(host) for name, host in hosts.items()}
        print(f"agent-host: at rest for {minutes:g} min", file=sys.stderr)
        time.sleep(minutes * 60)
        after = {name: use(host) for name, host in hosts.items()}
        counts = {name: len([one for one in mesh.proxies() if one["host"] == name]) for name in hosts}
    figures = []
    for name in (ONE, FIVE):
        spent = after[name].seconds - before[name].seconds
        cpu, resident = 100 * spent / (after[name].at - before[name].at), after[name].resident / MIB
        what = f"agent on a host, {counts[name]} placement(s), at rest"
        figures += [
            # What is promised is for one proxy.
            Figure(
                f"{what}: processor, of one core",
                cpu,
                "%",
                *((f"under {CPU_GOAL} %", cpu < CPU_GOAL) if name == ONE else ()),
            ),
            Figure(f"{what}: resident", resident, "MB", f"under {GOALS[name]:g} MB", resident < GOALS[name]),
        ]
    return figures


def more_placements(mesh: HostMesh) -> None:
    """Two more nodes on h2, which it joins anew for."""
    documents = [
        {
            "kind": "VirtualNode",
            "meshName": "shop",
            "virtualNodeName": name,
            "spec": {
                "listeners": [{"portMapping": {"port": 7001 + number, "protocol": "http"}}],
                "serviceDiscovery": {"dns": {"hostname": f"{name}.shop.internal"}},
            },
        }
        for number, name in enumerate(MORE)
    ]
    mesh.server.write("/root/more.yaml", yaml.safe_dump_all(documents))
    mesh.meshctl("apply", "/root/more.yaml")
    host = mesh.host(FIVE)
    settings = yaml.safe_load(host.read(CONFIG))
    settings["placements"] += [{"resource": f"mesh/shop/virtualNode/{name}"} for name in MORE]
    allowed = [word for one in settings["placements"] for word in ("--placement", one["resource"])]
    token = mesh.meshctl("token", "create", *allowed, "--host", FIVE).strip().splitlines()[-1]
    for number in range(len(MORE)):
        program = ["/usr/bin/python3", "/opt/shop/app.py", "http", "127.0.0.1", str(7001 + number), MORE[number]]
        host.run(["systemd-run", f"--unit={MORE[number]}", *program], check=True)
    host.write(TOKEN, f"{token}\n", 0o600)
    host.write(CONFIG, yaml.safe_dump(settings))
    until("the agent to start", lambda: not host.run(["systemctl", "restart", "meshagent-agent"]).returncode, 30)


def use(host: Host) -> Use:
    """Of the agent's process: what it spent so far, and what it holds now."""
    script = "cd /proc/$(systemctl show -P MainPID meshagent-agent) && cat stat && grep VmRSS: status"
    *stat, resident = host.run(script, check=True).stdout.strip().splitlines()
    fields = stat[0].rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Use(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), int(resident.split()[1]) << 10)
