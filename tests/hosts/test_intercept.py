"""The mode intercept on a real host: what it passes on and what it never takes, with Envoy there, hung, stopped and gone.

Confirms as docs/modes.md says.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from meshagent.demo.hosts import HostMesh, until
from meshagent.lab import Host
from tests.hosts.test_redirect import CATALOG, ask, table

pytestmark = pytest.mark.lab

CONFIGURATION = "/etc/meshagent/agent.yaml"
EGRESS = "kind: Mesh\nmeshName: shop\nspec: {{egressFilter: {{type: {}}}}}\n"
OUTSIDE = 8099
BANNER = "import socket, sys; assert socket.create_connection((sys.argv[1], 22), timeout=5).recv(4) == b'SSH-'"


@contextlib.contextmanager
def intercepting(mesh: HostMesh, host: Host) -> Iterator[None]:
    before = host.read(CONFIGURATION)
    wanted = yaml.safe_load(before)
    (placement,) = wanted["placements"]
    placement["mode"] = "intercept"
    host.write(CONFIGURATION, yaml.safe_dump(wanted))
    try:
        host.run(["systemctl", "restart", "meshagent-agent"], check=True)
        yield
    finally:
        host.write(CONFIGURATION, before)
        host.run(["systemctl", "restart", "meshagent-agent"], check=True)
        mesh.in_sync()


@contextlib.contextmanager
def outside(host: Host) -> Iterator[str]:
    """A server that the mesh knows nothing of; its URL."""
    run = f"systemd-run --quiet --collect --unit=outside python3 /opt/shop/app.py http 0.0.0.0 {OUTSIDE} outside"
    host.run("mkdir -p /opt/shop; test -e /opt/shop/app.py", check=True)
    host.run(run, check=True)
    try:
        yield f"http://{host.address}:{OUTSIDE}/"
    finally:
        host.run(["systemctl", "stop", "outside"])


def caught(host: Host) -> bool:
    return "elements = {" in table(host)  # named only where /etc/protocols is there


def in_reach(mesh: HostMesh, host: Host) -> None:
    """By ssh from outside, and by ssh's port to the outside."""
    subprocess.run([*mesh.lab.ssh(host.name), "true"], check=True, timeout=20, stdin=subprocess.DEVNULL)
    host.run(["python3", "-c", BANNER, str(mesh.host("h2").address)], check=True)


def serving_unit(host: Host) -> str:
    words = host.run(
        "systemctl list-units --plain --no-legend --state=active 'meshagent-envoy@*'", check=True
    ).stdout.split()
    return words[0]


def test_h7_nothing_is_lost_in_intercept_while_envoy_is_there_hung_stopped_or_gone(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    mesh.server.write("/root/egress.yaml", EGRESS.format("ALLOW_ALL"))
    mesh.meshctl("apply", "/root/egress.yaml")
    with outside(mesh.host("h3")) as url:
        try:
            until("the outside", lambda: "outside" in ask(host, url), 20)
            with intercepting(mesh, host):
                until("the trial", lambda: caught(host), 30)
                assert "meshagent intercept confirm" in host.run(["meshagent", "status"], check=True).stdout
                until("what is not the mesh's to be passed on", lambda: "outside" in ask(host, url), 20)
                until("services", lambda: "catalog-h" in ask(host, CATALOG), 20)
                in_reach(mesh, host)
                host.run(["meshagent", "intercept", "confirm"], check=True)

                mesh.server.write("/root/egress.yaml", EGRESS.format("DROP_ALL"))
                mesh.meshctl("apply", "/root/egress.yaml")
                until("what is not the mesh's to be closed", lambda: "error" in ask(host, url), 20)
                assert "catalog-h" in ask(host, CATALOG)
                in_reach(mesh, host)

                unit = serving_unit(host)
                host.run(["systemctl", "kill", "-s", "STOP", unit], check=True)
                in_reach(mesh, host)
                until("a hung Envoy to be passed by", lambda: "outside" in ask(host, url), 30)
                in_reach(mesh, host)
                host.run(["systemctl", "kill", "-s", "CONT", unit])
                until("Envoy", lambda: caught(host) and "catalog-h" in ask(host, CATALOG), 60)

                host.run(["systemctl", "stop", "meshagent-agent"], check=True)
                assert caught(host), "the rules stay without the agent"
                assert "catalog-h" in ask(host, CATALOG) and "error" in ask(host, url)
                in_reach(mesh, host)
                stopped = serving_unit(host)
                host.run(["systemctl", "stop", stopped], check=True, limit=120)
                assert "outside" in ask(host, url), "with nobody there at all"
                in_reach(mesh, host)
                host.run(["systemctl", "start", stopped], check=True)  # what was stopped on purpose stays so
        finally:
            host.run("systemctl start 'meshagent-agent'")
            mesh.meshctl("apply", "/opt/shop/applied.yaml")
    mesh.restore()
    until("redirect again", lambda: "catching" not in table(host) and "catalog-h" in ask(host, CATALOG), 60)
