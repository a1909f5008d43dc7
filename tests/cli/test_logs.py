"""Which proxy is meant, and what journalctl is asked for."""

from __future__ import annotations

import pytest

from meshagent.cli.logs import NoSuchProxy, journal, resolve

KNOWN = {
    "0123": "mesh/shop/virtualNode/web",
    "4567": "mesh/shop/virtualNode/catalog",
    "89ab": "mesh/other/virtualNode/catalog",
}


@pytest.mark.parametrize(
    ("named", "id"), [("0123", "0123"), ("web", "0123"), ("mesh/other/virtualNode/catalog", "89ab")]
)
def test_a_proxy_is_named_by_its_id_its_resource_or_its_name(named: str, id: str) -> None:  # noqa: A002
    assert resolve(named, KNOWN) == id


@pytest.mark.parametrize(
    ("named", "words"), [("catalog", "several proxies have"), ("cart", "no proxy of this host has")]
)
def test_what_is_not_clear_is_said_with_what_there_is(named: str, words: str) -> None:
    with pytest.raises(NoSuchProxy, match=words) as caught:
        resolve(named, KNOWN)
    assert "4567 (mesh/shop/virtualNode/catalog)" in str(caught.value)


@pytest.mark.parametrize(
    ("follow", "since", "options"),
    [
        (False, "", ["--no-pager"]),
        (True, "", ["--follow"]),
        (False, "10min", ["--no-pager", "--since=-10min"]),
        (False, "2 h", ["--no-pager", "--since=-2 h"]),
        (False, "2026-11-21 12:00", ["--no-pager", "--since=2026-11-21 12:00"]),
        (True, "today", ["--follow", "--since=today"]),
    ],
)
def test_the_journal_is_asked_for_the_proxys_field(follow: bool, since: str, options: list[str]) -> None:
    assert journal("0123", follow, since) == ["journalctl", *options, "PROXY=0123"]
