"""A real `meshagent server` as a process, and the smallest agent that can talk to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from meshagent.cli.client import Client
from meshagent.identity import x509
from meshagent.protocol import host_pb2
from meshagent.protos import core
from meshagent.xds.intake import Intake
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import Snapshot
from meshagent.xds.upstream import Settle, follow

READY_SECONDS = 30.0
WORD_SECONDS = 15.0
KEEP_SECONDS = 0.5


class Server:
    """Its ports are chosen at the first start and kept over restarts."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory, self.options = directory, options
        self.log = directory.parent / f"{directory.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._addresses = ("127.0.0.1:0", "127.0.0.1:0")

    def start(self) -> None:
        api, xds = self._addresses
        argv = [
            sys.executable, "-m", "meshagent.cli.meshagent", "server", "--data-dir", str(self.directory),
            "--api-address", api, "--xds-address", xds, "--dns-server", "127.0.0.1:9", *self.options,
        ]  # fmt: skip
        with self.log.open("a") as log:
            self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", f"{line!r}: {self.log.read_text()}"
        found = json.loads((self.directory / "admin" / "addresses.json").read_text())
        self._addresses = (found["api"], found["xds"])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(READY_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    @property
    def api(self) -> str:
        return self._addresses[0]

    @property
    def xds(self) -> str:
        return self._addresses[1]

    @property
    def client(self) -> Client:
        admin = self.directory / "admin"
        return Client(f"https://{self.api}", admin / "ca.pem", admin / "access-key.json")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.client.request(method, path, body)

    def status(self) -> Any:
        return self.call("GET", "/v1/status")

    def apply(self, documents: Sequence[Any], dry_run: bool = False) -> Any:
        return self.call("POST", "/v1/apply", {"documents": list(documents), "dryRun": dry_run})

    def join(self, host: str, key: bytes, token: str) -> dict[str, Any]:
        """As a host does it: the bundle unsigned, then the token over verified TLS."""
        context = ssl.create_default_context(cadata=self._unsigned("GET", "/v1/bundle", None, _anybody())["bundle"])
        body = {"token": token, "host": host, "csr": x509.new_request(key).decode()}
        return self._unsigned("POST", "/v1/join", body, context)

    def _unsigned(self, method: str, path: str, body: Any, context: ssl.SSLContext) -> dict[str, Any]:
        name, _, port = self.api.partition(":")
        connection = http.client.HTTPSConnection(name, int(port), timeout=10, context=context)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise PermissionError(answer["message"])
        return answer

    def agent(self, host: str, *resources: str, address: str = "127.0.0.9", allow: Sequence[str] = ()) -> Agent:
        """A host that joined with a token for these resources (or `allow`)."""
        token = self.call("POST", "/v1/tokens", {"placements": list(allow or resources), "lifeSeconds": 600})["token"]
        key = x509.new_key()
        answer = self.join(host, key, token)
        return Agent(self, host, resources, address, key, answer["chain"].encode(), answer["bundle"].encode(), token)


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Agent:
    """What it holds of each proxy survives its connections: `snapshots`."""

    server: Server
    host: str
    resources: tuple[str, ...]
    address: str
    key: bytes
    chain: bytes
    bundle: bytes
    token: str = ""
    held: host_pb2.Stamp = field(default_factory=host_pb2.Stamp)
    labels: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    offered: list[Snapshot] = field(default_factory=list)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        credentials = grpc.ssl_channel_credentials(self.bundle, self.key, self.chain)
        options = [("grpc.ssl_target_name_override", "server.mesh.local")]
        async with grpc.aio.secure_channel(self.server.xds, credentials, options=options) as channel:
            yield channel

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Conversation]:
        async with self.channel() as channel:
            call: Any = channel.stream_stream(
                "/meshagent.host.v1.HostService/Watch",
                request_serializer=host_pb2.Observed.SerializeToString,
                response_deserializer=host_pb2.Desired.FromString,
            )()
            talk = Conversation(call)
            keeping = None
            try:
                await talk.say(host_pb2.Observed(hello=self.hello(), held=self.held))
                keeping = asyncio.create_task(talk.keep())
                yield talk
            finally:
                if keeping is not None:
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                call.cancel()

    def hello(self) -> host_pb2.Hello:
        wanted = [host_pb2.WantedPlacement(resource=resource, mode="bind") for resource in self.resources]
        return host_pb2.Hello(
            protocol=1,
            agent_version="0.1.0",
            boot_id="boot",
            address=self.address,
            placements=wanted,
            held=self.held,
            labels=self.labels,
        )

    async def sign(self, placement: str) -> host_pb2.SignResponse:
        async with self.channel() as channel:
            call: Any = channel.unary_unary(
                "/meshagent.host.v1.HostService/Sign",
                request_serializer=host_pb2.SignRequest.SerializeToString,
                response_deserializer=host_pb2.SignResponse.FromString,
            )
            request = host_pb2.SignRequest(csr=x509.new_request(x509.new_key()), placement=placement)
            answer: host_pb2.SignResponse = await call(request, timeout=WORD_SECONDS)
            return answer

    @asynccontextmanager
    async def ads(
        self, placement: str, rejections: Sequence[Rejection] = (), hold: bool = False
    ) -> AsyncIterator[Taken]:
        """Takes every candidate at once, but for `rejections`; with `hold`, when it is told to settle."""
        intake = Intake(self.snapshots.get(placement))
        taken = Taken()

        def take(candidate: Snapshot, settle: Settle) -> None:
            taken.settle = partial(settle, rejections)
            if not hold:
                taken.settle()
            self.snapshots[placement] = candidate
            self.offered.append(candidate)
            taken.put_nowait(candidate)

        held = intake.held.stamp
        node = core.Node(id=placement, user_agent_name="meshagent")
        node.metadata.update({"lineage": held.lineage, "revision": str(held.revision)})
        async with self.channel() as channel:
            task = asyncio.create_task(follow(channel, node, intake, take))
            try:
                yield taken
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class Taken(asyncio.Queue[Snapshot]):
    """The candidates that came. `settle` answers the last of them."""

    settle: Callable[[], object]


class Conversation:
    def __init__(self, call: Any) -> None:
        self._call = call
        self.silent = False
        self._said = host_pb2.Observed()
        self._turn = asyncio.Lock()

    async def say(self, observed: host_pb2.Observed) -> None:
        async with asyncio.timeout(WORD_SECONDS), self._turn:
            await self._call.write(observed)
            self._said.CopyFrom(observed)
            self._said.ClearField("hello")

    async def keep(self) -> None:
        """Says the same again and again: on a slow machine a test is silent for longer than a server bears, which ends the stream and
        loses the word that is just on its way."""
        while not self.silent:
            await asyncio.sleep(KEEP_SECONDS)
            if not self.silent:
                await self.say(self._said)

    async def hear(self) -> host_pb2.Desired:
        """The next Desired; ConnectionError with the server's words when it ended the stream."""
        async with asyncio.timeout(WORD_SECONDS):
            return await self.hear_whenever()

    async def hear_whenever(self) -> host_pb2.Desired:
        """As `hear`, however long it takes."""
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"{error.code().name}: {error.details()}") from error
        if answer is grpc.aio.EOF:
            raise ConnectionError(f"{(await self._call.code()).name}: {await self._call.details()}")
        assert isinstance(answer, host_pb2.Desired)
        return answer


async def eventually(what: str, condition: Any, seconds: float = 15.0) -> Any:
    """Polls a blocking condition off the loop until it is true."""
    deadline = time.monotonic() + seconds
    while not (found := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)
    return found


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777
