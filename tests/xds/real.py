"""A real Envoy that gets its configuration from an AdsService over a unix socket, and the small resources to give
it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import json_format

from meshagent.envoy import protos as envoy
from meshagent.xds import wire
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.messages import Protocol
from meshagent.xds.server import AdsService
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot, Stamp
from meshagent.xds.stream import AdsStream

MESSAGES = {
    CLUSTER: envoy.cluster.Cluster,
    ENDPOINT: envoy.endpoint.ClusterLoadAssignment,
    LISTENER: envoy.listener.Listener,
    ROUTE: envoy.route.RouteConfiguration,
}
ADS = {"ads": {}, "resourceApiVersion": "V3", "initialFetchTimeout": "0s"}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
INTERNAL_LISTENERS = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
API_TYPES = {Protocol.DELTA: "DELTA_GRPC", Protocol.SOTW: "GRPC"}


def made(type_url: str, name: str, body: dict[str, Any]) -> Resource:
    message = json_format.ParseDict(body, MESSAGES[type_url]())
    return Resource.of(type_url, name, message.SerializeToString(deterministic=True))


def cluster(name: str, **more: Any) -> Resource:
    body = {"name": name, "type": "EDS", "connectTimeout": "1s", "edsClusterConfig": {"edsConfig": ADS}}
    return made(CLUSTER, name, body | more)


def address(port: int) -> dict[str, Any]:
    return {"socketAddress": {"address": "127.0.0.1", "portValue": port}}


def endpoints(name: str, *ports: int) -> Resource:
    lb = [{"endpoint": {"address": address(port)}} for port in ports]
    return made(ENDPOINT, name, {"clusterName": name, "endpoints": [{"lbEndpoints": lb}]})


def listener(name: str, port: int, route_name: str, **more: Any) -> Resource:
    hcm = {
        "@type": HCM,
        "statPrefix": name,
        "rds": {"configSource": ADS, "routeConfigName": route_name},
        "httpFilters": [{"name": "router", "typedConfig": {"@type": ROUTER}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": hcm}]}
    return made(LISTENER, name, {"name": name, "address": address(port), "filterChains": [chain]} | more)


def route(name: str, to: str, **more: Any) -> Resource:
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to}}]}
    return made(ROUTE, name, {"name": name, "virtualHosts": [host]} | more)


def snapshot(revision: int, *resources: Resource) -> Snapshot:
    return Snapshot.build(resources, Stamp("line", revision))


async def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


class Recorder:
    """An Observer that keeps every stream, the last first."""

    def __init__(self) -> None:
        self.streams: list[AdsStream] = []
        self.changes = 0

    @property
    def stream(self) -> AdsStream:
        return self.streams[0]

    def opened(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self.streams.insert(0, stream)

    def changed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self.changes += 1

    def closed(self, id: str, stream: AdsStream) -> None:  # noqa: A002
        self.streams.remove(stream)

    def synced(self, revision: int) -> bool:
        return bool(self.streams) and self.stream.synced and self.stream.stamp.revision == revision


class Relay:
    """What an Envoy is served from; may be stopped and started again."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.cache = SnapshotCache()
        self.seen = Recorder()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=wire.SERVER_OPTIONS)
        service = AdsService(self.cache, lambda context, node: str(node.id), self.seen)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        await until(lambda: not self.seen.streams, "streams end with their server")

    def offer(self, offered: Snapshot) -> None:
        self.cache.set("proxy", offered)

    async def synced(self, offered: Snapshot, seconds: float = 20.0) -> None:
        """Offers it, and waits until the Envoy has taken it but for what it refused."""
        self.offer(offered)
        await until(
            lambda: self.seen.synced(offered.stamp.revision),
            f"revision {offered.stamp.revision} taken; refused: {self.seen.streams and self.seen.stream.rejected}",
            seconds,
        )


def bootstrap(socket: Path, admin: Path, protocol: Protocol) -> dict[str, Any]:
    http2: dict[str, Any] = {"explicitHttpConfig": {"http2ProtocolOptions": {}}}
    options = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"} | http2
    backoff = {"retryBackOff": {"baseInterval": "0.2s", "maxInterval": "2s"}}
    relay = {
        "name": "relay",
        "type": "STATIC",
        "connectTimeout": "1s",
        "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "loadAssignment": {
            "clusterName": "relay",
            "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
        },
    }
    return {
        "node": {"id": "proxy", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "staticResources": {"clusters": [relay]},
        "bootstrapExtensions": [
            {"name": "envoy.bootstrap.internal_listener", "typedConfig": {"@type": INTERNAL_LISTENERS}}
        ],
        "dynamicResources": {
            "adsConfig": {
                "apiType": API_TYPES[protocol],
                "transportApiVersion": "V3",
                "setNodeOnFirstMessageOnly": True,
                "grpcServices": [{"envoyGrpc": {"clusterName": "relay", "retryPolicy": backoff}}],
            },
            "cdsConfig": ADS,
            "ldsConfig": ADS,
        },
    }


class Envoy:
    def __init__(self, admin: Path) -> None:
        self._admin = admin

    async def get(self, path: str) -> tuple[int, str]:
        """From the admin interface, status and body (in chunks as they came); status 0 when nobody answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._admin))
        except OSError:
            return 0, ""
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            answer = (await asyncio.wait_for(reader.read(), 5)).decode()
        finally:
            writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body

    async def live(self) -> None:
        deadline = time.monotonic() + 20
        while (await self.get("/ready"))[0] != 200:
            assert time.monotonic() < deadline, "Envoy did not become LIVE within 20 s"
            await asyncio.sleep(0.05)

    async def stat(self, name: str) -> int:
        _, body = await self.get(f"/stats?filter=^{name}$")
        found = re.search(rf"^{re.escape(name)}: (\d+)", body, re.MULTILINE)
        assert found, f"no counter {name} in {body!r}"
        return int(found[1])


@asynccontextmanager
async def running(binary: Path, run_dir: Path, protocol: Protocol) -> AsyncIterator[tuple[Relay, Envoy]]:
    """A relay and an Envoy, both started; the Envoy's working directory is run_dir."""
    relay = Relay(run_dir / "relay.sock")
    await relay.start()
    (run_dir / "bootstrap.json").write_text(json.dumps(bootstrap(relay.socket, run_dir / "admin.sock", protocol)))
    with (run_dir / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary, "-c", "bootstrap.json", "--disable-hot-restart", "--concurrency", "1",
            cwd=run_dir, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield relay, Envoy(run_dir / "admin.sock")
    finally:
        process.kill()
        await process.wait()
        await relay.stop()


class Backend:
    """An HTTP server on loopback that answers every request with its own name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Backend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def ask(port: int) -> str:
    """One request on a new connection: what it was answered, or what went wrong."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return f"failed: {error}"
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).decode().partition("\r\n\r\n")
        return body if head.startswith("HTTP/1.1 200") else f"failed: {head.splitlines()[:1]} {body}"
    except (OSError, TimeoutError) as error:
        return f"failed: {error!r}"
    finally:
        writer.close()
