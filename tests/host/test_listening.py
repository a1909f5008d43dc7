"""Listeners are found with their addresses, ports and owners, on the real /proc."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from meshagent.host import listening
from meshagent.host.listening import Listener, Owner

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100407F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:0050 0200007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
"""


def test_only_listeners_count() -> None:
    assert listening.parse(TABLE) == (Listener("127.64.0.1", 8080, 4711), Listener("0.0.0.0", 22, 4713))


TABLE_6 = """\
  sl  local_address                     remote_address                    st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 21 1 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 22 1 0
   2: 0000000000000000FFFF00000500000A:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 23 1 0
"""


def test_listeners_of_ipv6_count_and_those_that_stand_for_ipv4_are_told_as_such() -> None:
    found = (Listener("::", 8080, 21), Listener("::1", 80, 22), Listener("10.0.0.5", 81, 23))
    assert listening.parse(TABLE_6) == found
    assert listening.within(found, "127.64.0.0/16", {("10.0.0.5", 81)}) == found[2:]


def test_who_keeps_others_from_an_address() -> None:
    found = tuple(Listener(address, 8080, 1) for address in ("0.0.0.0", "::", "127.0.0.1", "10.0.0.5", "10.0.0.6"))
    held = listening.holding((*found, Listener("0.0.0.0", 81, 2)), "10.0.0.5", 8080)
    assert [each.address for each in held] == ["0.0.0.0", "::", "10.0.0.5"]


def test_a_real_listener_on_all_addresses_of_both_families() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        (held,) = listening.holding(listening.listeners(), "127.0.0.1", server.getsockname()[1])
        assert (held.address, listening.owner(held).pid) == ("::", os.getpid())


def test_a_slot_s_block_and_exact_addresses() -> None:
    found = (Listener("127.64.0.1", 8080, 1), Listener("127.65.0.1", 8080, 2), Listener("10.0.0.5", 8080, 3))
    assert listening.within(found, "127.64.0.0/16", ()) == found[:1]
    assert listening.within(found, "127.66.0.0/16", {("10.0.0.5", 8080)}) == found[2:]
    assert listening.within(found, "127.66.0.0/16", {("10.0.0.5", 9090)}) == ()


def test_a_real_listener_and_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, port = server.getsockname()
        (found,) = listening.within(listening.listeners(), "127.127.0.0/16", {(address, port)})
        owner = listening.owner(found)
        assert owner.pid == os.getpid() and owner.name
    assert listening.within(listening.listeners(), "127.127.0.0/16", {(address, port)}) == ()


def test_an_owner_that_cannot_be_known_is_somebody() -> None:
    assert str(listening.owner(Listener("127.0.0.1", 1, 0))) == "a process of another user"
    assert str(Owner(7, "envoy")) == "envoy (pid 7)"


def test_an_owner_whose_name_is_no_text_is_named_as_far_as_it_is() -> None:
    before = Path("/proc/self/comm").read_bytes()
    libc = ctypes.CDLL(None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            libc.prctl(15, b"fourteen-bytes\xc3", 0, 0, 0)
            (found,) = listening.holding(listening.listeners(), "127.0.0.1", server.getsockname()[1])
            assert listening.owner(found) == Owner(os.getpid(), "fourteen-bytes�")
        finally:
            libc.prctl(15, before.strip(), 0, 0, 0)
