"""Whose calls and whose connections go to which proxy, and which names a host's applications resolve."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from meshagent.agent.settings import PlacementSettings
from meshagent.agent.ways import Owner, Plan, plan, taken_words
from meshagent.host.hostsfile import Taken
from meshagent.host.nftables import Way
from meshagent.protocol import host_pb2


def placed(
    id_: str, slot: int, mode: str = "redirect", ports: tuple[int, ...] = (8080,), **fields: Any
) -> host_pb2.Placement:
    return host_pb2.Placement(
        **{
            "id": id_,
            "resource": f"mesh/shop/virtualNode/{id_}",
            "mode": mode,
            "slot": slot,
            "address": "10.0.0.5",
            "application": "127.0.0.1",
            "ports": ports,
            "probes": [host_pb2.Probe(port=port) for port in ports],
            "names": [host_pb2.ServiceName(service=f"of-{id_}.local", address=f"127.{64 + slot}.1.{slot + 1}")],
            **fields,
        }
    )


def planned(*placements: host_pb2.Placement, accepting: Collection[str] = (), **callers: int) -> Plan:
    def owner(placement: host_pb2.Placement, _: PlacementSettings | None) -> Owner:
        user = callers.get(placement.id)
        return Owner(990 + placement.slot, () if user is None else (user,))

    return plan(placements, (), owner, accepting)


def test_one_node_whose_envoy_takes_connections() -> None:
    web = placed("web", 0)
    made = planned(web, accepting=["web"])
    assert made.ways == (Way(0, (8080,), proxy=990, otherwise=True),)
    assert made.kept == (Way(0, (), proxy=990, otherwise=True),)
    assert made.names == {"of-web.local": "127.64.1.1"}
    assert made.words == {}
    assert made.turned(web)


def test_h2_an_envoy_that_takes_none_gives_its_application_the_connections_unless_the_mesh_is_strict() -> None:
    web = placed("web", 0)
    assert planned(web).ways == (Way(0, (), proxy=990, otherwise=True),)
    assert not planned(web).turned(web)
    strict = planned(placed("web", 0, strict=True))
    assert strict.ways == strict.kept == (Way(0, (8080,), proxy=990, otherwise=True, sealed=(8080,)),)
    some = planned(placed("web", 0, ports=(80, 443), tls_ports=[443]))
    assert some.ways == (Way(0, (443,), proxy=990, otherwise=True, sealed=(443,)),)


def test_two_nodes_are_told_apart_by_their_applications_users() -> None:
    web, store = placed("web", 0), placed("store", 1, ports=(5432,))
    made = planned(web, store, accepting=["web", "store"], store=1001)
    assert [(way.slot, way.callers, way.otherwise) for way in made.ways] == [(0, (), True), (1, (1001,), False)]
    assert made.names == {"of-web.local": "127.64.1.1", "of-store.local": "127.64.1.2"}
    assert made.words == {}
    alone = planned(web, store)
    assert "taken for the placement web's" in alone.words["store"] and "application_user" in alone.words["store"]
    silent = planned(web, placed("store", 1, ports=(5432,), names=[]))
    assert silent.words == {}, "its application calls nobody"
    both = planned(web, store, web=1001, store=1001)
    assert "is the placement web's too" in both.words["store"]


def test_who_has_no_user_of_its_own_gets_what_is_nobodys() -> None:
    made = planned(placed("web", 0), placed("store", 1, ports=(81,)), web=1000)
    assert [way.otherwise for way in made.ways] == [False, True]
    assert made.words == {}


def test_a_port_is_one_placements() -> None:
    web, store = placed("web", 0), placed("store", 1)
    made = planned(web, store, accepting=["web", "store"], store=1001)
    assert [way.ports for way in made.ways] == [(8080,), ()]
    assert made.words["store"] == "port 8080 of this host goes to the placement web: give one of the two another port"
    assert made.turned(web) and not made.turned(store)


def test_in_bind_envoy_listens_on_slot_0s_addresses_itself() -> None:
    web, store = placed("web", 0, "bind"), placed("store", 1, ports=(81,))
    made = planned(web, store, accepting=["store"])
    assert made.ways == (Way(1, (81,), proxy=991),)
    assert "the placement's in slot 0" in made.words["store"]
    assert set(made.names) == {"of-web.local", "of-store.local"}
    assert planned(placed("web", 1, "bind")) == Plan()


def test_a_gateway_has_nothing_turned() -> None:
    edge = placed("edge", 0, resource="mesh/shop/virtualGateway/edge", names=[])
    assert planned(edge) == Plan()
    made = planned(edge, placed("web", 1, ports=(81,)), accepting=["web"])
    assert made.ways == (Way(1, (81,), proxy=991, otherwise=True),)
    assert made.names == {"of-web.local": "127.64.1.2"}


def test_a_proxy_of_which_the_user_is_unknown_is_not_sent_in_circles() -> None:
    def nobody(*_: object) -> Owner:
        return Owner(None, words="no user yet")

    away = plan([placed("web", 0, application="10.0.0.5")], (), nobody, ["web"])
    assert away.ways == (Way(0, (), application="10.0.0.5", otherwise=True),)
    assert away.words == {"web": "no user yet"}
    assert plan([placed("web", 0)], (), nobody, ["web"]).ways[0].ports == (8080,)


def test_a_host_of_ipv6_has_both_families_turned() -> None:
    assert planned(placed("web", 0, address="fd00::5")).ways[0].ipv6


def test_a_service_without_a_name_that_resolvers_take_has_none() -> None:
    web = placed("web", 0, names=[host_pb2.ServiceName(service="two words", address="127.64.0.1")])
    assert planned(web).names == {}


def test_whoever_wrote_a_name_before_us_is_named() -> None:
    taken = (Taken("of-web.local", 3, "10.10.10.10"), Taken("of-store.local", 4, "10.10.10.10"))
    assert taken_words(placed("web", 0), taken, "/etc/hosts") == (
        "line 3 of /etc/hosts says that of-web.local is 10.10.10.10, and counts: remove it, for calls to go through the mesh"
    )
