"""What the doctor sees of this very machine, of servers and peers made for it, and of what lies on a disk."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from meshagent.agent import identity
from meshagent.agent.settings import Settings
from meshagent.doctor import connect, look
from meshagent.doctor.examine import examine
from meshagent.doctor.finding import Finding, State
from meshagent.identity import x509
from meshagent.protocol import host_pb2
from tests.agent.authority import Authority
from tests.agent.upstream import HOST, server_name, serving


def installed(directory: Path, authority: Authority) -> identity.Identity:
    key = x509.new_key()
    chain = authority.sign(x509.new_request(key), f"host/{HOST}")
    return identity.install(directory, key, chain, authority.bundle)


def test_k8_an_identity_s_files(tmp_path: Path) -> None:
    authority = Authority()
    held = installed(tmp_path, authority)
    seen = look.identity("", tmp_path, "root")
    assert (seen.words, seen.serial, seen.key_mode) == ("", held.leaf.serial, 0o600)
    (tmp_path / "current" / "key.pem").write_bytes(x509.new_key())
    assert "key" in look.identity("", tmp_path, "").words
    (tmp_path / "current" / "chain.pem").unlink()
    assert look.identity("", tmp_path, "").words == "chain.pem is not there"


def test_the_desired_state_is_read_and_never_set_aside(tmp_path: Path) -> None:
    assert look.desired(tmp_path) == host_pb2.Desired()
    (tmp_path / "desired.bin").write_bytes(b"\xff\xff")
    assert look.desired(tmp_path) == host_pb2.Desired()
    assert [path.name for path in tmp_path.iterdir()] == ["desired.bin"]


def test_a_lock_names_an_agent_that_runs_or_none(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(f"state_directory: {tmp_path}\nplacements: []\nhost: {{first_slot: 8}}\n")
    argv = ["python3", "-c", "print(flush=True); input()", "-m", "meshagent.agent", str(tmp_path / "agent.yaml")]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert (
            child.stdout is not None and child.stdout.readline()
        )  # its command line is to be seen only after its exec(2)
        mine = next(one for one in look.agents() if one.pid == child.pid)
        assert (mine.state_directory, mine.first_slot) == (str(tmp_path), 8)
        (tmp_path / "agent.lock").write_text(f"{child.pid}\n")
        assert look.lock_holder(tmp_path, [mine]) == child.pid
        (tmp_path / "agent.lock").write_text(f"{os.getpid()}\n")
        assert look.lock_holder(tmp_path, [mine]) is None
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'envoy  version: abc/1.38.0/Clean/RELEASE/BoringSSL'", ""),
        ("echo 'envoy  version: abc/1.39.3/Clean/RELEASE/BoringSSL'", "is not Envoy 1.38.0"),
        ("exit 1", "is not Envoy 1.38.0: says nothing"),
    ],
)
def test_a_binary_is_what_it_says(tmp_path: Path, script: str, words: str) -> None:
    path = tmp_path / "1.38.0" / "envoy"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    (seen,) = look.binaries(tmp_path)
    assert seen.words.startswith(words)
    assert bool(seen.words) == bool(words)
    path.chmod(0o777)
    assert next(look.binaries(tmp_path)).words == "others than its owner may write to it"


def test_a_pinned_version_s_binary_is_told_by_its_sha256(tmp_path: Path, envoy_binary: Path) -> None:
    version = envoy_binary.parent.name
    assert {one.version: one.words for one in look.binaries(envoy_binary.parent.parent)}[version] == ""
    path = tmp_path / version / "envoy"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho 'envoy  version: abc/{version}/Clean/RELEASE/BoringSSL'\n")
    path.chmod(0o755)
    assert "its SHA-256 is" in next(look.binaries(tmp_path)).words


def test_who_holds_a_socket(run_dir: Path) -> None:
    path = run_dir / "admin.sock"
    assert look.holder(str(path)) == 0
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert look.holder(str(path)) == os.getpid()
    assert look.holder(str(path)) == 0


def test_inotify_instances_are_counted_by_user() -> None:
    child = subprocess.Popen(
        ["python3", "-c", "import ctypes; ctypes.CDLL(None).inotify_init(); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert any(one.used >= 1 and one.limit > 0 for one in look.watches())
    finally:
        child.kill()
        child.communicate()


async def test_a_server_is_reached_step_by_step(tmp_path: Path, free_port: int) -> None:
    authority = Authority()
    held = installed(tmp_path, authority)
    files = tmp_path / "current"
    async with serving(authority) as upstream:
        seen = await connect.server(upstream.address, server_name(), held, files)
        assert seen.failed == "" and seen.ahead is not None and abs(seen.ahead) < 10
        upstream.earlier = True
        seen = await connect.server(upstream.address, server_name(), held, files)
        assert (seen.failed, seen.ahead) == ("", None), "one of an earlier release says no time"
        (tmp_path / "other").mkdir()
        stranger = installed(tmp_path / "other", Authority())
        seen = await connect.server(upstream.address, server_name(), stranger, tmp_path / "other" / "current")
        assert seen.failed == "tls", seen
    seen = await connect.server(f"127.0.0.1:{free_port}", server_name(), held, files)
    assert (seen.failed, seen.words) == ("connect", "Connection refused")
    seen = await connect.server("no.such.name.invalid:1", server_name(), held, files)
    assert seen.failed == "resolve"


async def test_c6_a_server_that_hangs_is_told_from_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "STEP_SECONDS", 1.0)
    held = installed(tmp_path, Authority())
    held_open: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: held_open.append(writer), "127.0.0.1", 0)
    with closing(silent):  # of its own accord it would wait for its connections, from Python 3.12 on
        address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        seen = await connect.server(address, server_name(), held, tmp_path / "current")
    assert seen.failed == "tls" and "no handshake" in seen.words


async def test_peers_are_connected_to_once(free_port: int) -> None:
    there = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with there:
        port = there.sockets[0].getsockname()[1]
        found = [(f"127.0.0.1:{port}", "a"), (f"127.0.0.1:{port}", "b"), (f"127.0.0.1:{free_port}", "c")]
        seen = {peer.address: peer for peer in await connect.peers(found)}
    assert len(seen) == 2
    assert seen[f"127.0.0.1:{port}"].words == ""
    assert seen[f"127.0.0.1:{free_port}"].words == "Connection refused"


async def test_names_are_resolved_as_this_host_does() -> None:
    found = await connect.resolved(["localhost", "no.such.name.invalid"])
    assert found == {"localhost": ("127.0.0.1",), "no.such.name.invalid": ()}


async def test_a_check_that_breaks_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(settings: Settings) -> list[object]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(look, "disks", broken)
    config = tmp_path / "agent.yaml"
    config.write_text(f"state_directory: {tmp_path}/state\nruntime_directory: {tmp_path}/run\nplacements: []\n")
    findings: list[Finding] = [finding async for finding in examine(config, lambda runtime: None)]
    disk = next(one for one in findings if one.check == "disk")
    assert disk.state is State.UNKNOWN and "RuntimeError: no such thing" in disk.words
    assert findings[-1].check == "limits"
    assert not (tmp_path / "state").exists(), "nothing is made"
