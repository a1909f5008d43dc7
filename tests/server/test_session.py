"""What is known of a session's machine while another one says that it is the same host."""

from __future__ import annotations

import pytest

from meshagent.identity import spiffe
from meshagent.identity.leaf import Leaf
from meshagent.server.records import HostRecord
from meshagent.server.session import Session, Standing

PATIENCE = 7.5


@pytest.fixture
def session() -> Session:
    leaf = Leaf("1f", 0.0, 1e9, spiffe.parse("spiffe://td/host/a"), "")
    found = Session(leaf, HostRecord("a", boot="a1"), "a1", (), now=100.0)
    found.hears(100.0)
    found.reads_on(100.0)
    return found


def test_who_is_heard_of_long_after_the_others_hello_lives(session: Session) -> None:
    assert session.standing("b2", 100.0, PATIENCE) is Standing.OPEN
    for now in (103.0, 106.0, 109.0):
        session.hears(now)
        session.reads_on(now)
    assert session.standing("b2", 109.0, PATIENCE) is Standing.ALIVE


def test_who_is_silent_is_down_and_no_sooner_than_the_other_has_waited(session: Session) -> None:
    assert session.standing("b2", 160.0, PATIENCE) is Standing.OPEN
    assert session.standing("b2", 167.0, PATIENCE) is Standing.OPEN
    assert session.standing("b2", 168.0, PATIENCE) is Standing.DOWN


def test_nothing_is_judged_by_while_a_word_is_worked_on(session: Session) -> None:
    """The disk stalls: what the machine says is not read, and what it said before it went down is read late."""
    session.hears(101.0)
    assert session.standing("b2", 102.0, PATIENCE) is Standing.OPEN
    assert session.standing("b2", 120.0, PATIENCE) is Standing.OPEN, "it may have spoken"
    session.reads_on(121.0)
    session.hears(121.0)
    session.reads_on(121.0)
    assert session.standing("b2", 122.0, PATIENCE) is Standing.OPEN, "it may have spoken long ago"
    assert session.standing("b2", 130.0, PATIENCE) is Standing.DOWN


def test_a_machine_is_told_again_what_it_knows_once_a_second_at_most(session: Session) -> None:
    session.standing("b2", 100.0, PATIENCE)
    assert session.again
    session.again = False
    session.standing("c3", 100.5, PATIENCE)
    assert not session.again
    session.standing("d4", 102.0, PATIENCE)
    assert session.again
