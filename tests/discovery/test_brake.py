"""The brake on mass expiries, with the time as an argument."""

from __future__ import annotations

from meshagent.discovery.brake import Brake, Limits
from meshagent.mesh.placement import Endpoint
from meshagent.specs.keys import node_key

LIMITS = Limits(floor=5, share=0.3, hosts=3, window=60.0, grace=2.0)


def endpoint(number: int, host: str = "") -> Endpoint:
    return Endpoint(node_key("shop", "web"), f"10.0.0.{number}", host or f"h{number}", f"p{number}", leased=True)


def end(brake: Brake, numbers: range, now: float, host: str = "") -> None:
    for number in numbers:
        brake.ended(endpoint(number, host), now)


def test_a_single_expiry_is_held_for_the_grace_and_then_goes() -> None:
    brake = Brake(LIMITS)
    end(brake, range(1), 100.0)
    assert brake.judge(9, 100.0) == {"p0"}
    assert brake.next_deadline(100.0) == 102.0
    assert brake.judge(9, 102.0) == frozenset()
    assert not brake.braking


def test_more_than_the_share_from_enough_hosts_stays_and_is_suspect() -> None:
    brake = Brake(LIMITS)
    end(brake, range(40), 100.0)
    assert len(brake.judge(60, 100.0)) == 40
    assert len(brake.judge(60, 500.0)) == 40
    assert set(brake.suspects) == {f"p{number}" for number in range(40)}


def test_thirty_of_a_hundred_is_no_more_than_the_share() -> None:
    brake = Brake(LIMITS)
    end(brake, range(30), 100.0)
    brake.judge(70, 100.0)
    assert brake.judge(70, 103.0) == frozenset()


def test_five_of_six_endpoints_are_not_braked_but_six_of_seven_are() -> None:
    for lost, kept in ((5, 0), (6, 6)):
        brake = Brake(LIMITS)
        end(brake, range(lost), 100.0)
        brake.judge(1, 100.0)
        assert len(brake.judge(1, 103.0)) == kept


def test_one_or_two_hosts_alone_are_never_braked() -> None:
    brake = Brake(LIMITS)
    end(brake, range(10), 100.0, "h1")
    end(brake, range(10, 20), 100.0, "h2")
    brake.judge(1, 100.0)
    assert brake.judge(1, 103.0) == frozenset()


def test_what_ended_earlier_in_the_window_comes_back_when_the_brake_takes_hold() -> None:
    brake = Brake(LIMITS)
    end(brake, range(4), 100.0)
    brake.judge(6, 100.0)
    assert brake.judge(6, 110.0) == frozenset()
    end(brake, range(4, 8), 120.0)
    assert brake.judge(2, 120.0) == {f"p{number}" for number in range(8)}


def test_expiries_spread_over_more_than_the_window_are_not_braked() -> None:
    brake = Brake(LIMITS)
    for number in range(20):
        now = 100.0 + 20.0 * number
        brake.ended(endpoint(number), now)
        brake.judge(20 - number, now)
        assert not brake.braking


def test_when_most_return_the_rest_goes_after_a_calm_window() -> None:
    brake = Brake(LIMITS)
    end(brake, range(20), 100.0)
    brake.judge(10, 100.0)
    for number in range(18):
        brake.settled(f"p{number}")
    assert brake.judge(28, 130.0) == {"p18", "p19"}
    assert brake.next_deadline(130.0) == 190.0
    assert brake.judge(28, 190.0) == frozenset()
    assert not brake.suspects


def test_a_removed_placement_is_not_held() -> None:
    brake = Brake(LIMITS)
    end(brake, range(20), 100.0)
    brake.judge(10, 100.0)
    brake.settled("p3")
    assert "p3" not in brake.judge(10, 101.0)
