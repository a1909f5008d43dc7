"""What /status says of a host and its proxies."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshagent.agent.contact import Contact
from meshagent.agent.status import DISCONNECTED_LIMIT, Host, Server, document, proxy, sync
from meshagent.protocol import host_pb2

NOW = 1_800_000_000.0
HERE = Host("web-1", "0.1.0", 42, NOW - 90, "b", NOW + 3600)
THERE = Server("10.0.0.1:18000", NOW)
AWAY = Server("", NOW - 60, "UNAVAILABLE: connection refused")
PLACED = host_pb2.Placement(
    id="ab", resource="mesh/shop/virtualNode/web", mode="bind", slot=0, address="10.0.0.5", ports=[8080],
    names=[host_pb2.ServiceName(service="catalog.local", address="127.64.0.1")],
)  # fmt: skip
STATUS = host_pb2.PlacementStatus(
    id="ab", health=host_pb2.HEALTHY, envoy_state="LIVE", envoy_version="1.40.0", envoy_pid=7,
    held=host_pb2.Stamp(lineage="l", revision=12),
)  # fmt: skip


def changed(**fields: object) -> host_pb2.PlacementStatus:
    status = host_pb2.PlacementStatus()
    status.CopyFrom(STATUS)
    status.MergeFrom(host_pb2.PlacementStatus(**fields))
    return status


def test_the_words_of_app_meshs_agent_stand_for_each_proxy() -> None:
    said = proxy(NOW, PLACED, STATUS, THERE)
    assert {key: said[key] for key in said if key.startswith(("envoy", "management", "health", "initial"))} == {
        "healthStatus": "HEALTHY",
        "envoyState": "LIVE",
        "envoyVersion": "1.40.0",
        "envoyPid": 7,
        "envoyRestartCount": 0,
        "envoyReadinessState": "INITIALIZED",
        "initialConfigUpdateStatus": "UPDATE_SUCCESSFUL",
        "managementServerConnectionStatus": "CONNECTED",
    }
    assert said["services"] == {"catalog.local": "127.64.0.1"}


def test_c3_without_a_server_a_host_says_since_when_it_is_stale_and_is_healthy() -> None:
    said = document(NOW, HERE, AWAY, host_pb2.Desired(placements=[PLACED]), "", [(PLACED, STATUS)])
    assert said["healthStatus"] == "HEALTHY"
    assert said["staleSince"] == said["managementServerDisconnectedTimestamp"] == NOW - 60
    assert said["serverWords"] == "UNAVAILABLE: connection refused"
    assert said["proxies"][0]["sync"] == "stale"
    assert said["agentUptime"] == "90s"


def test_a_week_without_a_server_is_too_long() -> None:
    gone = Server("", NOW - DISCONNECTED_LIMIT - 1)
    assert proxy(NOW, PLACED, STATUS, gone)["healthStatus"] == "UNHEALTHY"


def test_a_placement_that_could_not_be_begun_is_named() -> None:
    said = document(NOW, HERE, THERE, host_pb2.Desired(placements=[PLACED]), "", [])
    assert said["notStarted"] == ["ab"]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (host_pb2.PlacementStatus(), "none"),
        (changed(rejections=[host_pb2.Rejection(name="in", words="no")]), "refused"),
        (changed(held_reason="another lineage"), "held"),
        (STATUS, "current"),
    ],
)
def test_the_configuration_in_a_word(status: host_pb2.PlacementStatus, word: str) -> None:
    assert sync(status, THERE) == word


def test_c3_the_last_contact_outlives_the_agent(tmp_path: Path) -> None:
    now = [NOW]
    contact = Contact(tmp_path / "contact", lambda: now[0])
    assert contact.last is None
    contact.heard()
    now[0] += 5
    contact.heard()  # too soon to be written again
    assert contact.last == NOW + 5
    assert Contact(tmp_path / "contact").last == NOW
    now[0] += 60
    contact.heard()
    assert (tmp_path / "contact").stat().st_mtime == NOW + 65
    now[0] -= 86400  # the clock was set back
    contact.heard()
    assert Contact(tmp_path / "contact").last == NOW + 65 - 86400
