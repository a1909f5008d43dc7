"""`meshctl status`, `hosts`, `endpoints` and `accept`: how the mesh is doing, and taking a control plane's word again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from meshagent.cli.client import connected, fault_line
from meshagent.cli.context import server_options
from meshagent.cli.facts import show_facts
from meshagent.cli.rendering import Screen, count, output_option, show, span

_CLONES_SHOWN = 3


@click.command(short_help="Show every proxy, and what Envoy refused.")
@output_option
@server_options
def status(output: str) -> None:
    """Show every proxy: connected, in sync, healthy, its Envoy and certificate, and what Envoy refused, in its own words."""
    answer = connected().request("GET", "/v1/status")
    show(answer, output, lambda screen: _status(screen, answer, time.time()))


@click.command()
@click.option("--facts", is_flag=True, help="What the hosts are: system, load, memory, disks, addresses, instance.")
@click.option("--selector", "-l", metavar="SELECTOR", help="Only those that it picks: zone=eu-west-1a,role=web.")
@output_option
@server_options
def hosts(facts: bool, selector: str | None, output: str) -> None:
    """List the hosts that have joined."""
    answer = connected().request("GET", "/v1/hosts", query={"selector": selector} if selector else None)
    table = show_facts if facts else _hosts
    show(answer, output, lambda screen: table(screen, answer["hosts"], time.time()))


@click.command()
@output_option
@server_options
def endpoints(output: str) -> None:
    """List where requests to virtual nodes go."""
    answer = connected().request("GET", "/v1/endpoints")
    rows = [
        [
            short(one["node"]),
            one["address"],
            ",".join(map(str, one["ports"])),
            one["health"],
            one["host"],
            _source(one),
        ]
        for one in answer["endpoints"]
    ]
    show(answer, output, lambda screen: screen.table(["node", "address", "ports", "health", "host", "by"], rows))


def _source(endpoint: Mapping[str, Any]) -> str:
    if endpoint.get("suspect"):
        return "ended lease"
    return "lease" if endpoint["leased"] else "discovery"


@click.command(short_help="Let hosts take a replaced control plane's word.")
@click.argument("host", required=False)
@click.option("--all", "everything", is_flag=True, help="Every host, by a new lineage.")
@output_option
@server_options
def accept(host: str | None, everything: bool, output: str) -> None:
    """Release a HOST, or all, that keeps its configuration because this control plane was replaced or rolled back.

    Look at `meshctl diff` and `meshctl get` first: what the server has now is what hosts will run."""
    if (host is None) == (not everything):
        raise click.UsageError("give either a HOST or --all")
    answer = connected().request("POST", "/v1/accept", {"all": True} if everything else {"host": host})
    who = "every host takes" if everything else f"{host} takes"
    show(
        answer,
        output,
        lambda screen: screen.line(f"{who} lineage {answer['lineage'][:8]}, revision {answer['revision']}"),
    )


def short(path: str) -> str:
    """A resource's path without the words that go without saying: mesh/shop/virtualNode/web is shop/web."""
    parts = path.split("/")
    match parts:
        case ["mesh", mesh, "virtualNode", name]:
            return f"{mesh}/{name}"
        case ["mesh", mesh, "virtualGateway", name]:
            return f"{mesh}/gateway/{name}"
    return path


def _status(screen: Screen, answer: Mapping[str, Any], now: float) -> None:
    proxies: Sequence[Mapping[str, Any]] = answer["proxies"]
    if answer["rolledBack"]:
        screen.line(f"Rolled back: {answer['rolledBack']}", "bold red")
    if answer.get("braking"):
        screen.line(
            "Too many leases ended together: their endpoints are kept, until they return or their placements are removed.",
            "bold yellow",
        )
    screen.line(f"lineage {answer['lineage'][:8]}, revision {answer['revision']}: {_counted(proxies)}")
    if proxies:
        columns = ["proxy", "resource", "host", "sync", "health", "envoy", "cert"]
        screen.table(columns, [_row(proxy, now) for proxy in proxies])
    _section(screen, "Refused by Envoy", _rejections(proxies))
    _section(screen, "Held back", _held(proxies, answer["hosts"]))
    _section(screen, "Unhealthy", _unhealthy(proxies))
    _section(
        screen,
        "Names and redirected connections",
        (f"{_name(proxy)}: {proxy['trafficDetail']}" for proxy in proxies if proxy.get("trafficDetail")),
    )
    _section(screen, "Another Envoy failed", _failed_upgrades(proxies))
    _section(screen, "Envoy does not run", _not_running(proxies))
    _section(screen, "Envoy restarted", _restarted(proxies))
    _section(
        screen, "Not compiled", (f"{_name(proxy)}: {proxy['failure']}" for proxy in proxies if proxy.get("failure"))
    )
    _section(screen, "Hosts", _host_lines(answer["hosts"], now))
    _section(screen, "Problems", map(fault_line, answer["problems"]))


def _counted(proxies: Sequence[Mapping[str, Any]]) -> str:
    if not proxies:
        return "no proxies yet"
    number = len(proxies)
    counts: dict[str, Callable[[Mapping[str, Any]], object]] = {
        "connected": lambda proxy: proxy["connected"],
        "in sync": lambda proxy: proxy["synced"] and not proxy["heldReason"],
        "with refused resources": lambda proxy: proxy["rejected"],
    }
    found = {word: sum(1 for proxy in proxies if test(proxy)) for word, test in counts.items()}
    return ", ".join(
        [count(number, "proxy", "proxies"), *(f"{n} {word}" for word, n in found.items() if n or "with" not in word)]
    )


def _row(proxy: Mapping[str, Any], now: float) -> list[str]:
    envoy, end = proxy["envoy"], proxy["certificate"]["expires"]
    return [
        proxy["proxy"],
        short(proxy["resource"]),
        proxy["host"],
        _sync(proxy),
        _health(proxy),
        f"{envoy['version']} {envoy['state']}".strip() or "unknown",
        _life(end, now),
    ]


def _health(proxy: Mapping[str, Any]) -> str:
    if proxy["health"] == "draining" and proxy.get("drain"):
        return str(proxy["drain"])
    return proxy["health"] or "unknown"


def _life(end: float, now: float) -> str:
    if not end:
        return ""
    return span(end - now) if end > now else "expired"


def _sync(proxy: Mapping[str, Any]) -> str:
    if not proxy["connected"]:
        return "away"
    if proxy["heldReason"]:
        return f"held {proxy['revision']}"
    if proxy["rejected"]:
        return f"refused {proxy['revision']}"
    return f"synced {proxy['revision']}" if proxy["synced"] else f"behind {proxy['revision']}"


def _name(proxy: Mapping[str, Any]) -> str:
    return f"{proxy['proxy']} ({short(proxy['resource'])} on {proxy['host']})"


def _rejections(proxies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for proxy in proxies:
        for refused in proxy["rejected"]:
            yield f"{_name(proxy)}: {refused['type']} {refused['name']}: {refused['words']}"


def _held(proxies: Sequence[Mapping[str, Any]], all_hosts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every reason once, with who keeps what it has for it: a rolled back store has one reason for a whole fleet. A host is named by its
    proxies where there are any."""
    keepers: dict[str, list[str]] = {}
    named: set[tuple[str, str]] = set()
    for proxy in proxies:
        if reason := proxy["heldReason"]:
            keepers.setdefault(reason, []).append(f"{_name(proxy)} keeps revision {proxy['revision']}")
            named.add((proxy["host"], reason))
    for host in all_hosts:
        if (reason := host.get("heldReason")) and (host["host"], reason) not in named:
            keepers.setdefault(reason, []).append(f"the agent of {host['host']} keeps what it is to run")
    for reason, who in keepers.items():
        yield reason
        yield from (f"  {one}" for one in who)


def _unhealthy(proxies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for proxy in proxies:
        if proxy["health"] == "unhealthy":
            yield f"{_name(proxy)}: {proxy['healthDetail'] or 'its application does not answer as it should'}"


def _failed_upgrades(proxies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for proxy in proxies:
        if words := proxy["envoy"].get("upgradeFailure"):
            envoy = proxy["envoy"]
            yield f"{_name(proxy)}: Envoy {envoy['wanted']}: {words}; {envoy['version']} serves on"


def _not_running(proxies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Those that never came up; of the others it is said that they are unhealthy, or ended."""
    for proxy in proxies:
        envoy = proxy["envoy"]
        if envoy["state"] == "STOPPED" and proxy["health"] != "unhealthy" and not envoy["restarts"]:
            yield f"{_name(proxy)}: {proxy['healthDetail'] or 'its agent has not said why'}"


def _restarted(proxies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for proxy in proxies:
        envoy = proxy["envoy"]
        if envoy["restarts"]:
            # An unhealthy one's words stand under that.
            words = proxy["healthDetail"] if envoy["state"] != "LIVE" and proxy["health"] != "unhealthy" else ""
            yield f"{_name(proxy)}: {count(envoy['restarts'], 'time')}" + (f": {words}" if words else "")


def _host_lines(all_hosts: Sequence[Mapping[str, Any]], now: float) -> Iterator[str]:
    """Only what needs an eye on it."""
    for host in all_hosts:
        if not host["connected"]:
            yield f"{host['host']} is away{_last_seen(host, now)}"
        if host.get("accept"):
            yield f"{host['host']}: accepted, and has not taken what it is offered yet"
        for problem in host.get("problems", ()):
            yield f"{host['host']}: {fault_line(problem)}"
        clones = host.get("clones", ())
        for clone in clones[:_CLONES_SHOWN]:
            where = f"at {clone['address']}{_last_seen(clone, now)}"
            yield (
                f"{host['host']}: another machine, {where}, has a copy of its identity and is kept out: "
                "give that one a name and a token of its own"
            )
        if len(clones) > _CLONES_SHOWN:
            yield f"{host['host']}: and {len(clones) - _CLONES_SHOWN} more machines with a copy of it"


def _last_seen(host: Mapping[str, Any], now: float) -> str:
    return f", last seen {span(max(now - host['lastSeen'], 0))} ago" if host.get("lastSeen") else ""


def _hosts(screen: Screen, all_hosts: Sequence[Mapping[str, Any]], now: float) -> None:
    rows = [
        [
            host["host"],
            host.get("address") or "",
            "\n".join(f"{key}={value}" for key, value in host.get("labels", {}).items()),
            ("connected" if host["connected"] else f"away{_last_seen(host, now)}")
            + (", drained" if host.get("drained") else ""),
            host.get("agentVersion") or "",
            "\n".join(host.get("envoyVersions", ())),
            "\n".join(host.get("placements", ())),
            "\n".join(map(short, host.get("allowed", ()))),
        ]
        for host in all_hosts
    ]
    screen.table(["host", "address", "labels", "agent", "version", "envoy", "proxies", "may run"], rows)


def _section(screen: Screen, title: str, lines: Iterable[str]) -> None:
    found = list(lines)
    if found:
        screen.line()
        screen.line(f"{title}:", "bold")
    for line in found:
        # Envoy's words may be several lines, and end with an empty one.
        screen.line("\n".join(f"  {part}" for part in line.rstrip().splitlines()))
