"""Which resources of a response a NACK's words are about. Pure text; knows Envoy's formats and nothing else.

Envoy answers a response with one error text for all its resources. Listener and cluster discovery apply each resource
by itself and list the bad ones: "Error adding/updating listener(s) NAME: why" (one a line), "Error adding/updating
cluster(s) NAME: why, NAME: why". All other errors stop at the first bad resource: those behind it, or all, were not
applied, and at best the text mentions the bad one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LISTED = re.compile(r"Error adding/updating (?:listener|cluster)\(s\) ")
# What a resource's name is made of: a name counts as mentioned where it stands between other characters than these.
_WORD = r"[A-Za-z0-9_.\-/]"


def is_partial(words: str) -> bool:
    """Whether the resources that are not to blame were applied."""
    return _LISTED.match(words) is not None


def blame(words: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that are to blame; all of them when the words single out none."""
    everyone = tuple(names)
    return _listed(words, everyone) or mentioned(words, everyone) or everyone


def mentioned(words: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that stand in the text as whole words; a full stop that ends a sentence does not belong to
    one."""
    return tuple(
        name
        for name in names
        if name and name in words and re.search(rf"(?<!{_WORD}){re.escape(name)}(?!\.*[A-Za-z0-9_\-/])", words)
    )


def _listed(words: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those that an entry of a list begins with: its reason may well mention others, which are not to blame."""
    entries = _LISTED.sub("", words)
    return tuple(
        name for name in names if f"{name}: " in entries and re.search(rf"(?:^|\n|, ){re.escape(name)}: ", entries)
    )
