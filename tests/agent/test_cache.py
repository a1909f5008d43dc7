"""What is on disk is what Envoy took."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshagent.agent import cache
from meshagent.protocol import host_pb2
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import CLUSTER, LISTENER, ROUTE, Resource, Snapshot, Stamp


def snapshot(revision: int, **resources: bytes) -> Snapshot:
    types = {"c": CLUSTER, "l": LISTENER, "r": ROUTE}
    made = [Resource.of(types[name[0]], name, body) for name, body in resources.items()]
    return Snapshot.build(made, Stamp("aa", revision, "specified"))


def refused(of: Snapshot, type_url: str, name: str) -> cache.Refusals:
    return cache.refusals([Rejection(type_url, name, of.of(type_url)[name].version, "no")])


def test_a_snapshot_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    before = snapshot(7, c1=b"cluster", l1=b"listener", r1=b"")
    cache.save(tmp_path / "snapshot.bin", before)
    after = cache.load(tmp_path / "snapshot.bin")
    assert after is not None
    assert after.stamp == before.stamp
    assert {t: dict(r) for t, r in after.resources.items()} == {t: dict(r) for t, r in before.resources.items()}


def test_nothing_saved_is_nothing(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "snapshot.bin") is None
    assert cache.load_desired(tmp_path / "desired.bin") is None


def test_of_a_refused_resource_the_older_version_is_kept_and_the_rest_is_taken() -> None:
    held, candidate = snapshot(1, c1=b"old", l1=b"old"), snapshot(2, c1=b"new", l1=b"new", l2=b"new")
    kept = cache.acceptable(candidate, held, refused(candidate, LISTENER, "l1"))
    assert kept.of(LISTENER)["l1"].body == b"old"
    assert kept.of(LISTENER)["l2"].body == b"new"
    assert kept.of(CLUSTER)["c1"].body == b"new"
    assert kept.stamp.revision == 2
    assert candidate.of(LISTENER)["l1"].body == b"new"


def test_a_refused_resource_that_was_never_there_is_left_out() -> None:
    candidate = snapshot(2, l1=b"new", l2=b"new")
    assert set(cache.acceptable(candidate, None, refused(candidate, LISTENER, "l2")).of(LISTENER)) == {"l1"}


def test_a_refusal_stands_until_the_resource_changes() -> None:
    first, same, other = snapshot(1, l1=b"bad"), snapshot(2, l1=b"bad", c1=b""), snapshot(3, l1=b"good")
    known = refused(first, LISTENER, "l1")
    assert cache.standing(known, same) == known
    assert cache.standing(known, other) == {}
    assert cache.standing(known, snapshot(4)) == {}


def spoilt(change: str, content: bytes) -> bytes:
    if change == "torn":
        return content[: len(content) // 2]
    if change == "noise":
        return b"\xff" * 64
    if change == "flipped":
        return content.replace(b"listener-body", b"listener-bodx")
    return b""


@pytest.mark.parametrize("change", ["torn", "noise", "flipped", "empty"])
def test_h9_a_file_that_cannot_be_used_is_set_aside_and_said(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "snapshot.bin"
    path.write_bytes(spoilt(change, cache.encode(snapshot(7, l1=b"listener-body"))))
    assert cache.load(path) is None
    assert not path.exists()
    assert (tmp_path / "snapshot.bin.bad").exists()
    assert "set aside" in caplog.text
    desired = tmp_path / "desired.bin"
    desired.write_bytes(spoilt(change, host_pb2.Desired(stamp=host_pb2.Stamp(lineage="aa")).SerializeToString()))
    if change != "flipped":
        assert cache.load_desired(desired) is None
        assert (tmp_path / "desired.bin.bad").exists()
