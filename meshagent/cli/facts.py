"""The facts of hosts as a table: what they are, and how full they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshagent.cli.rendering import Screen, span

_GIB = 1 << 30
COLUMNS = ("host", "system", "kernel", "cpus", "load", "memory free", "disk used", "addresses", "instance", "up")


def show_facts(screen: Screen, hosts: Sequence[Mapping[str, Any]], now: float) -> None:
    """`hosts` as /v1/hosts has them. One that has told none yet is a row with its name."""
    screen.table(COLUMNS, [_row(host["host"], host.get("facts"), now) for host in hosts])


def _row(host: str, facts: Mapping[str, Any] | None, now: float) -> list[str]:
    if not facts:
        return [host, "unknown", *[""] * (len(COLUMNS) - 2)]
    memory, instance = facts["memory"], facts["instance"]
    return [
        host,
        " ".join(filter(None, (facts["os"], facts["osVersion"], facts["arch"]))),
        facts["kernel"],
        str(facts["cpus"] or ""),
        f"{facts['load']:g}",
        f"{_gib(memory['availableBytes'])} of {_gib(memory['totalBytes'])} GiB" if memory["totalBytes"] else "",
        "\n".join(_disks(facts["disks"])),
        "\n".join(facts["addresses"]),
        "\n".join(filter(None, (instance["id"], instance["type"], instance["zone"] or instance["region"]))),
        span(max(now - facts["booted"], 0)) if facts["booted"] else "",
    ]


def _disks(disks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for disk in disks:
        yield f"{disk['path']} {disk['usedPercent']} %{', read-only' if disk['readOnly'] else ''}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
