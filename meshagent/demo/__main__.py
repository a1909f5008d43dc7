"""`make demo`: brings up the mesh of documents/shop.yaml on loopback and shows, with real traffic, what a mesh is for.

Each check prints what it did and saw, and either passes or says why not; the last line counts them. `--keep` leaves all of it running.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from meshagent.demo import checks
from meshagent.demo.traffic import Oracle
from meshagent.demo.world import World
from meshagent.errors import MeshagentError

CERTIFICATE_LIFE = "40s"

CHECKS: tuple[tuple[str, Callable[[checks.Demo], Awaitable[None]]], ...] = (
    ("services reach each other through two Envoys, over mutual TLS, and TCP in plaintext", checks.two_envoys),
    ("traffic splits 90/10, and moves to 50/50 and 0/100 under load without a failed request", checks.weights),
    ("the server dies, an Envoy dies, and traffic goes on", checks.server_dies),
    ("certificates are rotated under load without a failed request", checks.rotation),
    ("a bad document is refused with its file, line and path, and nothing changes", checks.bad_document),
    ("what only Envoy can refuse shows in status in Envoy's own words, and traffic goes on", checks.envoy_refuses),
)

_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOUR else text


def say(text: str) -> None:
    print(f"  {text}", flush=True)


async def run(envoys: Path, keep: bool) -> int:
    started = time.monotonic()
    passed = failed = 0
    print(_paint("1", "meshagent demo: a server, four agents, five Envoys and five services on loopback"), flush=True)
    async with World(envoys, keep=keep, server_options=("--certificate-life", CERTIFICATE_LIFE)) as world:
        try:
            await world.up(say=say)
            async with Oracle() as oracle:
                demo = await checks.Demo.begin(world, oracle, say)
                for number, (title, check) in enumerate(CHECKS, 1):
                    print(_paint("1", f"{number}. {title}"), flush=True)
                    try:
                        await check(demo)
                    except (AssertionError, MeshagentError, OSError, LookupError, TimeoutError, ValueError) as error:
                        failed += 1
                        say(_paint("31", f"FAILED: {error or type(error).__name__}"))
                    else:
                        passed += 1
                        say(_paint("32", "passed"))
                print(_paint("1", "All requests of this demo"), flush=True)
                say(oracle.report().replace("\n", "\n  "))
        except MeshagentError as error:
            failed += 1
            say(_paint("31", f"FAILED to come up: {error}"))
        if keep:
            _say_what_next(world)
        elif failed:
            kept = Path(f"{world.directory}-logs")
            shutil.copytree(world.directory / "logs", kept)
            say(f"logs: {kept}")
    if not keep:
        shutil.rmtree(world.directory, ignore_errors=True)
    print(f"  {time.monotonic() - started:.0f} s\ndemo: {passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def _say_what_next(world: World) -> None:
    exports = "\n".join(f"    export {name}={value}" for name, value in world.environment.items())
    print(f"""
The mesh is still running, in {world.directory}. Try:
{exports}
    .venv/bin/meshctl status
    .venv/bin/meshctl get
    .venv/bin/meshctl endpoints
    .venv/bin/meshctl diff meshagent/demo/documents/split-50-50.yaml
    cat {world.placement("web")}/hosts
    curl -s http://{world.service_address("web", "catalog.shop.internal")}:8080/
End it with:
    kill {" ".join(str(p.pid) for p in (world.server, *world.agents.values(), *world.services.values()))}
    for host in {" ".join(world.agents)}; do .venv/bin/meshagent agent --config {world.directory}/$host.yaml --stop-proxies; done
""")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m meshagent.demo", description=__doc__)
    parser.add_argument(
        "--envoys", type=Path, required=True, help="directory of Envoy versions: DIRECTORY/VERSION/envoy"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the mesh running at the end, and say what to try next"
    )
    arguments = parser.parse_args()

    async def interruptible() -> int:
        task = asyncio.ensure_future(run(arguments.envoys, arguments.keep))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        sys.exit(asyncio.run(interruptible()))
    except asyncio.CancelledError:
        sys.exit("demo: interrupted; everything it started was stopped")


if __name__ == "__main__":
    main()
