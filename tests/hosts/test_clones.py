"""D8: a machine that is a copy of a host's disk, on real hosts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshagent.demo.hosts import HostMesh, until
from meshagent.lab import Host
from tests.documents import run_by
from tests.hosts.test_addresses import CONFIGURATION, addresses
from tests.hosts.test_doctor import finds

pytestmark = pytest.mark.lab

STATE, SETTINGS = "/var/lib/meshagent", "/etc/meshagent"
STOP = "systemctl stop meshagent-agent && meshagent agent --stop-proxies"
FRESH = "h8"


@contextmanager
def copied(original: Host, copy: Host) -> Iterator[None]:
    """`copy` has the disk that `original` has now, as far as meshagent is concerned; but for its address, which a machine is given at its
    start. Its own is back afterwards."""
    hide = " && ".join(f"mount -t tmpfs -o mode=0711 copied {path}" for path in (STATE, SETTINGS))
    copy.run(f"{STOP} && {hide}", check=True, limit=60)
    try:
        for path in (STATE, SETTINGS):
            there, here = (f"/proc/{host.pid}/root{path}/." for host in (original, copy))
            subprocess.run(["cp", "-a", there, here], check=True)
        copy.write(
            CONFIGURATION, copy.read(CONFIGURATION).replace(str(original.address), str(copy.address)), mode=0o600
        )
        yield
    finally:
        copy.run(f"{STOP}; umount {STATE} {SETTINGS}; systemctl start meshagent-agent", check=True, limit=60)


def clones(mesh: HostMesh, host: str) -> list[dict[str, Any]]:
    (found,) = (one for one in json.loads(mesh.meshctl("hosts", "--output", "json"))["hosts"] if one["host"] == host)
    return list(found["clones"])


def test_d8_a_copy_of_a_host_is_kept_out_until_it_has_a_name_of_its_own(mesh: HostMesh) -> None:
    original, copy = mesh.host("h2"), mesh.host("h3")
    with copied(original, copy), mesh.oracle("h1") as oracle:
        mesh.start_traffic(oracle)
        until("answers", lambda: oracle.loads()["catalog"].answers.get("catalog-h2"))
        copy.run("systemctl start meshagent-agent", check=True)
        (found,) = until("the copy to be found", lambda: clones(mesh, "h2"))
        assert found["address"] == str(copy.address)
        assert addresses(mesh, "h2") == {str(original.address)}
        assert all(one["connected"] and one["synced"] for one in mesh.proxies() if one["host"] == "h2")
        status = " ".join(mesh.meshctl("status").split())
        assert f"h2: another machine, at {copy.address}" in status
        finds(copy, "servers", f"another machine, at {original.address}, is host 'h2'")
        assert "kept out" in copy.run("meshagent status", check=False).stdout

        # An agent that is restarted, and a machine that is, change nothing for the host.
        copy.run("systemctl restart meshagent-agent", check=True)
        original.run("systemctl restart meshagent-agent", check=True)
        until("the host to be back", lambda: addresses(mesh, "h2") == {str(original.address)})
        assert oracle.failed() == []

        (block,) = run_by(__file__, "docs/operations.md")
        renamed = re.sub(r"(?m)^host:\n  name: \S+$", f"host:\n  name: {FRESH}", copy.read(CONFIGURATION))
        copy.write(CONFIGURATION, renamed, mode=0o600)
        for command in block.commands:
            command = command.replace("mesh/shop/virtualNode/web", "mesh/shop/*").replace("web-8", FRESH)
            on_server = command.startswith("meshctl ")
            (mesh.server if on_server else copy).run(["bash", "-c", f"cd /root && {command}"], check=True)
            if on_server:
                copy.write("/root/join-token", mesh.server.read("/root/join-token"))
        until("the copy to be a host of its own", lambda: addresses(mesh, FRESH) == {str(copy.address)})
        assert addresses(mesh, "h2") == {str(original.address)}
        until("it to answer", lambda: oracle.loads()["catalog"].answers.get("catalog-h3"))
        assert oracle.failed() == []
    mesh.meshctl("delete", f"host/{FRESH}")
    mesh.in_sync(proxies=7)
