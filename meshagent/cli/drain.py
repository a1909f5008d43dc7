"""`meshctl drain` and `undrain`: taking hosts and proxies out of rotation, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from meshagent.cli.client import Client, ServerRefused, connected
from meshagent.cli.context import server_options
from meshagent.cli.rendering import count, output_option, show
from meshagent.errors import MeshagentError

LOOK_SECONDS = 0.5
WAIT_SECONDS = 120


class NotDrained(MeshagentError):
    """What was waited for did not come."""


@click.command(short_help="Take a host or a proxy out of rotation.")
@click.argument("name", metavar="HOST|PROXY")
@click.option("--wait", is_flag=True, help="Until all of its callers know, and what was in flight has ended.")
@click.option(
    "--timeout", type=click.IntRange(1, 3600), default=WAIT_SECONDS, show_default=True, help="Wait for so many seconds."
)
@output_option
@server_options
def drain(name: str, wait: bool, timeout: int, output: str) -> None:
    """Take a HOST with all of its proxies, or one PROXY, out of rotation: other proxies send it no new requests.

    Its Envoys go on, and so do the calls of its applications. `meshctl undrain` brings it back at once."""
    client = connected()
    answer = _ask(client, name, "/v1/drain")
    try:
        _warn(client, answer["proxies"])
        if wait:
            _wait(client, answer["proxies"], timeout)
    except KeyboardInterrupt:
        raise NotDrained(
            f"not waited for any longer; {name} drains all the same, and `meshctl undrain {name}` brings it back"
        ) from None
    words = "is drained" if wait else "drains"
    show(
        answer,
        output,
        lambda screen: screen.line(f"{name} {words}: {count(len(answer['proxies']), 'proxy', 'proxies')}"),
    )


@click.command(short_help="Bring a drained host or proxy back.")
@click.argument("name", metavar="HOST|PROXY")
@output_option
@server_options
def undrain(name: str, output: str) -> None:
    """Bring a drained HOST or PROXY back into rotation, at once."""
    answer = _ask(connected(), name, "/v1/undrain")
    show(
        answer,
        output,
        lambda screen: screen.line(f"{name} is back: {count(len(answer['proxies']), 'proxy', 'proxies')}"),
    )


def _ask(client: Client, name: str, path: str) -> Any:
    """NAME is a host's where there is such a host."""
    try:
        return client.request("POST", path, {"host": name})
    except ServerRefused as error:
        if error.status != 404:
            raise
    try:
        return client.request("POST", path, {"proxy": name})
    except ServerRefused as error:
        if error.status != 404:
            raise
        raise NotDrained(
            f"there is no host and no proxy {name!r}: `meshctl hosts` and `meshctl status` name them"
        ) from error


def _warn(client: Client, drained: Sequence[str]) -> None:
    """Of nodes that have too few endpoints left for the others to be spared."""
    nodes: dict[str, list[bool]] = {}
    touched = set()
    try:
        endpoints = client.request("GET", "/v1/endpoints")["endpoints"]
    except MeshagentError:
        return  # it drains all the same
    for endpoint in endpoints:
        out = endpoint["proxy"] in drained
        nodes.setdefault(endpoint["node"], []).append(endpoint["health"] == "healthy" and not out)
        touched |= {endpoint["node"]} if out else set()
    for node in sorted(touched):
        serving = sum(nodes[node])
        if 2 * serving < len(nodes[node]):
            click.echo(
                f"warning: {node}: {serving} of {count(len(nodes[node]), 'endpoint')} left in rotation: with less than half of them, Envoy "
                "sends requests to all, drained ones too",
                err=True,
            )


def _wait(client: Client, proxies: Sequence[str], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
    deadline = clock() + seconds
    while left := [line for proxy in _proxies(client, proxies) if (line := _left(proxy))]:
        if clock() >= deadline:
            raise NotDrained("not drained yet:\n" + "\n".join(f"  {line}" for line in left))
        time.sleep(LOOK_SECONDS)


def _proxies(client: Client, wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    return [proxy for proxy in client.request("GET", "/v1/status")["proxies"] if proxy["proxy"] in wanted]


def _left(proxy: Mapping[str, Any]) -> str:
    """What keeps a proxy from being drained, in words; "" when nothing does."""
    if proxy["drain"] == "drained":
        return ""
    name = f"{proxy['proxy']} ({proxy['resource']} on {proxy['host']})"
    if not proxy["connected"]:
        return f"{name}: its agent is away"
    return f"{name}: {proxy['healthDetail'] or 'its agent has not said that it heard'}"
