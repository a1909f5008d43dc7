"""What the upgrade under load makes of the agent's words, of failures' moments and of wrk's output."""

from __future__ import annotations

import pytest

from meshagent.demo.traffic import Load
from meshagent.demo.upgrade import Handover, drained_for, handovers_of
from meshagent.demo.wrk import count_of
from meshagent.lab import LabError

RECORDS = (
    (1.0, "ab: Envoy 1.40.0 is tried beside 1.39.3"),
    (2.0, "ab: Envoy 1.40.0 serves, generation 4"),
    (3.0, "cd: generation 1 has ended"),
    (8.0, "ab: generation 3: 1 call that came in outlived the drain, and was cut"),
    (8.2, "ab: generation 3 has ended"),
)


def held(*failures: tuple[float, str]) -> Load:
    return Load("ledger", failures=list(failures))


def test_a_handover_is_from_the_new_ones_service_to_the_old_ones_end() -> None:
    found = handovers_of("h2", "1.40.0", {"ab": "ledger", "cd": "quotes"}, RECORDS)
    cut = "1 call that came in outlived the drain, and was cut"
    assert found == [Handover("h2", "ledger", "1.40.0", 2.0, 8.2, cut)]
    assert handovers_of("h2", "1.39.3", {"ab": "ledger"}, RECORDS) == []
    assert handovers_of("h2", "1.40.0", {"ab": "ledger"}, RECORDS[:-1]) == []


def test_a_break_is_accounted_for_by_one_drain_that_was_over() -> None:
    drains = (Handover("h2", "ledger", "1.40.0", 2.0, 8.2), Handover("h1", "web", "1.40.0", 20.0, 26.5))
    assert drained_for(held((8.0, "connection broke: x"), (26.6, "connection broke: y")), drains)[1] == []
    lived, odd = drained_for(held((8.0, "connection broke: x"), (8.1, "connection broke: y")), drains)
    assert lived == [6.0]
    assert odd == [
        "ledger: connection broke: y, at no drain's end",
        "ledger: outlived the drain of web on h1",
    ]
    assert drained_for(held((8.0, "not connected: refused")), drains[:1])[0] == []


def test_what_wrk_counted_is_read_from_its_last_line() -> None:
    said = (
        "Running 3600s test\nRequests/sec: 130\n"
        '{"requests": 260, "seconds": 2.0, "connect": 0, "read": 3, "write": 0, "status": 0, "timeout": 0, '
        '"p99": 0.001, "longest": 0.002}\n'
    )
    count = count_of("kept", said)
    assert (count.requests, count.failures, count.failed) == (260, {"read": 3}, 3)
    with pytest.raises(LabError, match="unable to connect"):
        count_of("kept", "unable to connect to 127.0.0.1:1")
