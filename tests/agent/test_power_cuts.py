"""Whatever the agent keeps on disk is, after a power cut at any moment of its writing, what it was before or what it was to be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshagent.agent import cache, identity
from meshagent.host import files, hostsfile
from meshagent.host.supervisor import Running, read_state, write_state
from meshagent.identity import x509
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import CLUSTER, Resource, Snapshot, Stamp
from tests.agent.authority import Authority
from tests.host.power import cuts, recorded


@dataclass(frozen=True)
class Kept:
    """Something that is written and read again: `write` its number-th value below a directory, `read` the number of what is there."""

    write: Callable[[Path, int], object]
    read: Callable[[Path], int | None]


def snapshot(number: int) -> Snapshot:
    resource = Resource.of(CLUSTER, "catalog", b"x" * (number * 1000))
    return Snapshot.build([resource], Stamp("line", number))


def read_snapshot(root: Path) -> int | None:
    found = cache.load(root / "snapshot.bin")
    assert found is None or found == snapshot(found.stamp.revision)
    return found.stamp.revision if found else None


def desired(number: int) -> host_pb2.Desired:
    return host_pb2.Desired(stamp=host_pb2.Stamp(lineage="line", revision=number), trust_bundle="x" * (number * 1000))


def read_desired(root: Path) -> int | None:
    found = cache.load_desired(root / "desired.bin")
    assert found is None or found == desired(found.stamp.revision)
    return found.stamp.revision if found else None


def issued(authority: Authority) -> tuple[bytes, bytes, bytes]:
    key = x509.new_key()
    return key, authority.sign(x509.new_request(key), "mesh/shop/virtualNode/web"), authority.bundle


AUTHORITY = Authority()
IDENTITIES = [issued(AUTHORITY) for _ in range(4)]


def read_identity(root: Path) -> int | None:
    found = identity.read(root / "tls")
    if found is None:
        return None
    return IDENTITIES.index((found.key, found.chain, found.bundle))


def running(number: int) -> Running:
    return Running(number, "1.40.0", f"/run/{number}.sock", f"/run/{number}-admin.sock", "boot", 100 + number, 5)


def read_running(root: Path) -> int | None:
    found = read_state(root)
    assert found is None or found == running(found.generation)
    return found.generation if found else None


def names(number: int) -> dict[str, str]:
    return {f"service-{each}.internal": f"127.64.0.{each + 1}" for each in range(number)}


def read_names(root: Path) -> int | None:
    content = (root / "hosts").read_bytes()
    assert content.startswith(b"127.0.0.1\tlocalhost\n")
    found = hostsfile.entries_of(content)
    return None if found is None else len(found)


KEPT = {
    "snapshot": Kept(lambda root, number: cache.save(root / "snapshot.bin", snapshot(number)), read_snapshot),
    "desired state": Kept(lambda root, number: cache.save_desired(root / "desired.bin", desired(number)), read_desired),
    "identity": Kept(lambda root, number: identity.install(root / "tls", *IDENTITIES[number]), read_identity),
    "generation": Kept(lambda root, number: write_state(root, running(number)), read_running),
    "names": Kept(lambda root, number: hostsfile.put(root / "hosts", names(number)), read_names),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_h9_a_power_cut_leaves_the_old_state_or_the_new(tmp_path: Path, kept: Kept, earlier: int) -> None:
    root, before = tmp_path / "root", tmp_path / "before"
    root.mkdir()
    (root / "hosts").write_text("127.0.0.1\tlocalhost\n")
    for number in range(4 - earlier, 4):
        kept.write(root, number - 1)
    shutil.copytree(root, before, symlinks=True)
    old = kept.read(root) if earlier else None
    with recorded(root) as ops:
        kept.write(root, 3)
    assert kept.read(root) == 3
    tried = 0
    for words, disk in cuts(before, ops, tmp_path):
        found = kept.read(disk)
        assert found in (old, 3), words
        if words == f"after {len(ops)} of {len(ops)} operations, without []":
            assert found == 3
        # What the cut left is no hindrance to the next write.
        kept.write(disk, 2)
        assert kept.read(disk) == 2, words
        tried += 1
    assert tried > 10


def test_h9_without_a_sync_the_test_would_fail(tmp_path: Path) -> None:
    """The playback is strict enough to catch what it is there for."""
    root, before = tmp_path / "root", tmp_path / "before"
    root.mkdir()
    files.write_durably(root / "thing", b"old")
    shutil.copytree(root, before)
    with recorded(root) as ops:
        files.write_durably(root / "thing", b"new")
    careless = [op for op in ops if op.kind != "sync"]
    left = {(disk / "thing").read_bytes() for _, disk in cuts(before, careless, tmp_path)}
    assert left == {b"old", b"new", b""}
    left = {(disk / "thing").read_bytes() for _, disk in cuts(before, ops, tmp_path)}
    assert left == {b"old", b"new"}
