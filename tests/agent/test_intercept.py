"""intercept: what it takes, what it spares, and how it ends when nobody says that the host is in reach."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from meshagent.agent import intercept, redirect
from meshagent.agent.addresses import Addresses
from meshagent.agent.configuration import parse
from meshagent.agent.intercept import InterceptError, State, Trial, Trials, fingerprint
from meshagent.agent.local import Request
from meshagent.agent.settings import InterceptSettings, PlacementSettings, SettingsError
from meshagent.agent.ways import Owner
from meshagent.host import nftables
from meshagent.host.files import FileError
from meshagent.host.nftables import Caught, Way, ruleset
from tests.agent.test_redirect import Fake, Host, full, network, table, until  # noqa: F401
from tests.agent.test_ways import placed
from tests.host.namespaces import ip, needs_nft, needs_root, nft

WEB = "mesh/shop/virtualNode/web"
REQUEST = Request("POST", "/")


def test_app_meshs_settings_are_read() -> None:
    text = """
placements:
- resource: mesh/shop/virtualNode/web
  mode: intercept
  intercept: {app_ports: [8080, 9090], egress_ignored_ip: [10.1.0.0/16, 10.2.0.1], egress_ignored_ports: 5432, ignore_uid: 1337,
              ignore_gid: [7, 8], ipv6: true}
"""
    assert parse(text, "agent.yaml").placements[0].intercept == InterceptSettings(
        (8080, 9090), ("10.1.0.0/16", "10.2.0.1"), (5432,), (1337,), (7, 8), True
    )


def test_intercept_is_the_hosts_only_placement_and_its_settings_are_checked() -> None:
    two = f"placements:\n- {{resource: {WEB}, mode: intercept}}\n- {{resource: {WEB}}}\n"
    with pytest.raises(SettingsError, match="must be the host's only placement"):
        parse(two, "agent.yaml")
    bad = f"placements:\n- resource: {WEB}\n  intercept: {{app_ports: 0, egress_ignored_ip: here, ipv6: 1}}\n"
    with pytest.raises(SettingsError) as refused:
        parse(bad, "agent.yaml")
    assert [line.split(": ", 2)[1].rpartition(".")[2] for line in str(refused.value).splitlines()] == [
        "app_ports", "egress_ignored_ip", "ipv6",
    ]  # fmt: skip


def test_the_rules_spare_ssh_metadata_the_agents_servers_and_what_was_asked_for() -> None:
    caught = Caught((5,), (7,), (5432,), ("10.1.0.0/16", "10.1.2.3"), (("10.9.0.1", 8444), ("fd00::1", 8444)))
    text = ruleset([Way(0, (8080,), proxy=991, otherwise=True, caught=caught)])
    outbound = text.split("chain outbound")[1].split("}\n  chain")[0]
    assert [line.strip() for line in outbound.splitlines()[-11:-1]] == [
        "meta nfproto ipv4 fib daddr type local tcp dport { 8080 } redirect to :15000",
        "meta skuid { 5, 991 } return",
        "meta skgid { 7 } return",
        "tcp dport { 22, 5432 } return",
        "ip daddr { 10.1.0.0/16, 169.254.169.254, 169.254.170.2 } return",
        "ip6 daddr { fd00:ec2::254 } return",
        "ip daddr 10.9.0.1 tcp dport 8444 return",
        "ip6 daddr fd00::1 tcp dport 8444 return",
        "fib daddr type local return",
        "meta nfproto ipv4 meta l4proto tcp meta l4proto @catching redirect to :15001",
    ]


def test_a_trial_ends_by_itself_and_with_the_boot() -> None:
    trial = Trial("x", State.TRYING, 120.0, "boot")
    assert trial.at(119.0, "boot") == trial
    assert trial.at(120.0, "boot").state is State.ROLLED_BACK
    assert trial.at(1.0, "another boot").state is State.ROLLED_BACK
    kept = trial.confirmed()
    assert kept.at(1e9, "another boot") == kept
    with pytest.raises(InterceptError, match="meshagent intercept try"):
        trial.at(120.0, "boot").confirmed()


def test_other_settings_are_another_trial(tmp_path: Path) -> None:
    settings = PlacementSettings(WEB, "intercept")
    trials = Trials(tmp_path)
    with pytest.raises(InterceptError, match="nothing is intercepted"):
        trials.confirm()
    assert trials.now(settings).state is State.TRYING
    trials.confirm()
    assert Trials(tmp_path).now(settings).state is State.CONFIRMED
    other = replace(settings, intercept=InterceptSettings(app_ports=(1,)))
    assert fingerprint(other) != fingerprint(settings)
    assert Trials(tmp_path).now(other).state is State.TRYING
    (tmp_path / intercept.TRIAL_FILE).write_text("{}")
    assert Trials(tmp_path).now(settings).state is State.TRYING


def test_a_full_disk_begins_no_trial_and_ends_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PlacementSettings(WEB, "intercept")
    trials = Trials(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(intercept, "write_durably", full)
        with pytest.raises(FileError):
            trials.now(settings)
    assert trials.now(settings).state is State.TRYING
    monkeypatch.setattr(intercept, "write_durably", full)
    with pytest.raises(FileError):
        trials.confirm()
    over = time.clock_gettime(time.CLOCK_BOOTTIME) + intercept.TRIAL_SECONDS
    monkeypatch.setattr(intercept.time, "clock_gettime", lambda _: over)
    assert trials.now(settings).state is State.ROLLED_BACK
    assert Trials(tmp_path).now(settings).state is State.ROLLED_BACK


def test_the_servers_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = Addresses(lambda: ["127.0.0.1:8444", "[::1]:8444", "no-such-host.invalid:1", "broken"])
    assert addresses.found() == (("127.0.0.1", 8444), ("::1", 8444))

    def nobody(*_: object, **__: object) -> list[object]:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    addresses._asked = 0.0
    assert addresses.found() == (("127.0.0.1", 8444), ("::1", 8444))


@pytest.fixture
def host(tmp_path: Path, network: None, monkeypatch: pytest.MonkeyPatch) -> Host:  # noqa: F811
    monkeypatch.setattr(redirect, "PATIENCE", 0.5)
    monkeypatch.setattr(redirect.Redirect, "_owner", lambda *_: Owner(54321))
    made = Host(tmp_path, Fake(placed("web", 0, mode="intercept")))
    made.settings = replace(made.settings, placements=(PlacementSettings(WEB, "intercept"),))
    return made


def for_good() -> bool:
    return catching() and "timeout" not in table().split("elements")[1].split("}")[0]


def catching() -> bool:
    return "elements = { tcp" in table()


@needs_root
@needs_nft
async def test_h7_interception_that_nobody_confirms_is_rolled_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.fakes is not None
    web = host.fakes[0].placement
    monkeypatch.setattr(intercept, "TRIAL_SECONDS", 3)
    async with host.agent() as agent:
        await until(catching, "on trial")
        assert "meshagent intercept confirm" in agent.words(web)
        await until(lambda: not catching(), "rolled back")
        assert "15001" in table() and "15000" in table(), "the mesh's own goes on"
        await until(lambda: "was rolled back" in agent.words(web) and agent.obstacle(web) == "", "told")
        with pytest.raises(InterceptError):
            await agent.confirm(REQUEST)
        monkeypatch.setattr(intercept, "TRIAL_SECONDS", 60)
        await agent.try_again(REQUEST)
        await until(catching, "on trial again")
        await agent.confirm(REQUEST)
        await until(lambda: for_good() and agent.words(web) == "", "confirmed")


@needs_root
@needs_nft
async def test_k5_without_a_disk_nothing_is_caught_and_all_else_goes_on(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.fakes is not None
    web = host.fakes[0].placement
    with monkeypatch.context() as patched:
        patched.setattr(intercept, "write_durably", full)
        async with host.agent() as agent:
            await until(lambda: "15001" in table() and "15000" in table(), "the mesh's own")
            await until(lambda: "No space left on device" in agent.words(web) and agent.obstacle(web) == "", "told")
            assert not catching()
            patched.undo()
            await until(catching, "on trial")


@needs_root
@needs_nft
async def test_h7_the_kernel_ends_a_trial_although_the_agent_is_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intercept, "TRIAL_SECONDS", 3)
    monkeypatch.setattr(intercept, "_LATER", 1)
    async with host.agent():
        await until(catching, "on trial")
    await until(lambda: not catching(), "ended by the kernel")


@needs_root
@needs_nft
async def test_h7_an_envoy_that_hangs_or_ends_lets_everything_pass(host: Host) -> None:
    assert host.fakes is not None
    web = host.fakes[0]
    async with host.agent() as agent:
        await until(catching, "on trial")
        await agent.confirm(REQUEST)
        web.accepting = False
        await until(lambda: "catching" not in table(), "taken away")
        assert "15001" in table(), "names are refused rather than lead astray"
        web.accepting = True
        agent.wake()
        await until(catching, "caught again, without another trial")
    assert catching(), "and stays when the agent is stopped"


@needs_root
@needs_nft
async def test_what_envoys_unit_turned_off_when_it_stopped_is_on_again_when_envoy_is_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.fakes is not None
    monkeypatch.setattr(redirect, "PATIENCE", 60.0)
    web = host.fakes[0]
    async with host.agent() as agent:
        await until(catching, "on trial")
        await agent.confirm(REQUEST)
        await until(for_good, "confirmed")
        web.accepting = False
        nft("delete", "element", "inet", "meshagent", "catching", "{ tcp }")
        nft("add", "table", "inet", "somebody")  # the kernel tells of it, and the agent looks
        await until(lambda: agent._table._off, "seen")
        assert not catching()
        web.accepting = True
        await until(catching, "caught again")
        assert agent.words(web.placement) == "", "nobody disturbed anything"


def goes_to(address: str, port: int) -> str:
    """Where a connection ends: `envoy`, `away` (a route, and nobody there), or `refused`."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect((address, port))
            return "envoy"
        except TimeoutError:
            return "away"
        except ConnectionRefusedError:
            return "refused"


@needs_root
@needs_nft
def test_what_is_caught_and_what_never_is(network: None) -> None:  # noqa: F811
    # A neighbour that never answers: packets to it leave the host.
    ip("link", "add", "out", "type", "veth", "peer", "name", "in")
    ip("address", "add", "10.8.0.1/24", "dev", "out")
    for name in ("out", "in"):
        ip("link", "set", name, "up")
    ip("route", "add", "default", "via", "10.8.0.2")
    ip("neigh", "add", "10.8.0.2", "lladdr", "02:00:00:00:00:01", "dev", "out")
    with socket.create_server(("127.0.0.1", 15001)):
        nftables.apply(
            ruleset([Way(0, proxy=54321, otherwise=True, caught=Caught(ports=(5432,), addresses=("192.0.2.0/24",)))])
        )
        assert goes_to("198.51.100.1", 80) == "envoy"
        assert goes_to("127.64.0.7", 80) == "envoy"
        assert goes_to("198.51.100.1", 22) == "away"
        assert goes_to("198.51.100.1", 5432) == "away"
        assert goes_to("192.0.2.7", 80) == "away"
        assert goes_to("169.254.169.254", 80) == "away"
        assert goes_to("10.8.0.1", 80) == "refused", "the host's own address"
        nft("delete", "element", "inet", "meshagent", "catching", "{ tcp }")
        assert goes_to("198.51.100.1", 80) == "away", "the switch is off"
        assert goes_to("127.64.0.7", 80) == "envoy"
        # The proxy's own: passed on, and services that nobody knows are refused rather than sent to this host's applications.
        nftables.apply(ruleset([Way(0, proxy=os.geteuid(), otherwise=True, caught=Caught())]))
        assert goes_to("198.51.100.1", 80) == "away"
        with socket.create_server(("0.0.0.0", 8080)):
            assert goes_to("127.64.0.7", 8080) == "refused"
