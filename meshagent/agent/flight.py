"""What Envoy is serving at a moment, from the gauges of its /stats. Pure.

Requests are gauges of their listeners. Envoy has none for the connections of a TCP listener, but one for those of the cluster that they go
on to, of which each has its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_HTTP = r"http\.(ingress|egress)\.(?:.+\.)?downstream_(rq|cx)_active"
_TCP = r"cluster\.cds_(ingress|egress)_.+_(?:tcp_\d+|mesh-allow-all)\.upstream_cx_active"
_NUMBER = "([0-9]{1,15})"
PAGE = "/stats?filter=" + quote(f"^{_HTTP}$|^{_TCP}$")
_HTTP_GAUGE = re.compile(rf"^{_HTTP}: {_NUMBER}$", re.MULTILINE)
_TCP_GAUGE = re.compile(rf"^{_TCP}: {_NUMBER}$", re.MULTILINE)


@dataclass(frozen=True)
class Flight:
    """Requests and TCP connections that Envoy is serving; and the connections that carry requests or wait for some, with the TCP ones."""

    active: int
    connections: int


def flight_of(stats: str, direction: str = "ingress") -> Flight:
    """What came in from others, or what goes out for this host's applications (egress)."""
    http = {"rq": 0, "cx": 0}
    for way, what, number in _HTTP_GAUGE.findall(stats):
        http[what] += int(number) if way == direction else 0
    tcp = sum(int(number) for way, number in _TCP_GAUGE.findall(stats) if way == direction)
    return Flight(http["rq"] + tcp, http["cx"] + tcp)


def cut_words(stats: str) -> str:
    """What is lost when this Envoy ends now, of this host's applications too; "" when nothing is."""
    ways = {"came in": flight_of(stats).active, "went out": flight_of(stats, "egress").active}
    said = [f"{number} call{'s' if number != 1 else ''} that {way}" for way, number in ways.items() if number]
    were = "was" if sum(ways.values()) == 1 else "were"
    return f"{' and '.join(said)} outlived the drain, and {were} cut" if said else ""
