"""The commands of docs/operations.md, and those of docs/meshctl.md that need hosts, run as they stand there: `meshctl` on the server, all
else on h1, which stands for the pages' web-7."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from meshagent.demo.hosts import HostMesh, until
from tests.documents import Block, run_by

pytestmark = pytest.mark.lab

NAME, ID, TOKEN = "web-7", "852d2728f94f", "4323b69e7eec4092"


@pytest.fixture
def names(mesh: HostMesh) -> Iterator[dict[str, str]]:
    """What stands for the pages' names."""
    here = [one["proxy"] for one in mesh.proxies() if one["host"] == "h1"]
    token = json.loads(mesh.meshctl("token", "create", "-p", "mesh/shop/virtualNode/web", "-o", "json"))["id"]
    yield {NAME: "h1", ID: here[0], TOKEN: token, "role=canary": "role=callers"}
    for policy in json.loads(mesh.meshctl("envoy", "list", "-o", "json"))["policies"]:
        ((scope, value),) = policy["scope"].items()
        mesh.meshctl("envoy", "unset", f"--{scope}", *(() if scope == "all" else (value,)))


def run(mesh: HostMesh, block: Block, names: dict[str, str]) -> None:
    for command in block.commands:
        for written, here in names.items():
            command = command.replace(written, here)
        host = mesh.server if command.startswith("meshctl ") else mesh.host("h1")
        before = host.boot_id
        done = host.run(["bash", "-c", command], limit=180)
        if "reboot" in command:
            host.wait(other_than=before)
            continue
        assert done.returncode == 0, f"{block}: {command}: {done.stdout}{done.stderr}"
        assert done.stdout or "systemctl" in command, f"{block}: {command}: nothing was said"


def test_the_guides_commands_for_hosts(mesh: HostMesh, names: dict[str, str]) -> None:
    found = run_by(__file__, "docs/meshctl.md")
    assert len(found) >= 3
    for block in found:
        run(mesh, block, names)


def test_day_two_from_its_first_command_to_its_last(mesh: HostMesh, names: dict[str, str]) -> None:
    found = run_by(__file__, "docs/operations.md")
    assert len(found) >= 8
    for block in found:
        run(mesh, block, names)
        if "reboot" in block.text:
            mesh.in_sync(seconds=90, proxies=7)  # what was stopped on purpose is back after a reboot
        elif "meshagent uninstall --purge" in block.text:
            gone = mesh.host("h1").run("systemctl list-unit-files --no-legend 'meshagent*'; ls -d /var/lib/meshagent")
            assert gone.stdout == ""
            if "meshctl delete" in block.text:
                assert "h1" not in [one["host"] for one in mesh.proxies()]
            assert mesh.deploy() > 0
            mesh.in_sync(proxies=7)
            names[ID] = next(one["proxy"] for one in mesh.proxies() if one["host"] == "h1")
    until("the shop to answer again", lambda: "catalog-" in _catalog(mesh))


def _catalog(mesh: HostMesh) -> str:
    return mesh.host("h1").run("curl -s http://catalog.shop.internal:8080/").stdout
