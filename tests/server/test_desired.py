"""What a host gets of what it wants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshagent.mesh.graph import Mesh, View
from meshagent.protocol import host_pb2
from meshagent.server.desired import HelloRefused, desired, placement_id, settle, taken
from meshagent.server.records import HostRecord
from meshagent.xds.snapshot import Stamp
from tests.server.meshes import CATALOG, WEB, specs

RECORD = HostRecord("a", ("mesh/shop/*",))


def hello(*resources: str, first_slot: int = 0, address: str = "10.0.0.1", protocol: int = 1) -> host_pb2.Hello:
    wanted = [host_pb2.WantedPlacement(resource=resource, mode="bind") for resource in resources]
    return host_pb2.Hello(protocol=protocol, address=address, first_slot=first_slot, placements=wanted)


def slots(record: HostRecord) -> dict[str, int]:
    return {placement.resource: placement.slot for placement in record.placements}


def test_slots_start_at_the_hosts_first_and_stay_with_their_placements() -> None:
    record, _ = settle(RECORD, hello(WEB, CATALOG, first_slot=8))
    assert slots(record) == {WEB: 8, CATALOG: 9}
    record, _ = settle(record, hello(CATALOG, first_slot=8))
    assert slots(record) == {CATALOG: 9}
    record, _ = settle(record, hello(CATALOG, WEB, first_slot=8))
    assert slots(record) == {CATALOG: 9, WEB: 8}


def test_ids_are_short_stable_and_of_the_ordinal() -> None:
    record, _ = settle(RECORD, hello(WEB, WEB))
    ids = [placement.id for placement in record.placements]
    assert ids == [placement_id("a", WEB, 0), placement_id("a", WEB, 1)]
    assert all(len(id_) == 12 for id_ in ids)
    assert len({placement_id(host, WEB, 0) for host in "abc"}) == 3


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (host_pb2.WantedPlacement(resource="mesh/bank/virtualNode/web"), "join token allows mesh/shop/"),
        (host_pb2.WantedPlacement(resource="web"), "is not a resource path"),
        (host_pb2.WantedPlacement(resource="mesh/shop/virtualRouter/r"), "has no proxies"),
        (host_pb2.WantedPlacement(resource=WEB, mode="sideways"), "must be bind or redirect"),
        (host_pb2.WantedPlacement(resource=WEB, application="localhost"), "must be the IP address"),
    ],
)
def test_what_is_not_given_is_said(wanted: host_pb2.WantedPlacement, words: str) -> None:
    record, refusals = settle(RECORD, host_pb2.Hello(protocol=1, address="10.0.0.1", placements=[wanted]))
    assert not record.placements
    assert words in refusals[0].words


def test_slots_run_out() -> None:
    record, refusals = settle(RECORD, hello(WEB, CATALOG, first_slot=63))
    assert slots(record) == {WEB: 63}
    assert "no slot is left" in refusals[0].words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (hello(protocol=9), "protocol 9"),
        (hello(address="web-1"), r"host\.address 'web-1': must be the IP address"),
        (hello(address=""), r"host\.address is missing .* no default route"),
        (hello(address="0.0.0.0"), "must be the IP address"),
        (hello(first_slot=64), "within 0 to 63"),
    ],
)
def test_a_hello_that_is_no_good(said: host_pb2.Hello, words: str) -> None:
    with pytest.raises(HelloRefused, match=words):
        settle(RECORD, said)


def test_on_another_address_no_lease_has_spoken_yet() -> None:
    record, _ = settle(RECORD, hello(WEB))
    spoken = replace(record, placements=tuple(replace(one, leased=True) for one in record.placements))
    assert settle(spoken, hello(WEB))[0].placements[0].leased
    assert not settle(spoken, hello(WEB, address="10.0.0.9"))[0].placements[0].leased


def message(record: HostRecord) -> tuple[host_pb2.Desired, View]:
    view = View(Mesh.build(specs().values(), revision=7, lineage="ours"))
    made = desired(
        view, record, (), stamp=Stamp("ours", 7), replaces=("old",), bundle="PEM", servers=("s:1",), lease_seconds=15
    )
    return made, view


def test_names_ports_and_probes_come_from_the_mesh() -> None:
    record, _ = settle(RECORD, hello(WEB, CATALOG))
    made, view = message(record)
    web, catalog = made.placements
    assert [(name.service, name.address) for name in web.names] == [("catalog.shop.internal", "127.64.0.1")]
    assert [(probe.port, probe.protocol, probe.path) for probe in web.probes] == [(8080, "tcp", "")]
    assert [(probe.port, probe.protocol, probe.path) for probe in catalog.probes] == [(8080, "http", "/ping")]
    assert list(catalog.ports) == [8080]
    assert (made.stamp.lineage, made.stamp.revision, list(made.replaces)) == ("ours", 7, ["old"])
    assert any(touch[0] == "index" for touch in view.touched)


def test_only_a_host_that_wants_nothing_has_a_reason_for_having_nothing() -> None:
    assert message(RECORD)[0].stamp.reason
    assert not message(settle(RECORD, hello(WEB))[0])[0].stamp.reason


def test_what_was_taken_is_of_our_lineage_and_no_later() -> None:
    ours = Stamp("ours", 10)
    assert not taken(ours, [])
    assert not taken(ours, [Stamp("ours", 10), Stamp("theirs", 3)])
    assert not taken(ours, [Stamp("ours", 11)])
    assert taken(ours, [Stamp("ours", 10), Stamp("ours", 9)])


def test_labels_are_the_hellos_and_checked() -> None:
    labelled = hello(WEB)
    labelled.labels.update({"zone": "eu-west-1a", "role": "web"})
    record, _ = settle(RECORD, labelled)
    assert record.labels == {"zone": "eu-west-1a", "role": "web"}
    assert settle(record, hello(WEB))[0].labels == {}
    labelled.labels["role"] = "a,b"
    with pytest.raises(HelloRefused, match="label role"):
        settle(RECORD, labelled)
