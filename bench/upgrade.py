"""Envoy's version changed and changed back on two real hosts under load. Needs root, and what `make test` needs for hosts: it makes a lab
of its own."""

from __future__ import annotations

import sys

from bench.figures import Figure
from meshagent.demo import upgrade, wrk
from meshagent.demo.hosts import HostMesh
from meshagent.demo.hosts import why_not as no_deployment
from meshagent.lab import Lab, machine


def why_not() -> str | None:
    """Installs what is missing, where it may."""
    if (reason := machine.why_not()) is None:
        machine.install_programs(say)
    return reason or wrk.why_not() or no_deployment()


def measure() -> list[Figure]:
    with Lab.of_process(hosts=4) as lab:
        mesh = HostMesh(lab)
        say("deploying")
        mesh.deploy()
        mesh.in_sync()
        return figures(upgrade.change_and_back(mesh, say))


def figures(outcome: upgrade.Outcome) -> list[Figure]:
    for words in outcome.failures:
        say(words)
    what = f"Envoy {upgrade.OLD}, {upgrade.NEW} and back"
    found = [
        Figure(f"{what}: requests", outcome.requests, ""),
        Figure(f"{what}: rate", outcome.rate, "/s", f"at least {upgrade.RATE:,.0f} /s", outcome.rate >= upgrade.RATE),
    ]
    for load in outcome.loads:
        name = f"{what}: {load.name}"
        found += [
            Figure(f"{name}: requests", load.requests, ""),
            Figure(f"{name}: failed", load.failed, "", "0", not load.failed),
            Figure(f"{name}: 99th percentile", load.p99 * 1000, "ms"),
            Figure(f"{name}: longest", load.longest * 1000, "ms"),
        ]
    calls = outcome.calls
    found += [
        Figure(f"{what}: {calls.name}", calls.ok, ""),
        Figure(f"{what}: {calls.name}: failed", calls.failed, "", "0", not calls.failed),
    ]
    for load, handovers in outcome.long:
        name = f"{what}: held to {load.name}"
        told = sum(bool(each.cut) for each in handovers)
        found.append(Figure(f"{name}: cut", load.failed, "times", f"{len(handovers)}", load.failed == len(handovers)))
        found.append(
            Figure(
                f"{name}: drains that cut, by the agent's count", told, "", f"{len(handovers)}", told == len(handovers)
            )
        )
        lived, odd = upgrade.drained_for(load, handovers)
        for words in odd:
            say(words)
        found.append(Figure(f"{name}: broke otherwise, or outlived a drain", len(odd), "", "0", not odd))
        for word, seconds in (("first", min(lived, default=0.0)), ("last", max(lived, default=0.0))):
            reached = upgrade.DRAIN <= seconds <= upgrade.DRAIN + upgrade.END
            goal = f"{upgrade.DRAIN:g} to {upgrade.DRAIN + upgrade.END:g} s"
            found.append(Figure(f"{name}: cut after a drain began, {word}", seconds, "s", goal, reached))
    return found


def say(words: str) -> None:
    print(f"upgrade: {words}", file=sys.stderr)
