"""One mesh on loopback: a server, agents with real Envoys, and the services behind them, each a process of its own, without root.

A world has a number, held by the name of a socket, which gives it addresses and slots that no other world on this machine uses: hosts are
127.0.(10+number).N, the applications behind them 127.1.(10+number).N, and the agents' slots start at 8 x number. Numbers start at 1: the
lowest slots are an agent's that was started by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from meshagent.demo.traffic import get, until
from meshagent.errors import MeshagentError

WORLDS = 7
SLOTS_EACH = 8
DOCUMENTS = Path(str(resources.files("meshagent.demo"))) / "documents"


class WorldError(MeshagentError):
    """A part of the world did not come up; the message ends with what it logged last."""


@dataclass(frozen=True)
class Service:
    """One instance of an application, and the virtual node it stands behind (by default of the same name).

    `kind` is one of demo.services."""

    name: str
    kind: str
    port: int
    probe: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""

    @property
    def resource(self) -> str:
        return f"mesh/shop/virtualNode/{self.node or self.name}"


@dataclass(frozen=True)
class Host:
    name: str
    services: tuple[Service, ...]


HTTP_PROBE = {"protocol": "http", "path": "/ping", "interval": "500ms", "timeout": "500ms"}
TCP_PROBE = {"interval": "500ms", "timeout": "500ms"}

SHOP = (
    Host("host-a", (Service("web", "http", 8080, HTTP_PROBE),)),
    Host("host-b", (Service("catalog-v1", "http", 8080, HTTP_PROBE),)),
    Host("host-c", (Service("catalog-v2", "http", 8080, HTTP_PROBE),)),
    Host("host-d", (Service("ledger", "tcp", 9000, TCP_PROBE), Service("quotes", "grpc", 9090, TCP_PROBE))),
)


class Process:
    """A child of ours, its output in a file. Started again under the same name after it was killed."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name, self.argv, self.log = name, tuple(argv), log
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    async def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and awaited."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `seconds`. A process that is stopped (SIGSTOP) is continued first."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), seconds)
            except TimeoutError:
                await self.kill()

    def tail(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class World:
    """`async with World(envoys) as world:` holds the number and directory; nothing runs until `up` or the single starts are called."""

    def __init__(
        self, envoys: Path, *, hosts: Sequence[Host] = SHOP, server_options: Sequence[str] = (), keep: bool = False
    ) -> None:
        self.envoys, self.hosts, self.keep = envoys.resolve(), tuple(hosts), keep
        self.server_options = list(server_options)
        self.agents: dict[str, Process] = {}
        self.services: dict[str, Process] = {}

    async def __aenter__(self) -> Self:
        self.number, self._lock = _take_number()
        self.directory = Path(tempfile.mkdtemp(prefix=f"mesh{self.number}-"))
        (self.directory / "logs").mkdir()
        self.server_data = self.directory / "server"
        self.api, self.xds = f"127.0.{10 + self.number}.250:8443", f"127.0.{10 + self.number}.250:8444"
        self.server = self._server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep:
            await asyncio.shield(self.down())
        self._lock.close()

    # --- where things are ---

    def index(self, host: str) -> int:
        return [h.name for h in self.hosts].index(host)

    def address(self, host: str) -> str:
        return f"127.0.{10 + self.number}.{self.index(host) + 1}"

    def _service(self, name: str) -> tuple[Host, Service]:
        return next((host, service) for host in self.hosts for service in host.services if service.name == name)

    def application(self, service: str) -> str:
        names = [s.name for h in self.hosts for s in h.services]
        return f"127.1.{10 + self.number}.{names.index(service) + 1}"

    def state(self, host: str) -> Path:
        return self.directory / host

    def placement(self, service: str) -> Path:
        """The directory of a service's proxy in its agent's state."""
        host, wanted = self._service(service)
        for path in (self.state(host.name) / "proxies").glob("*/generation.json"):
            if json.loads(path.read_text())["resource"] == wanted.resource:
                return path.parent
        raise LookupError(f"{service} has no proxy on {host.name} yet")

    def generation(self, service: str) -> dict[str, Any]:
        """What the agent wrote of the Envoy that runs for a service: pid, start time, sockets."""
        generation: dict[str, Any] = json.loads((self.placement(service) / "generation.json").read_text())
        return generation

    def service_address(self, caller: str, virtual_service: str) -> str:
        """The address by which `caller` calls a virtual service, from the hosts file that its agent wrote."""
        for line in (self.placement(caller) / "hosts").read_text().splitlines():
            address, *names = line.split("#")[0].split() or [""]
            if virtual_service in names:
                return address
        raise LookupError(f"{caller}'s hosts file does not name {virtual_service}")

    # --- starting and stopping ---

    def _server(self) -> Process:
        argv = [
            _command("meshagent"),
            "server",
            "--data-dir",
            str(self.server_data),
            "--api-address",
            self.api,
            "--xds-address",
            self.xds,
        ]
        return Process("server", [*argv, *self.server_options], self.directory / "logs" / "server.log")

    async def start_server(self, seconds: float = 30.0) -> None:
        start = self.server.log.stat().st_size if self.server.log.exists() else 0
        await self.server.start()

        async def ready() -> bool:
            if not self.server.running:
                raise WorldError(f"the server ended:\n{self.server.tail()}")
            return b"\nready\n" in b"\n" + self.server.log.read_bytes()[start:]

        await until("the server to say ready", ready, seconds)

    def replace_server(self, *, data: str) -> None:
        """The next start_server() begins from another data directory: a control plane that lost everything."""
        self.server_data = self.directory / data
        self.server = self._server()

    async def meshctl(self, *arguments: str, check: bool = True) -> tuple[int, str, str]:
        """Runs the operator's command as a user would: (exit status, stdout, stderr)."""
        process = await asyncio.create_subprocess_exec(
            _command("meshctl"), *arguments,
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env={**os.environ, **self.environment},
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        if check and process.returncode:
            raise WorldError(
                f"meshctl {' '.join(arguments)} ended with {process.returncode}:\n{err.decode()}{out.decode()}"
            )
        return process.returncode or 0, out.decode(), err.decode()

    async def meshctl_json(self, *arguments: str) -> Any:
        return json.loads((await self.meshctl(*arguments, "--output", "json"))[1])

    @property
    def environment(self) -> dict[str, str]:
        """What lets meshctl reach this world's server."""
        admin = self.server_data / "admin"
        return {
            "MESHCTL_SERVER": f"https://{self.api}",
            "MESHCTL_CA": str(admin / "ca.pem"),
            "MESHCTL_ACCESS_KEY": str(admin / "access-key.json"),
        }

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One signed call of the operator's API, without a process for it."""
        from meshagent.cli.client import Client

        env = self.environment
        client = Client(env["MESHCTL_SERVER"], Path(env["MESHCTL_CA"]), Path(env["MESHCTL_ACCESS_KEY"]))
        return await asyncio.to_thread(client.request, method, path, body)

    async def proxies(self) -> dict[str, dict[str, Any]]:
        """The proxies in status, by service."""
        status = {(p["host"], p["resource"]): p for p in (await self.call("GET", "/v1/status"))["proxies"]}
        services = ((host.name, service) for host in self.hosts for service in host.services)
        return {s.name: status[host, s.resource] for host, s in services if (host, s.resource) in status}

    async def configure_agent(self, host: Host, *, token: str | None = None) -> Path:
        """Writes the agent's configuration, with a new join token unless one is given; returns its path."""
        placements = [s.resource for s in host.services]
        if token is None:
            token = (await self.call("POST", "/v1/tokens", {"placements": placements, "lifeSeconds": 600}))["token"]
        configuration = {
            "state_directory": str(self.state(host.name)),
            "runtime_directory": str(self.directory / f"{host.name}-run"),
            "join_token": token,
            "host": {
                "name": host.name,
                "address": self.address(host.name),
                "first_slot": SLOTS_EACH * self.number
                + sum(len(h.services) for h in self.hosts[: self.index(host.name)]),
            },
            "placements": [
                {
                    "resource": s.resource,
                    "mode": "bind",
                    "application": self.application(s.name),
                    **({"probe": dict(s.probe)} if s.probe else {}),
                }
                for s in host.services
            ],
            "envoy": {"version": "1.40.0", "directory": str(self.envoys), "concurrency": 1},
        }
        path = self.directory / f"{host.name}.yaml"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(configuration, sort_keys=False))
        self.agents[host.name] = Process(
            host.name,
            [_command("meshagent"), "agent", "--config", str(path)],
            self.directory / "logs" / f"{host.name}.log",
        )
        return path

    async def start_services(self) -> None:
        for host in self.hosts:
            for service in host.services:
                argv = [sys.executable, "-m", "meshagent.demo.services", service.kind]
                argv += [self.application(service.name), str(service.port), service.name]
                process = Process(service.name, argv, self.directory / "logs" / f"service-{service.name}.log")
                self.services[service.name] = process
                await process.start()

    async def up(
        self, documents: Path = DOCUMENTS / "shop.yaml", *, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Everything, until every proxy is live, in sync and healthy."""
        say("starting the server")
        await self.start_server()
        await self.meshctl("apply", str(documents))
        say(
            f"starting {sum(len(h.services) for h in self.hosts)} services and {len(self.hosts)} agents with their Envoys"
        )
        await self.start_services()
        for host in self.hosts:
            await self.configure_agent(host)
            await self.agents[host.name].start()
        await self.in_sync(60)

    async def in_sync(self, seconds: float = 30.0) -> dict[str, dict[str, Any]]:
        """Waits until every proxy is connected and live, its application a healthy endpoint, and all of them know it."""
        services = [s for h in self.hosts for s in h.services]

        async def settled() -> dict[str, dict[str, Any]] | None:
            for name, agent in self.agents.items():
                if not agent.running:
                    raise WorldError(f"{name} ended:\n{agent.tail()}")
            endpoints = (await self.call("GET", "/v1/endpoints"))["endpoints"]
            proxies = await self.proxies()
            healthy = {(e["host"], e["node"]) for e in endpoints if e["health"] == "healthy"}
            if missing := {(h.name, s.resource) for h in self.hosts for s in h.services} - healthy:
                raise LookupError(f"no healthy endpoints of {missing}")
            for service in services:
                proxy = proxies.get(service.name)
                if proxy is None or not proxy["connected"] or not proxy["synced"] or proxy["envoy"]["state"] != "LIVE":
                    raise LookupError(f"{service.name}: {proxy}")
                if proxy["health"] != "healthy":
                    raise LookupError(f"{service.name} is {proxy['health']}: {proxy.get('healthDetail')}")
            return proxies

        try:
            result: dict[str, dict[str, Any]] = await until(
                "every proxy to be live, in sync and healthy", settled, seconds, every=0.25
            )
        except TimeoutError as error:
            logs = "\n".join(f"--- {p.name}\n{p.tail(6)}" for p in (self.server, *self.agents.values()))
            raise WorldError(f"{error}\n{logs}") from error
        return result

    async def answers(self, address: str, port: int, host: str = "", seconds: float = 20.0) -> None:
        """Waits until one request to a service's address comes back whole."""

        async def answered() -> bool:
            status, body = await get(address, port, host=host)
            if status != 200:
                raise LookupError(f"{status} {body[:200]!r}")
            return True

        await until(f"{host or address}:{port} to answer", answered, seconds)

    async def down(self) -> None:
        """Agents, their Envoys, services and server, each ended and awaited. Idempotent."""
        await asyncio.gather(*(agent.stop() for agent in self.agents.values()))
        await asyncio.gather(*(self.stop_proxies(name) for name in self.agents))
        await asyncio.gather(*(service.stop() for service in self.services.values()), self.server.stop())

    async def stop_proxies(self, host: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *self.agents[host].argv, "--stop-proxies", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 40)
        if process.returncode is None:
            process.kill()


def _command(name: str) -> str:
    """The console script beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def _take_number() -> tuple[int, socket.socket]:
    """By a name of Linux' own, in no file system: all users have the same ones, each network its own as it has addresses, and it ends with
    its process."""
    for number in range(1, WORLDS + 1):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0meshagent-world-{number}")
        except OSError:
            lock.close()
        else:
            return number, lock
    raise WorldError(
        f"{WORLDS} worlds run on this machine already: end one (`ss -xa` shows them as @meshagent-world-N)"
    )
