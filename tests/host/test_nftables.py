"""The table's text is held word for word, and what the kernel makes of it is tried in a network of its own."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from meshagent.host import nftables
from meshagent.host.nftables import PROBE_MARK, NftError, Way, ruleset
from tests.host.namespaces import needs_nft, needs_root, nft, own_network

HOST = "10.9.9.1"


def test_one_placement() -> None:
    assert ruleset([Way(0, (8080, 9000), proxy=991, otherwise=True)]) == (
        "table inet meshagent {}\n"
        "delete table inet meshagent\n"
        "table inet meshagent {\n"
        "  chain outbound {\n"
        "    type nat hook output priority -105; policy accept;\n"
        "    ip daddr 127.64.0.0/16 meta l4proto tcp redirect to :15001\n"
        "    ip daddr 127.0.0.0/8 return\n"
        "    meta mark 0x6d657368 return\n"
        "    meta nfproto ipv4 fib daddr type local tcp dport { 8080, 9000 } redirect to :15000\n"
        "  }\n"
        "  chain inbound {\n"
        "    type nat hook prerouting priority -105; policy accept;\n"
        '    iifname "lo" return\n'
        "    meta nfproto ipv4 fib daddr type local tcp dport { 8080, 9000 } redirect to :15000\n"
        "  }\n"
        "}\n"
    )


def test_callers_are_told_by_their_user_and_come_before_everybody_else() -> None:
    text = ruleset([Way(0, otherwise=True), Way(3, (80,), proxy=993, application="10.0.0.5", callers=(1001,))])
    outbound = text.split("policy accept;\n")[1].splitlines()
    assert [line.strip() for line in outbound[:6]] == [
        "ip daddr 127.64.0.0/16 meta skuid 1001 meta l4proto tcp redirect to :15007",
        "ip daddr 127.67.0.0/16 meta l4proto tcp redirect to :15007",
        "ip daddr 127.64.0.0/16 meta l4proto tcp redirect to :15001",
        "ip daddr 127.0.0.0/8 return",
        "meta mark 0x6d657368 return",
        "meta skuid 993 ip daddr 10.0.0.5 tcp dport { 80 } return",
    ]


def test_what_takes_mutual_tls_alone_is_refused_by_ipv6_where_its_proxy_takes_none() -> None:
    text = ruleset([Way(0, (80, 443), sealed=(443,), otherwise=True), Way(1, (90,), sealed=(90,), ipv6=True)])
    assert text.split("chain sealed {\n")[1] == (
        "    type filter hook input priority 0; policy accept;\n"
        '    iifname != "lo" meta nfproto ipv6 tcp dport { 443 } reject with tcp reset\n'
        "  }\n"
        "}\n"
    )


def test_nothing_turned_inbound_leaves_the_calls() -> None:
    text = ruleset([Way(0, otherwise=True)])
    assert "15001" in text
    assert "prerouting" not in text and "15000" not in text


def test_without_ways_there_is_no_table() -> None:
    assert ruleset([]) == "table inet meshagent {}\ndelete table inet meshagent\n"


def test_handles_do_not_count() -> None:
    def listing(handle: int) -> str:
        return f'{{"nftables": [{{"metainfo": {{"version": "1"}}}}, {{"rule": {{"chain": "inbound", "handle": {handle}, "expr": []}}}}]}}'

    assert nftables.spelled(listing(1)) == nftables.spelled(listing(2))
    with pytest.raises(NftError, match="no listing"):
        nftables.spelled("[]")


def test_a_host_without_nft_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "_PROGRAMS", ())
    with pytest.raises(NftError, match="install the package nftables"):
        nftables.apply("")


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


def listening(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port))


def reached(address: str, port: int, mark: int = 0) -> int:
    """The port of the listener that a connection gets to, by what the listener itself says; 0 when it is refused."""
    with socket.socket() as client:
        client.settimeout(2.0)
        if mark:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            client.connect((address, port))
        except ConnectionRefusedError:
            return 0
        mine = client.getsockname()
        ready, _, _ = select.select(LISTENERS, [], [], 5.0)
        for listener in ready:
            connection, peer = listener.accept()
            with connection:
                if peer == mine:
                    return int(listener.getsockname()[1])
    raise AssertionError("connected to nobody")


LISTENERS: list[socket.socket] = []


@pytest.fixture
def listeners(network: None) -> Iterator[None]:
    LISTENERS[:] = [listening("0.0.0.0", port) for port in (8080, 15000)] + [listening("127.0.0.1", 15001)]
    yield
    while LISTENERS:
        LISTENERS.pop().close()


@needs_root
@needs_nft
def test_h7_what_is_turned_and_what_is_not(listeners: None) -> None:
    before = nft("list", "ruleset")
    assert reached("127.64.0.7", 8080) == 8080, "without the rules, a service's address is the application's own"
    nftables.apply(ruleset([Way(0, (8080,), proxy=12345, otherwise=True)]))
    assert reached("127.64.0.7", 8080) == 15001
    assert reached("127.64.0.7", 5432) == 15001
    assert reached(HOST, 8080) == 15000
    assert reached("127.0.0.1", 8080) == 8080
    assert reached("127.65.0.7", 8080) == 8080
    assert reached(HOST, 8080, PROBE_MARK) == 8080
    LISTENERS.pop().close()  # Envoy's, for calls
    assert reached("127.64.0.7", 8080) == 0, "refused, rather than another application"
    nftables.remove()
    nftables.remove()
    assert nft("list", "ruleset") == before


@needs_root
@needs_nft
def test_a_proxy_reaches_its_application_on_the_hosts_own_address(listeners: None) -> None:
    nftables.apply(ruleset([Way(0, (8080,), proxy=os.geteuid(), application=HOST)]))
    assert reached(HOST, 8080) == 8080
    nftables.apply(ruleset([Way(0, (8080,), proxy=os.geteuid() + 1, application=HOST)]))
    assert reached(HOST, 8080) == 15000


@needs_root
@needs_nft
def test_two_loads_of_the_same_rules_look_the_same_and_another_table_is_not_touched(network: None) -> None:
    nft("add", "table", "inet", "somebody")
    text = ruleset(
        [Way(0, (80, 81), otherwise=True, sealed=(81,)), Way(1, (82,), ipv6=True, application="fd00::1", callers=(5,))]
    )
    nftables.apply(text)
    seen = nftables.observe()
    nftables.apply(text)
    assert nftables.observe() == seen
    assert nftables.is_whole(seen, text) and not nftables.is_whole(None, text)
    assert nftables.redirected_to(seen) == {15000, 15002}
    nft("flush", "chain", "inet", "meshagent", "inbound")
    assert nftables.observe() != seen
    assert not nftables.is_whole(nftables.observe(), text)
    nftables.remove()
    assert nftables.observe() is None
    assert nftables.redirected_to(None) == frozenset()
    assert nft("list", "tables") == "table inet somebody\n"


@needs_root
@needs_nft
def test_rules_that_are_refused_leave_those_that_were(network: None) -> None:
    nftables.apply(ruleset([Way(0, otherwise=True)]))
    seen = nftables.observe()
    with pytest.raises(NftError, match="syntax error"):
        nftables.apply("delete table inet meshagent\nbogus\n")
    assert nftables.observe() == seen
