"""`meshctl envoy`: which version of Envoy the fleet runs, rolled out host by host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from meshagent.cli.client import connected
from meshagent.cli.context import server_options
from meshagent.cli.rendering import Screen, count, output_option, show


@click.group(short_help="Choose Envoy's version for hosts, and roll it out.")
@server_options
def envoy() -> None:
    """Envoy's version: for a host, for the hosts that a selector picks, or for all; the most specific goes.

    A version rolls out host by host: the next begins when all proxies of the last one are live on it, and as healthy as before. The first
    failure stops it; the proxies of the host that failed go on with the Envoy that they had."""


def _scoped(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--all", "everything", is_flag=True, help="All hosts that nothing more specific is said of."),
        click.option(
            "--selector", "-l", metavar="SELECTOR", help="The hosts with these labels: zone=eu-west-1a,role=web."
        ),
        click.option("--host", metavar="NAME", help="This host."),
    ):
        command = option(command)
    return command


def _scope(host: str | None, selector: str | None, everything: bool, required: bool = True) -> dict[str, Any]:
    given = {key: value for key, value in (("host", host), ("selector", selector), ("all", everything)) if value}
    if len(given) > 1 or (required and not given):
        raise click.UsageError("give one of --host, --selector and --all")
    return given


@envoy.command(short_help="Name a version that this release has not pinned.")
@click.argument("version")
@click.option("--sha256", required=True, metavar="HEX", help="The SHA-256 of the file: hosts use nothing else.")
@click.option(
    "--url",
    default="",
    metavar="URL",
    help="Where hosts get it. Without it, only hosts that have it installed can use it.",
)
@output_option
@server_options
def install(version: str, sha256: str, url: str, output: str) -> None:
    """Name a VERSION of Envoy for the fleet. Nothing runs it before `meshctl envoy use`; hosts fetch it when they are told to."""
    answer = connected().request("POST", "/v1/envoy/releases", {"version": version, "url": url, "sha256": sha256})
    show(answer, output, lambda screen: screen.line(f"Envoy {version} can be used"))


@envoy.command(short_help="Forget a version that was named.")
@click.argument("version")
@output_option
@server_options
def forget(version: str, output: str) -> None:
    """Forget a VERSION that was named by `meshctl envoy install`. Hosts that run it go on with it."""
    answer = connected().request("DELETE", f"/v1/envoy/releases/{quote(version, safe='')}")
    show(answer, output, lambda screen: screen.line(f"Envoy {version} is forgotten"))


@envoy.command(short_help="Roll a version out.")
@click.argument("version")
@_scoped
@click.option("--at-once", type=click.IntRange(1, 1000), default=1, show_default=True, help="So many hosts at a time.")
@output_option
@server_options
def use(version: str, host: str | None, selector: str | None, everything: bool, at_once: int, output: str) -> None:
    """Let hosts run VERSION, one after the other; `own` for what their own configuration says.

    What ran before is the way back: `meshctl envoy abort`, or `use` of the old version."""
    body = {"version": version, "atOnce": at_once, **_scope(host, selector, everything)}
    answer = connected().request("POST", "/v1/envoy/use", body)
    show(answer, output, lambda screen: screen.line(_policy_line(answer)))


@envoy.command(short_help="Take away what was said of a host or a selector.")
@_scoped
@output_option
@server_options
def unset(host: str | None, selector: str | None, everything: bool, output: str) -> None:
    """Take away a version that was set: what is less specific goes then, in the end the hosts' own configuration."""
    scope = _scope(host, selector, everything)
    answer = connected().request("POST", "/v1/envoy/unset", scope)
    show(answer, output, lambda screen: screen.line(f"no version is set for {_scope_words(scope)} any more"))


@envoy.command(short_help="Go on with a rollout that stopped.")
@_scoped
@output_option
@server_options
def resume(host: str | None, selector: str | None, everything: bool, output: str) -> None:
    """Go on with a rollout that has stopped: the host that failed tries again."""
    answer = connected().request("POST", "/v1/envoy/resume", _scope(host, selector, everything, required=False))
    show(answer, output, lambda screen: screen.line(_policy_line(answer)))


@envoy.command(short_help="Take a rollout back.")
@_scoped
@output_option
@server_options
def abort(host: str | None, selector: str | None, everything: bool, output: str) -> None:
    """Take a rollout that is under way back: hosts that run the new version return to the one before, host by host."""
    answer = connected().request("POST", "/v1/envoy/abort", _scope(host, selector, everything, required=False))
    show(answer, output, lambda screen: screen.line(_policy_line(answer)))


@envoy.command("list", short_help="Show versions, rollouts, and what every host runs.")
@output_option
@server_options
def list_(output: str) -> None:
    """Show the versions that can be used, what was said of whom and how far that is, and what every host runs."""
    answer = connected().request("GET", "/v1/envoy")
    show(answer, output, lambda screen: _list(screen, answer))


def _list(screen: Screen, answer: Mapping[str, Any]) -> None:
    screen.line("versions: " + ", ".join(one["version"] for one in answer["releases"]))
    for policy in answer["policies"]:
        screen.line(_policy_line(policy), "bold red" if policy["state"] == "stopped" else "")
    hosts: Sequence[Mapping[str, Any]] = answer["hosts"]
    rows = [
        [
            one["host"],
            one["wanted"],
            ", ".join(one["running"]) or "none",
            one["state"] if one["connected"] else f"away, {one['state']}",
            _scope_words(one["policy"]) if one["policy"] else "its own configuration",
            one["words"],
        ]
        for one in hosts
    ]
    screen.table(["host", "wanted", "runs", "state", "by", ""], rows)


def _policy_line(policy: Mapping[str, Any]) -> str:
    where = f"Envoy {policy['version']} for {_scope_words(policy['scope'])}"
    progress = f"{policy['done']} of {count(policy['hosts'], 'host')} done"
    match policy["state"]:
        case "stopped":
            return f"{where} has stopped, {progress}: {policy['stopped']}"
        case "rolling":
            return f"{where}: {progress}, {policy['atOnce']} at once"
    return f"{where}: {progress}"


def _scope_words(scope: Mapping[str, Any]) -> str:
    if "host" in scope:
        return f"host {scope['host']}"
    return f"selector {scope['selector']}" if "selector" in scope else "all hosts"
