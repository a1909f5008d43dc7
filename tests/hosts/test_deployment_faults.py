"""Deployments that are cut short, miss hosts, or come as a user that is not root."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshagent.demo.hosts import BUNDLE, MESH, PORTS, HostMesh, until

pytestmark = pytest.mark.lab

ADMIN = """
id admin >/dev/null 2>&1 || useradd --create-home --shell /bin/sh admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin
install -d -o admin -m 700 /home/admin/.ssh
install -o admin -m 600 /root/.ssh/authorized_keys /home/admin/.ssh/authorized_keys
"""


@pytest.fixture
def admin(mesh: HostMesh) -> Iterator[None]:
    """A user on every host that may use sudo; root's ssh is not used."""
    for host in mesh.lab.hosts:
        host.run(["sh", "-ec", ADMIN], check=True)
    yield
    for host in mesh.lab.hosts:
        host.run("rm -f /etc/sudoers.d/admin && userdel --remove admin")


def test_a_fleet_is_deployed_by_a_user_with_sudo(mesh: HostMesh, admin: None) -> None:
    as_admin = ("--data", "ssh_user=admin", "--sudo")
    assert mesh.deploy(*as_admin, *MESH) == 0
    host = mesh.host("h1")
    before = host.run(["sha256sum", "/etc/meshagent/join-token"], check=True).stdout
    # As if the inventory had come to let it run other placements than it joined for.
    host.run(["rm", "/etc/meshagent/join-placements"], check=True)
    assert mesh.deploy(*as_admin, "roles/site.py") == 2  # a token, and the restart that joins by it
    assert host.run(["sha256sum", "/etc/meshagent/join-token"], check=True).stdout != before
    assert host.run(["stat", "-c", "%U %a", "/etc/meshagent/join-token"]).stdout == "root 600\n"
    mesh.in_sync()
    assert mesh.deploy() == 0


def test_p3_a_host_out_of_reach_is_named_and_the_others_are_done(mesh: HostMesh) -> None:
    mesh.host("h3").cut_power()
    mesh.host("h2").run(["rm", "/etc/systemd/system/shop-ledger.service"], check=True)
    done = mesh.pyinfra(*MESH)
    words = done.stdout
    assert done.returncode != 0
    assert "[h3] Could not connect" in words, words[-3000:]
    assert mesh.host("h2").run(["test", "-e", "/etc/systemd/system/shop-ledger.service"]).returncode == 0


def test_a_host_is_uninstalled_without_a_failed_request_and_comes_back_as_the_same(mesh: HostMesh) -> None:
    host = mesh.host("h3")
    proxies = {one["proxy"] for one in mesh.proxies() if one["host"] == "h3"}
    token = host.run(["sha256sum", "/etc/meshagent/join-token"], check=True).stdout
    with mesh.oracle("h1") as oracle:
        address, port = mesh.address("catalog"), PORTS["catalog"]
        oracle.http("catalog", address, port)
        until("both hosts to answer", lambda: len(oracle.loads()["catalog"].answers) == 2)
        assert mesh.deploy("--limit", "h3", "roles/uninstall.py") == 1
        assert mesh.deploy("--limit", "h3", "roles/uninstall.py") == 0
        assert (
            host.run(
                "command -v meshagent; ls -d /opt/meshagent; pgrep envoy; nft list tables; grep 127.64 /etc/hosts"
            ).stdout
            == ""
        )
        assert mesh.deploy() > 0
        mesh.in_sync()
        assert oracle.failed() == []
    assert {one["proxy"] for one in mesh.proxies() if one["host"] == "h3"} == proxies
    assert host.run(["sha256sum", "/etc/meshagent/join-token"], check=True).stdout == token  # it needed no new one


@pytest.fixture
def other_bundle(tmp_path: Path) -> Iterator[Path]:
    """The bundle under another id: for hosts it is another release."""
    with tarfile.open(BUNDLE) as whole:
        whole.extractall(tmp_path, filter="data")
    content = tmp_path / "meshagent-bundle"
    manifest = json.loads((content / "manifest.json").read_text())
    manifest["id"] += "-other"
    for directory in (content, tmp_path):
        (directory / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(tmp_path / "bundle.tar", "w") as whole:
        whole.add(content, content.name)
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_p2_an_upgrade_that_is_cut_off_anywhere_is_completed_by_the_next_run(
    mesh: HostMesh, other_bundle: Path
) -> None:
    """Killed at the beginning of each operation, and within the installation; the last run does the rest. Traffic goes on all the while."""
    host = mesh.host("h1")
    upgrade = ("--limit", "h1", "--data", f"bundle={other_bundle}", "roles/site.py")
    before = host.run(["systemctl", "show", "-P", "MainPID", "meshagent-agent"]).stdout
    with mesh.oracle("h1") as oracle:
        mesh.start_traffic(oracle)
        until("traffic", lambda: all(load.ok > 20 for load in oracle.loads().values()))
        cut_off_at(mesh, upgrade, "Send the bundle")
        cut_off_at(mesh, upgrade, "Install ")
        cut_off_at(mesh, upgrade, "Install ", lambda: host.run("ls -d /opt/meshagent/releases/*-other").returncode == 0)
        cut_off_at(mesh, upgrade, "Run the agent")
        assert host.run(["systemctl", "show", "-P", "MainPID", "meshagent-agent"]).stdout == before
        assert mesh.deploy(*upgrade) == 1  # the restart that was still missing
        assert mesh.deploy(*upgrade) == 0
        assert "-other/bin/python" in host.run(["systemctl", "status", "--no-pager", "meshagent-agent"]).stdout
        mesh.in_sync()
        assert oracle.failed() == []
    assert mesh.deploy() > 0  # and back


def cut_off_at(mesh: HostMesh, words: tuple[str, ...], step: str, then: Callable[[], bool] = lambda: True) -> None:
    """Starts a deployment, and kills it when it has begun the step, and `then` is so."""
    with mesh.start_pyinfra(*words) as running:
        assert running.stdout is not None
        seen = []
        for line in running.stdout:
            seen.append(line)
            if "Starting operation" in line and step in line:
                break
        else:
            raise AssertionError(f"{step!r} never began:\n{''.join(seen[-40:])}")
        until(f"the moment in {step!r}", then, seconds=30, every=0.02)
        running.kill()
