"""The host's own commands: what is asked of the agent of this host, as root, with no server in reach."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from meshagent.cli.local import ask, config_option
from meshagent.cli.rendering import Screen, output_option, show, span


@click.command(short_help="Show how this host and its proxies do.")
@config_option
@output_option
def status(config: Path, output: str) -> None:
    """Show this host's connection to its servers, and of every proxy: its Envoy, its application's health, its configuration."""
    answer = ask(socket_of(config), "/status")
    show(answer, output, lambda screen: _status(screen, answer, time.time()))


def socket_of(config: Path) -> Path:
    """The agent's socket, as its configuration says."""
    from meshagent.agent.configuration import load
    from meshagent.agent.local import SOCKET

    return load(config).runtime_directory / SOCKET


def _status(screen: Screen, answer: Mapping[str, Any], now: float) -> None:
    proxies: Sequence[Mapping[str, Any]] = answer["proxies"]
    screen.line(
        f"{answer['host']}: agent {answer['agentVersion']} for {_uptime(answer['agentUptime'])}, {_server(answer, now)}"
    )
    if proxies:
        columns = ["proxy", "resource", "mode", "address", "health", "envoy", "config", "cert"]
        screen.table(columns, [_row(proxy) for proxy in proxies])
    else:
        screen.line(
            "no proxies: `placements` in the agent's configuration asks for some, and the join token must allow them"
        )
    for line in _notes(answer):
        screen.line("\n".join(line.rstrip().splitlines()))


def _uptime(text: str) -> str:
    return span(float(text.removesuffix("s")))


def _server(answer: Mapping[str, Any], now: float) -> str:
    if answer["server"]:
        return f"connected to {answer['server']}"
    if answer["staleSince"] is None:
        return "never connected to a server"
    return f"no server, stale since {span(max(now - answer['staleSince'], 0))}"


def _row(proxy: Mapping[str, Any]) -> list[str]:
    left = proxy["certificate"]["secondsLeft"]
    ports = ",".join(map(str, proxy["ports"]))
    return [
        proxy["id"],
        proxy["resource"].removeprefix("mesh/"),
        proxy["mode"],
        f"{proxy['address']}:{ports}" if ports else proxy["address"],
        proxy["endpointHealth"],
        f"{proxy['envoyVersion']} {proxy['envoyState']}".strip(),
        f"{proxy['sync']} {proxy['revision']}",
        ("expired" if left < 0 else span(left)) if proxy["certificate"]["expires"] else "",
    ]


def _notes(answer: Mapping[str, Any]) -> Iterator[str]:
    """What needs somebody's eye."""
    if not answer["server"] and answer["serverWords"]:
        yield f"server: {answer['serverWords']}"
    if answer["heldReason"]:
        yield f"held back: {answer['heldReason']}"
    if answer["hostCertificate"]["secondsLeft"] < 0:
        yield "the host's certificate has expired: no server takes its connection until it joins again"
    for problem in answer["problems"]:
        yield f"{problem['resource']}: {problem['words']}"
    for proxy in answer["proxies"]:
        for words in (proxy["endpointWords"], proxy["trafficWords"], proxy["upgradeFailure"], proxy["heldReason"]):
            if words:
                yield f"{proxy['id']}: {words}"
        for refused in proxy["refused"]:
            yield f"{proxy['id']}: Envoy refused {refused['name']}: {refused['words']}"
        if proxy["envoyRestartCount"]:
            yield f"{proxy['id']}: its Envoy restarted {proxy['envoyRestartCount']} times since the agent began"
