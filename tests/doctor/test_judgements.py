"""What each check makes of what is seen. One line a fault: the state, a part of the words and a part of what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from meshagent.doctor import agent, host, identity, network, proxies
from meshagent.doctor.agent import AgentSeen, HeldSeen
from meshagent.doctor.finding import Finding, State, span
from meshagent.doctor.host import AGENT_UNIT, REDIRECT_UNIT, DiskSeen, FilesSeen, UnitSeen, WatchesSeen
from meshagent.doctor.identity import IdentitySeen
from meshagent.doctor.network import PeerSeen, ServerSeen
from meshagent.doctor.proxies import BinarySeen, ProxySeen
from meshagent.host.listening import Listener, Owner
from meshagent.protocol import host_pb2

NOW = 1_800_000_000.0
HOUR = 3600.0


def one(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    return finding


def bad(found: Iterable[Finding]) -> list[tuple[str, str, str]]:
    return [(each.state.value, each.words, each.remedy) for each in found if each.state is not State.OK]


def says(found: Iterable[Finding], state: str, words: str, remedy: str = "") -> None:
    """Exactly one finding that is not ok, with these parts."""
    ((is_state, is_words, is_remedy),) = bad(found)
    assert is_state == state, is_words
    assert words in is_words
    assert remedy in is_remedy


def test_an_address_that_nothing_tells() -> None:
    assert not [*agent.address("10.0.0.5", "", ""), *agent.address(None, "10.0.0.5", "")]
    says(agent.address(None, "", ""), "wrong", "no default route", "set host.address")
    says(agent.address(None, "", "10.0.0.5"), "warning", "10.0.0.5, the last one, goes on", "set host.address")


# --- disk, limits ---


@pytest.mark.parametrize(
    ("disk", "state", "words", "remedy"),
    [
        (DiskSeen("/var", 1 << 30, read_only=True), "wrong", "/var is mounted read-only", "remount,rw"),
        (DiskSeen("/var", 0), "wrong", "no space", "remove what fills it"),
        (DiskSeen("/var", 1 << 30, 0), "wrong", "no inode", "remove"),
        (DiskSeen("/var", 100 << 20), "warning", "only 100 MiB free", "make room"),
        (DiskSeen("/var", words="Permission denied"), "unknown", "Permission denied", ""),
    ],
)
def test_k5_disks(disk: DiskSeen, state: str, words: str, remedy: str) -> None:
    says(host.disks([disk, DiskSeen("/", 1 << 40)]), state, words, remedy)


def test_open_files() -> None:
    assert one(host.open_files([FilesSeen("Envoy", 10, 20_000)])).state is State.OK
    says(host.open_files([FilesSeen("Envoy", 17_000, 20_000)]), "wrong", "17000 of at most 20000", "LimitNOFILE=")
    says(host.open_files([FilesSeen("Envoy", 1, 1024)]), "warning", "512 connections", "LimitNOFILE=")
    full = [WatchesSeen("root", 128, 128), WatchesSeen("web", 3, 128)]
    says(host.open_files([], full), "wrong", "root has 128 of at most 128 inotify", "max_user_instances=1024")


# --- units ---

WELL = [UnitSeen(AGENT_UNIT, "loaded", "active", "enabled"), UnitSeen(REDIRECT_UNIT, "loaded", "active", "enabled")]


@pytest.mark.parametrize(
    ("unit", "state", "words", "remedy"),
    [
        (UnitSeen(AGENT_UNIT, "masked", "inactive"), "wrong", "is masked", "systemctl unmask"),
        (UnitSeen(AGENT_UNIT, "not-found", "inactive"), "wrong", "is not-found", "deploy"),
        (UnitSeen(AGENT_UNIT, "loaded", "inactive", "enabled"), "wrong", "is inactive", "systemctl start"),
        (UnitSeen(AGENT_UNIT, "loaded", "active", "disabled"), "wrong", "not enabled", "systemctl enable"),
        (UnitSeen(AGENT_UNIT, "loaded", "failed", "enabled", False, "exit-code", 1), "wrong", "exit-code, status 1", "journalctl"),
        (UnitSeen(AGENT_UNIT, "loaded", "activating", "enabled", False, "watchdog"), "wrong", "again and again", "journalctl"),
        (UnitSeen(AGENT_UNIT, "loaded", "active", "enabled", True), "warning", "is not the unit", "deploy again"),
        (UnitSeen("meshagent-envoy@ab-1.service", "loaded", "failed", "", False, "signal", 11), "wrong", "signal", "journalctl"),
    ],
)  # fmt: skip
def test_units(unit: UnitSeen, state: str, words: str, remedy: str) -> None:
    others = [one for one in WELL if one.name != unit.name]
    says(host.units([unit, *others], redirecting=True), state, words, remedy)


def test_units_that_are_well() -> None:
    assert one(host.units(WELL, redirecting=True)).state is State.OK
    assert one(host.units(WELL[:1], redirecting=False)).state is State.OK
    says(host.units(WELL[:1], redirecting=True), "wrong", f"{REDIRECT_UNIT} is not-found", "deploy")


# --- ports ---

BIND = host_pb2.Placement(id="ab", resource="mesh/shop/virtualNode/web", mode="bind", address="10.0.0.5", ports=[8080])
TURNED = host_pb2.Placement(id="cd", resource="mesh/shop/virtualNode/api", mode="redirect", slot=1, address="10.0.0.5",
                            ports=[9090], names=[host_pb2.ServiceName(service="web.shop", address="127.64.0.1")])  # fmt: skip


@pytest.mark.parametrize(
    ("listener", "remedy"),
    [
        (Listener("10.0.0.5", 8080, 1), "end it"),
        (Listener("0.0.0.0", 8080, 1), "let it listen on 127.0.0.1, or set `mode: redirect`"),
        (Listener("::", 8080, 1), "let it listen on 127.0.0.1"),
        (Listener("127.64.0.1", 80, 1), "end it"),
        (Listener("0.0.0.0", 15002, 1), "end it"),
        (Listener("127.0.0.1", 15003, 1), "end it"),
    ],
)
def test_h10_a_port_that_is_taken_is_named_with_its_process(listener: Listener, remedy: str) -> None:
    found = host.ports([BIND, TURNED], [listener], {listener: Owner(42, "python3")})
    says(found, "wrong", f"python3 (pid 42) listens on {listener.address}:{listener.port}", remedy)


def test_an_application_s_own_address_and_an_envoy_are_in_nobody_s_way() -> None:
    beside = [Listener("127.0.0.1", 8080, 1), Listener("0.0.0.0", 9090, 2), Listener("10.0.0.5", 8080, 3)]
    owners = {beside[0]: Owner(1, "app"), beside[1]: Owner(2, "app"), beside[2]: Owner(3, "envoy")}
    assert one(host.ports([BIND, TURNED], beside, owners)).state is State.OK


# --- certificates, clock ---

GOOD = IdentitySeen(
    "", "/v/host", issued=NOW - HOUR, end=NOW + 23 * HOUR, serial="1f", owner="root", wanted_owner="root"
)


@pytest.mark.parametrize(
    ("seen", "state", "words", "remedy"),
    [
        ({"words": "key.pem is not there"}, "wrong", "key.pem is not there", "meshctl token create"),
        ({"issued": NOW - 25 * HOUR, "end": NOW - 2 * HOUR}, "wrong", "expired 2 h ago", "meshctl token create"),
        (
            {"placement": "ab", "issued": NOW - 25 * HOUR, "end": NOW - 2 * HOUR},
            "wrong",
            "placement ab expired",
            "see `servers`",
        ),
        ({"issued": NOW - 20 * HOUR, "end": NOW + 4 * HOUR}, "warning", "expires in 4 h", "see `servers`"),
        ({"key_mode": 0o644}, "wrong", "mode 0644", "chmod 600 /v/host/current/key.pem"),
        ({"owner": "www-data"}, "wrong", "belongs to www-data, not to root", "chown root"),
        ({"placement": "ab", "served": "2e"}, "wrong", "presents another certificate (2e)", "restart the proxy"),
    ],
)
def test_k8_certificates_and_keys(seen: dict[str, object], state: str, words: str, remedy: str) -> None:
    says(identity.certificates([IdentitySeen(**{**vars(GOOD), **seen}), GOOD], NOW), state, words, remedy)  # type: ignore[arg-type]


def test_k4_the_clock_against_the_servers() -> None:
    assert one(identity.clock(NOW, [("a:1", 0.2)], [])).state is State.OK
    says(identity.clock(NOW, [("a:1", -86400.0)], []), "wrong", "24 h behind that of a:1", "timedatectl")
    says(identity.clock(NOW, [("a:1", 300.0)], []), "wrong", "5 min ahead of that of a:1", "timedatectl")
    says(identity.clock(NOW, [], [NOW + 7200]), "wrong", "made 2 h in its future", "timedatectl")
    says(identity.clock(NOW, [], [NOW - 10]), "unknown", "no server is in reach")


# --- the agent and what it holds ---


def agents(*seen: AgentSeen, **changed: object) -> list[Finding]:
    given = {"holder": 7, "answers": True, "state_directory": "/v", "joined": True, **changed}
    return list(agent.agents(seen, **given))  # type: ignore[arg-type]


def test_the_agent() -> None:
    here = AgentSeen(7, "/etc/a.yaml", "/v", 0)
    assert one(agents(here)).state is State.OK
    says(agents(here, joined=False), "wrong", "has not joined", "meshctl token create")
    says(agents(holder=None, answers=False), "wrong", "no agent is at work on /v", "systemctl start")
    says(agents(here, answers=False), "wrong", "agent (pid 7) does not answer", "systemctl restart")
    says(
        agents(here, AgentSeen(8, "/tmp/b.yaml", "/w", 0)),
        "wrong",
        "both number their placements from slot 0",
        "first_slot",
    )
    says(agents(here, AgentSeen(8, "/tmp/b.yaml", "/v", 8)), "wrong", "on one state directory", "stop the one")
    assert one(agents(here, AgentSeen(8, "/tmp/b.yaml", "/w", 8))).state is State.OK


@pytest.mark.parametrize(
    ("seen", "state", "words", "remedy"),
    [
        (HeldSeen(None, None, desired=False), "warning", "no server has said yet", "see `servers`"),
        (HeldSeen(NOW - 7200, "", desired=True), "warning", "stale: no server was heard of for 2 h", "see `servers`"),
        (HeldSeen(None, "", desired=True), "unknown", "not known when", ""),
        (HeldSeen(NOW, "a:1", desired=True, held=["revision 3 is lower"]), "wrong", "revision 3", "meshctl accept"),
        (HeldSeen(NOW, "a:1", desired=True, refused=["ab: Envoy refused in: no"]), "wrong", "refused in: no", "change what it names"),
        (HeldSeen(NOW, "a:1", desired=True, problems=["mesh/x: not allowed"]), "wrong", "not allowed", "new token"),
    ],
)  # fmt: skip
def test_c3_c9_the_configuration_that_is_held(seen: HeldSeen, state: str, words: str, remedy: str) -> None:
    says(agent.configuration_held(seen, NOW), state, words, remedy)


def test_a_server_that_restarts_is_no_warning() -> None:
    assert not bad(agent.configuration_held(HeldSeen(NOW - 30, "", desired=True), NOW))


# --- servers, names, peers ---


def test_servers() -> None:
    good = ServerSeen("a:1", ahead=0.0)
    assert one(network.servers([good])).state is State.OK
    down = ServerSeen("b:1", "connect", "Connection refused")
    says(network.servers([good, down]), "warning", "b:1: no connection: Connection refused", "meshagent-server")
    says(network.servers([down]), "wrong", "no connection", "firewall")
    says(
        network.servers([ServerSeen("b:1", "resolve", "Name or service not known")]),
        "wrong",
        "does not resolve",
        "resolvectl",
    )
    says(
        network.servers([ServerSeen("b:1", "tls", "self-signed")]),
        "wrong",
        "TLS fails: self-signed",
        "another authority",
    )
    says(network.servers([ServerSeen("b:1", "speak", "no answer")]), "wrong", "takes the connection", "journalctl")
    says(network.servers([ServerSeen("b:1", "ask", "unknown")]), "wrong", "refuses this host", "join again")
    says(network.servers([]), "unknown", "knows no server")
    assert [one.state for one in network.servers([good], "")] == [State.OK]
    assert [one.state for one in network.servers([down], "no route")] == [State.WRONG], "said once"
    for words, state in (("FAILED_PRECONDITION: a clone", "wrong"), ("UNAVAILABLE: a moment", "warning")):
        _, without = network.servers([good], words)
        says([without], state, f"the agent has no server all the same: {words}", "journalctl")


def test_names() -> None:
    wanted = {"web.shop": "127.64.0.1"}
    assert one(network.names(wanted, {"web.shop": ("127.64.0.1",)}, file="/etc/hosts")).state is State.OK
    says(
        network.names(wanted, {}, file="/etc/hosts"),
        "wrong",
        "web.shop does not resolve, not to 127.64.0.1",
        "nsswitch",
    )
    says(
        network.names(wanted, {"web.shop": ("10.9.9.9",)}, file="/etc/hosts"),
        "wrong",
        "resolves to 10.9.9.9",
        "marked block",
    )
    assert one(network.names({}, {}, file="/etc/hosts")).state is State.OK


def test_peers() -> None:
    well = PeerSeen("10.0.0.6:8080", "cds_egress_shop_api_http_8080")
    assert one(network.peers([well], 1)).words == "all endpoints (1) take connections"
    says(
        network.peers([well, PeerSeen("10.0.0.7:80", "c", "no answer within 2 s")], 1),
        "wrong",
        "10.0.0.7:80 (c): no answer",
        "firewall",
    )
    says(network.peers([], 0), "unknown", "no Envoy could be asked")


# --- proxies, binaries, rules ---

LIVE = ProxySeen("ab", "mesh/shop/virtualNode/web", 7, "LIVE", "1.40.0", "1.40.0", health="healthy")


@pytest.mark.parametrize(
    ("changed", "state", "words", "remedy"),
    [
        ({"pid": 0, "state": "", "words": "port taken"}, "wrong", "web (ab): its Envoy does not run: port taken", "meshagent-envoy@ab-*"),
        ({"state": ""}, "wrong", "does not answer on its admin socket", "kill -9 7"),
        ({"state": "INITIALIZING"}, "warning", "Envoy is INITIALIZING", "configuration"),
        ({"version": "1.39.3"}, "warning", "runs Envoy 1.39.3, wanted is 1.40.0", "by itself"),
        ({"upgrade_failure": "1.41.0 crashed"}, "wrong", "1.41.0 crashed", "meshctl envoy use"),
        ({"health": "unhealthy", "words": "port 8080: refused"}, "wrong", "gets no requests: port 8080: refused", "application"),
        ({"restarts": 5}, "warning", "restarted 5 times", "journalctl"),
    ],
)  # fmt: skip
def test_h5_proxies(changed: dict[str, object], state: str, words: str, remedy: str) -> None:
    says(proxies.proxies([ProxySeen(**{**vars(LIVE), **changed}), LIVE]), state, words, remedy)  # type: ignore[arg-type]


def test_binaries() -> None:
    here = BinarySeen("1.40.0", "/e/1.40.0/envoy")
    assert one(proxies.envoys([here], ["1.40.0"])).state is State.OK
    says(
        proxies.envoys([here], ["1.39.3"]),
        "wrong",
        "Envoy 1.39.3 is wanted and not installed",
        "meshagent envoy install 1.39.3",
    )
    says(
        proxies.envoys([BinarySeen("1.40.0", "/e/1.40.0/envoy", "is not Envoy 1.40.0")], []),
        "wrong",
        "is not Envoy",
        "remove it",
    )


def table(outbound: Iterable[int], inbound: Iterable[int]) -> str:
    rules = [("outbound", port) for port in outbound] + [("inbound", port) for port in inbound]
    return json.dumps([{"rule": {"chain": chain, "expr": [{"redirect": {"port": port}}]}} for chain, port in rules])


def test_h8_the_rules() -> None:
    assert list(proxies.rules([BIND], None, [])) == []
    assert one(proxies.rules([TURNED], table([15003], [15002]), ["cd"])).state is State.OK
    assert one(proxies.rules([TURNED], table([15003], []), [])).state is State.OK, "its Envoy does not accept"
    says(proxies.rules([TURNED], None, ["cd"]), "wrong", "inet meshagent is gone", "systemctl restart meshagent-agent")
    says(proxies.rules([TURNED], table([], [15002]), ["cd"]), "wrong", "turns no calls of placement cd", "flushed")
    says(proxies.rules([TURNED], table([15003], []), ["cd"]), "wrong", "turns nothing that comes in", "flushed")
    says(proxies.rules([TURNED], None, [], "nft is not there"), "unknown", "nft is not there", "nftables")


@pytest.mark.parametrize(("seconds", "words"), [(30, "30 s"), (300, "5 min"), (7200, "2 h"), (200_000, "2 days")])
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words
