"""python -m bench [NAME ...] [--minutes N]: all benchmarks, or the named ones; progress on stderr, one table on stdout."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from bench import agent_host, agent_memory, route_change, upgrade
from bench.figures import Figure, table

NAMES = ("route-change", "agent-memory", "agent-host", "upgrade")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="how long agent-memory runs its load, and agent-host rests (default 10)",
    )
    parser.add_argument("--envoys", type=Path, default=Path(".cache/envoys"), help="directory of Envoy versions")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    names = arguments.names or NAMES
    figures: list[Figure] = []
    if "route-change" in names:
        figures += route_change.measure()
    if "agent-memory" in names:
        figures += asyncio.run(agent_memory.measure(arguments.envoys, arguments.minutes))
    if "agent-host" in names:
        reason = agent_host.why_not()
        if reason is None:
            figures += agent_host.measure(arguments.minutes)
        else:
            print(f"agent-host: left out: {reason}", file=sys.stderr)
    if "upgrade" in names:
        reason = upgrade.why_not()
        if reason is None:
            figures += upgrade.measure()
        else:
            print(f"upgrade: left out: {reason}", file=sys.stderr)
    print(table(figures))


if __name__ == "__main__":
    main()
