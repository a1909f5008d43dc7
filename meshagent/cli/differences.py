"""How a dry run's answer is shown: unified diffs of YAML, what is the same for many proxies once."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshagent.cli.rendering import Screen, as_yaml, count

SHORT_LINES = 40
SHORT_PROXIES = 3

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def of_resources(screen: Screen, changes: Iterable[Mapping[str, Any]]) -> None:
    for change in changes:
        if change["change"] != "none":
            screen.line(f"{change['change']} {change['resource']}", "bold")
            _lines(screen, unified(change["before"], change["after"]), None)


def of_proxies(screen: Screen, changes: Sequence[Mapping[str, Any]], full: bool) -> None:
    """First what changes in which proxy, by numbers; then every change of a resource once, with the proxies that have it."""
    by_proxy: dict[str, list[Mapping[str, Any]]] = {}
    by_change: dict[str, list[Mapping[str, Any]]] = {}
    for change in changes:
        by_proxy.setdefault(change["proxy"], []).append(change)
        same = [change[field] for field in ("type", "name", "change", "before", "after")]
        by_change.setdefault(json.dumps(same, sort_keys=True), []).append(change)
    for proxy, own in by_proxy.items():
        screen.line(f"proxy {proxy} of {own[0]['resource']} on {own[0]['host']}: {_counted(own)}", "bold")
    for group in by_change.values():
        first = group[0]
        screen.line()
        screen.line(f"{first['change']} {first['type']} {first['name']} in {_named(group, full)}", "bold")
        if full or first["change"] == "changed":
            _lines(screen, unified(first["before"], first["after"]), None if full else SHORT_LINES)
    if changes:
        screen.line()


def unified(before: Any, after: Any) -> list[str]:
    """The lines of a unified diff, without its file names; all of one side where there is no other."""
    old, new = (as_yaml(value).splitlines() if value is not None else [] for value in (before, after))
    return list(difflib.unified_diff(old, new, lineterm="", n=3))[2:]


def _lines(screen: Screen, lines: Sequence[str], limit: int | None) -> None:
    shown = lines if limit is None or len(lines) <= limit else lines[:limit]
    for line in shown:
        screen.line(f"  {line}", _COLOURS.get(line[:1], ""))
    if len(shown) < len(lines):
        screen.line(f"  ... {count(len(lines) - len(shown), 'more line')}: --full shows them")


def _counted(changes: Iterable[Mapping[str, Any]]) -> str:
    counted = Counter((change["type"], change["change"]) for change in changes)
    return ", ".join(f"{number} {kind} {change}" for (kind, change), number in sorted(counted.items()))


def _named(group: Sequence[Mapping[str, Any]], full: bool) -> str:
    proxies = [change["proxy"] for change in group]
    shown = proxies if full else proxies[:SHORT_PROXIES]
    more = f" and {len(proxies) - len(shown)} more" if len(shown) < len(proxies) else ""
    return f"{', '.join(shown)}{more}"
