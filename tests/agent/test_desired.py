"""What an agent takes of a desired state, and what it keeps instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshagent.agent.desired import DesiredState, refusal
from meshagent.agent.relay import Admission
from meshagent.protocol.host_pb2 import Desired, Placement
from meshagent.protocol.host_pb2 import Stamp as StampMessage
from meshagent.xds.snapshot import CLUSTER, LISTENER, Resource, Snapshot, Stamp

WEB = "mesh/shop/virtualNode/web"


def desired(lineage: str, revision: int, *, placed: bool = True, reason: str = "", **more: object) -> Desired:
    return Desired(
        stamp=StampMessage(lineage=lineage, revision=revision, reason=reason),
        placements=[Placement(id="p1", resource=WEB)] if placed else [],
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        (desired("aa", 5), ""),
        (desired("aa", 6), ""),
        (desired("aa", 4), "lower"),
        (desired("bb", 9), "lineage bb"),
        (desired("bb", 9, replaces=["aa"]), ""),
        (desired("bb", 1, accept=True), ""),
        (desired("aa", 4, accept=True), ""),
        (desired("aa", 6, placed=False), "no placement"),
        (desired("aa", 6, placed=False, reason="deleted"), ""),
        (desired("", 6), "without a lineage"),
    ],
)
def test_c8_c9_what_is_taken(offered: Desired, words: str) -> None:
    told = refusal(desired("aa", 5), offered, {WEB})
    assert (told == "") == (words == "")
    assert words in told


def test_placements_that_this_host_no_longer_wants_may_go_without_a_reason() -> None:
    assert refusal(desired("aa", 5), desired("aa", 6, placed=False), {"mesh/shop/virtualNode/other"}) == ""
    assert refusal(None, desired("aa", 1, placed=False), {WEB}) == ""


def test_what_was_taken_is_on_the_disk_and_what_was_not_is_reported(tmp_path: Path) -> None:
    state = DesiredState(tmp_path / "desired.bin", {WEB})
    assert state.offer(desired("aa", 5))
    assert not state.offer(desired("bb", 1))
    assert "lineage bb" in state.reason
    again = DesiredState(tmp_path / "desired.bin", {WEB})
    assert again.held == desired("aa", 5)
    assert again.stamp == Stamp("aa", 5)
    assert state.offer(desired("aa", 6))
    assert state.reason == ""


def snapshot(lineage: str, revision: int, full: bool = True) -> Snapshot:
    resources = [Resource.of(LISTENER, "l", b""), Resource.of(CLUSTER, "c", b"")] if full else []
    return Snapshot.build(resources, Stamp(lineage, revision))


def test_proxies_follow_the_lineage_that_their_host_was_moved_to(tmp_path: Path) -> None:
    state = DesiredState(tmp_path / "desired.bin", {WEB})
    state.offer(desired("aa", 5))
    held = snapshot("aa", 5)
    state.offer(desired("bb", 1))
    assert "lineage bb" in state.admission.of(held, snapshot("bb", 1))
    assert state.offer(desired("bb", 1, accept=True))
    # The server takes its word back as soon as the host reports the new lineage; the proxies may not have followed yet.
    assert state.offer(desired("bb", 2))
    assert state.admission.of(held, snapshot("bb", 1)) == ""
    assert "no listener" in state.admission.of(snapshot("bb", 1), snapshot("bb", 2, full=False))
    assert "lower" in Admission(lineage="aa").of(held, snapshot("aa", 4))
