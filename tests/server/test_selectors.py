"""What a selector says."""

from __future__ import annotations

import pytest

from meshagent.server.records import HostRecord
from meshagent.server.selectors import Selector, SelectorError
from meshagent.store.base import Entry


def test_all_conditions_must_hold() -> None:
    selector = Selector.parse("zone=eu-west-1a,role=web")
    assert selector.matches({"zone": "eu-west-1a", "role": "web", "more": "x"})
    assert not selector.matches({"zone": "eu-west-1a"})
    assert not selector.matches({"zone": "eu-west-1b", "role": "web"})


def test_it_has_one_spelling() -> None:
    assert str(Selector.parse(" role = web, zone=a")) == "role=web,zone=a"
    assert Selector.parse("a=1,b=2") == Selector.parse("b=2,a=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be conditions"),
        ("zone", "must be conditions"),
        ("zone=", "must be 1 to 63"),
        ("=a", "a key must be"),
        ("zone=a,zone=b", "given twice"),
        (",".join(f"k{n}=v" for n in range(17)), "at most 16"),
    ],
)
def test_what_is_none(text: str, words: str) -> None:
    with pytest.raises(SelectorError, match=words):
        Selector.parse(text)


def test_a_host_is_known_by_its_facts_and_its_own_labels_count_more() -> None:
    record = HostRecord("web-1", facts={"os": "debian", "zone": "eu-west-1a"}, labels={"zone": "rack-7"})
    assert Selector.parse("os=debian,zone=rack-7").matches(record.attributes)
    assert HostRecord.decode(Entry("k", record.encode(), 1, 0)) == record
