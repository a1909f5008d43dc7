"""The proxies' users: names and what is asked of systemd-sysusers. That it does so is seen on the lab's hosts."""

from __future__ import annotations

import pytest

from meshagent.host import users


def test_a_slot_has_a_user_and_all_share_a_group() -> None:
    assert users.name(7) == "meshagent-p7"
    assert users.lines(7) == [
        "g meshagent-proxy -",
        'u meshagent-p7 -:meshagent-proxy "meshagent proxy in slot 7" / /usr/sbin/nologin',
    ]


@pytest.mark.parametrize("slot", [-1, 64])
def test_what_is_no_slot_has_none(slot: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 63"):
        users.name(slot)
