"""What follows from a placement."""

from __future__ import annotations

import pytest

from meshagent.agent import placement as follows
from meshagent.agent.placement import LIVE, STOPPED, UNREACHABLE
from meshagent.agent.probes import Verdict
from meshagent.agent.proxy import Envoy
from meshagent.agent.settings import PlacementSettings, ProbeSettings
from meshagent.host.listening import Listener, Owner
from meshagent.protocol import host_pb2
from meshagent.protocol.host_pb2 import HEALTH_UNSPECIFIED, HEALTHY, UNHEALTHY
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import LISTENER

WEB = host_pb2.Placement(
    id="p1",
    resource="mesh/shop/virtualNode/web",
    application="127.0.0.2",
    probes=[host_pb2.Probe(port=8080, protocol="http", path="/health"), host_pb2.Probe(port=9090, protocol="tcp")],
)


def test_probes_are_the_servers_unless_this_host_says_otherwise() -> None:
    plain = follows.targets(WEB, ProbeSettings())
    assert [(t.address, t.port, t.protocol, t.path) for t in plain] == [
        ("127.0.0.2", 8080, "http", "/health"),
        ("127.0.0.2", 9090, "tcp", "/"),
    ]
    own = follows.targets(WEB, ProbeSettings("http", "/ping", 0.5, 0.25, 1, 4))
    assert [(t.protocol, t.path, t.interval, t.timeout, t.healthy, t.unhealthy) for t in own] == [
        ("http", "/ping", 0.5, 0.25, 1, 4)
    ] * 2


def test_a_unit_or_a_command_stands_in_for_the_ports_unless_a_protocol_is_given_too() -> None:
    unit = ProbeSettings(unit="web.service", command=("/bin/check",))
    assert [t.name for t in follows.targets(WEB, unit)] == ["web.service", "/bin/check"]
    both = ProbeSettings("tcp", unit="web.service")
    assert [t.name for t in follows.targets(WEB, both)] == ["web.service", "port 8080", "port 9090"]


def test_no_server_can_name_a_unit_a_command_or_a_protocol_that_is_none() -> None:
    told = host_pb2.Placement(
        id="p1", probes=[host_pb2.Probe(port=1, protocol=word) for word in ("unit", "command", "x")]
    )
    assert [(t.protocol, t.unit, t.command) for t in follows.targets(told, ProbeSettings())] == [("tcp", "", ())] * 3


def test_two_placements_of_one_resource_are_told_by_their_applications() -> None:
    first, second = ProbeSettings(path="/1"), ProbeSettings(path="/2")
    settings = [
        PlacementSettings(WEB.resource, application="127.0.0.1", probe=first),
        PlacementSettings(WEB.resource, application="127.0.0.2", probe=second),
    ]
    assert follows.settings_of(WEB, settings) is second
    assert follows.settings_of(host_pb2.Placement(resource=WEB.resource), settings) is first
    assert follows.settings_of(host_pb2.Placement(resource="mesh/other"), settings) == ProbeSettings()


def test_where_envoy_listens_no_application_can() -> None:
    def placed(mode: str, address: str, probes: int = 1) -> str:
        probed = [host_pb2.Probe(port=8080)] * probes
        return follows.impossible(
            host_pb2.Placement(mode=mode, address=address, application="127.0.0.1", probes=probed)
        )

    assert "127.0.0.1, where Envoy listens" in placed("bind", "127.0.0.1")
    assert placed("bind", "10.0.0.5") == ""
    assert placed("redirect", "127.0.0.1") == "", "the rules keep them apart"
    assert placed("bind", "127.0.0.1", probes=0) == "", "it only calls others"


def test_a_port_on_which_envoy_does_not_listen_is_named_with_the_remedy() -> None:
    probe = host_pb2.Probe(port=8080)
    placement = host_pb2.Placement(mode="bind", address="10.0.0.5", ports=[8080, 8081], probes=[probe])
    had = ["lds_ingress_10.0.0.5_8081", "lds_egress_127.64.0.1_80"]
    taken = "cannot bind '10.0.0.5:8080': Address already in use"
    refused = [Rejection(LISTENER, "lds_ingress_10.0.0.5_8080", "v1", taken)]
    words = follows.deaf(placement, had, refused)
    assert words == (
        f"Envoy does not listen on 10.0.0.5:8080: {taken} (end the process that listens there, or let it listen on 127.0.0.1)"
    )
    assert follows.deaf(placement, had, []) == "Envoy does not listen on 10.0.0.5:8080", "after an agent's restart"
    assert follows.deaf(placement, [*had, "lds_ingress_10.0.0.5_8080"], refused) == "", "an older version goes on"
    assert follows.deaf(placement, None, []) == "", "nothing is known yet"


def test_a_hosts_file_holds_what_a_resolver_can_ask_for() -> None:
    names = [("catalog.local", "127.64.0.2"), ("a name", "127.64.0.3"), ("#x", "127.64.0.4"), ("api", "127.64.0.1")]
    placement = host_pb2.Placement(names=[host_pb2.ServiceName(service=s, address=a) for s, a in names])
    assert follows.hosts_text(placement) == "127.64.0.1\tapi\n127.64.0.2\tcatalog.local\n"


@pytest.mark.parametrize(
    ("verdict", "envoy", "expected"),
    [
        (Verdict.HEALTHY, Envoy(LIVE, was_live=True, lived=True), HEALTHY),
        (Verdict.UNHEALTHY, Envoy(LIVE, was_live=True, lived=True), UNHEALTHY),
        (Verdict.UNKNOWN, Envoy(LIVE, was_live=True, lived=True), HEALTH_UNSPECIFIED),
        (Verdict.HEALTHY, Envoy("PRE_INITIALIZING"), HEALTH_UNSPECIFIED),
        (Verdict.HEALTHY, Envoy("PRE_INITIALIZING", was_live=True), UNHEALTHY),
        (Verdict.HEALTHY, Envoy(UNREACHABLE, misses=1, was_live=True, lived=True), HEALTHY),
        (Verdict.HEALTHY, Envoy(UNREACHABLE, misses=3, was_live=True, lived=True), UNHEALTHY),
        (Verdict.HEALTHY, Envoy(UNREACHABLE, misses=1, was_live=True), UNHEALTHY),  # it was started just now
        (Verdict.HEALTHY, Envoy(STOPPED, was_live=True), UNHEALTHY),
    ],
)
def test_an_endpoint_is_application_and_envoy(verdict: Verdict, envoy: Envoy, expected: host_pb2.Health) -> None:
    assert follows.health(verdict, "", envoy.state, envoy.serves, envoy.was_live)[0] == expected


def test_what_is_wrong_with_envoy_is_said_before_what_is_with_the_application() -> None:
    why = follows.crash_words("p1", 3)
    assert "3 times in a row" in why and "meshagent logs p1" in why
    assert follows.crash_words("p1", 2) == "", "twice may be chance"
    assert follows.health(Verdict.UNKNOWN, "connection refused", STOPPED, False, False, why)[1] == why
    assert follows.health(Verdict.UNKNOWN, "connection refused", STOPPED, False, False)[1] == "", (
        "that is not why it does not run"
    )
    assert follows.health(Verdict.HEALTHY, "", STOPPED, False, True, why) == (UNHEALTHY, why)
    assert follows.health(Verdict.HEALTHY, "", STOPPED, False, True) == (UNHEALTHY, "Envoy is STOPPED")
    assert follows.health(Verdict.HEALTHY, "", LIVE, True, True, why) == (HEALTHY, why), "it may end once more"


@pytest.mark.parametrize(
    ("kind", "mode", "ports", "expected"),
    [
        ("virtualNode", "redirect", [80, 8080], False),
        ("virtualNode", "intercept", [80], False),
        ("virtualNode", "bind", [8080], True),  # a service that it calls may come to be on port 80
        ("virtualGateway", "redirect", [443], True),
        ("virtualGateway", "redirect", [8443], False),
        ("virtualGateway", "bind", [80], True),
        ("virtualGateway", "bind", [8443], False),
    ],
)
def test_low_ports_are_for_an_envoy_that_listens_on_them(
    kind: str, mode: str, ports: list[int], expected: bool
) -> None:
    placement = host_pb2.Placement(resource=f"mesh/shop/{kind}/web", mode=mode, ports=ports)
    assert follows.low_ports(placement) is expected


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_limit() -> None:
    pauses = [follows.restart_pause(ends, 1.0) for ends in range(1, 12)]
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0
    assert follows.restart_pause(2, 0.0) == 0.05


SLOT_2 = host_pb2.Placement(id="p1", resource=WEB.resource, mode="bind", slot=2, address="10.0.0.5", ports=[8080])


@pytest.mark.parametrize(
    ("listener", "owner", "words"),
    [
        (Listener("127.66.0.1", 8080, 1), Owner(7, "envoy"), "pid 7: end it, or, where several agents share this machine, give each"),
        (Listener("10.0.0.5", 8080, 1), Owner(7, "envoy"), "10.0.0.5:8080 is served by another Envoy, pid 7"),
        (Listener("127.67.0.1", 8080, 1), Owner(7, "envoy"), ""),
        (Listener("10.0.0.5", 9090, 1), Owner(7, "envoy"), ""),
        # Envoy itself will say that it cannot bind, and binds once the port is free.
        (Listener("10.0.0.5", 8080, 1), Owner(7, "java"), ""),
        (Listener("127.66.0.1", 8080, 1), Owner(), ""),
    ],
)  # fmt: skip
def test_another_envoy_in_the_way_is_named(listener: Listener, owner: Owner, words: str) -> None:
    said = follows.strangers(SLOT_2, (listener,), lambda _: owner)
    assert (words in said) if words else said == ""
