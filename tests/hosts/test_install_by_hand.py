"""docs/install.md's commands for hosts, run as they stand there, on fresh hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshagent.demo import hosts
from meshagent.demo.hosts import BUNDLE, until
from meshagent.lab import Host, Lab, machine
from tests.documents import run_by

pytestmark = pytest.mark.lab

SHOP = Path(__file__).parents[2] / "roles/files/shop.yaml"
DOCUMENT = Path(__file__).parents[2] / "docs/install.md"


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two bare hosts: web-1 of the document is h1, the server h2."""
    reason = machine.why_not() or hosts.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab.of_process(hosts=2) as lab:
        yield lab


def commands(heading: str) -> str:
    """The indented lines under a heading, up to the next one."""
    section = re.split(r"^#+ ", DOCUMENT.read_text().split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


# What a host has of its own, in places that an installation touches; what systemd keeps of boots and logs is not counted.
SNAPSHOT = """
find /etc /opt /usr/local /var/lib /run/meshagent* -not -path '/var/lib/systemd/*' -not -path '/etc/machine-id' 2>/dev/null | sort
cut -d: -f1 /etc/passwd /etc/group | sort
sha256sum /etc/hosts
nft list ruleset
systemctl list-units --all --no-legend --plain 'meshagent*' | cut -d' ' -f1
pgrep -l envoy || true
"""


def run(host: Host, script: str) -> None:
    host.run(["sh", "-ec", f"cd /root\n{script}"], limit=120, check=True)


def test_h7_the_documents_commands_make_a_server_and_a_host_and_take_them_away(pair: Lab) -> None:
    host, server = pair.host("h1"), pair.host("h2")
    before = {each.name: each.run(SNAPSHOT).stdout for each in (host, server)}
    for each in (host, server):
        each.copy(BUNDLE, "/root/bundle.tar")
    run(server, commands("On the server").replace("10.0.0.10", str(server.address)))
    server.write("/root/shop.yaml", SHOP.read_text())
    server.run(["meshctl", "apply", "/root/shop.yaml"], check=True)
    host.write("/root/join-token", server.read("/root/join-token"), mode=0o600)
    run(host, commands("On a host").replace("10.0.0.11", str(host.address)))

    def connected() -> bool:
        status = json.loads(server.run(["meshctl", "status", "--output", "json"], check=True).stdout)
        return [(one["host"], one["connected"]) for one in status["proxies"]] == [("web-1", True)]

    until("web-1's proxy to be connected", connected)
    assert (
        host.run(["python3", "/root/meshagent-bundle/install.py", "--role", "agent", "--check"], check=True).stdout
        == ""
    )
    for each in (host, server):
        assert each.failed_units() == []
        each.reboot()
    until("web-1's proxy to be connected after a reboot of both", connected, seconds=40)
    until("names to stand", lambda: "catalog.shop.internal" in host.read("/etc/hosts"))

    # Uninstalled, each is what it was; the server forgets the host in between.
    remove, forget = (block.text for block in run_by(__file__, "docs/install.md")[-2:])
    run(host, remove)
    run(server, forget)
    assert json.loads(server.run(["meshctl", "hosts", "--output", "json"], check=True).stdout)["hosts"] == []
    run(server, remove)
    for each in (host, server):
        assert each.run(SNAPSHOT).stdout == before[each.name]
        assert each.failed_units() == []


def test_p4_hosts_have_no_compiler_no_pip_and_no_way_out(pair: Lab) -> None:
    """What the installation above had to do without."""
    host = pair.host("h1")
    assert host.run("command -v gcc cc pip pip3").returncode != 0
    assert host.run(["python3", "-m", "pip"]).returncode != 0
    assert host.run(["ip", "route", "show", "default"]).stdout == ""
