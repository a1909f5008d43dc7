"""Whom a NACK's words are about."""

from __future__ import annotations

import pytest

from meshagent.xds.blame import blame, is_partial, mentioned

LDS = "Error adding/updating listener(s) "
CDS = "Error adding/updating cluster(s) "


@pytest.mark.parametrize(
    ("words", "names", "guilty"),
    [
        (CDS + "a: no such file", ["a", "b"], ["a"]),
        (CDS + "a: no such file, b: neither", ["a", "b", "c"], ["a", "b"]),
        (LDS + "l: cannot bind '10.0.0.5:8080': Address already in use\n", ["l", "m"], ["l"]),
        (LDS + "l: bad\nm: bad too\n", ["l", "m", "n"], ["l", "m"]),
        # A reason may mention another: it is not to blame.
        (LDS + "l: clashes with m, which is there", ["l", "m"], ["l"]),
        (CDS + "cds_egress_a_http_80: unknown", ["cds_egress_a_http_8", "cds_egress_a_http_80"], ["cds_egress_a_http_80"]),
        # Several NACKs in one text, as an agent passes them on.
        (LDS + "l: bad\n" + LDS + "m: bad, as n is", ["l", "m", "n"], ["l", "m"]),
        ("r: bad\ns: bad", ["r", "s", "t"], ["r", "s"]),
        # Other texts mention a name somewhere, or none: then it may be all of them.
        ('route: unknown cluster in virtual host of "r".', ["q", "r"], ["r"]),
        ("Proto constraint validation failed (value must be > 0): name: \"a\"\n", ["a", "b"], ["a"]),
        ("duplicate a.b", ["a", "a.b", "b"], ["a.b"]),
        ("this is bad for a.", ["a", "b"], ["a"]),
        ("something", ["a", "b"], ["a", "b"]),
        ("", ["a"], ["a"]),
        ("anything", [], []),
    ],
)  # fmt: skip
def test_blame(words: str, names: list[str], guilty: list[str]) -> None:
    assert list(blame(words, names)) == guilty


def test_only_lists_are_partial() -> None:
    assert is_partial(LDS + "l: bad")
    assert not is_partial("Proto constraint validation failed")


def test_a_name_is_a_whole_word() -> None:
    assert mentioned("lds_ingress_0.0.0.0_15000 is bad", ("lds_ingress_0.0.0.0_1500",)) == ()
    assert mentioned("lds_ingress_0.0.0.0_15000 is bad", ("lds_ingress_0.0.0.0_15000", "")) == (
        "lds_ingress_0.0.0.0_15000",
    )
