"""The two addresses over TLS: the API by uvicorn, xDS and HostService by grpc.aio, with one server certificate that is renewed in place.

A renewal needs no restart and touches no open connection: uvicorn's context is loaded anew, and gRPC asks at every handshake whether there
is another certificate. What is served is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshagent.errors import MeshagentError
from meshagent.host.files import make_directory, write_durably
from meshagent.identity import rotation, x509
from meshagent.identity.authority import Authority
from meshagent.identity.leaf import Leaf

LARGEST_MESSAGE = 64 << 20
GRACE_SECONDS = 3.0
# A peer that is silent this long is asked whether it is there, and is cut when it does not answer.
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 20, 10
CONNECTIONS = 2048
# Who has connected and says nothing whole for so long makes room for others.
IDLE_SECONDS = 30.0
HANDSHAKE_SECONDS = 10.0
# Before gRPC is given another certificate: see ServerCertificate.credentials.
CALM_SECONDS = 0.25

_log = logging.getLogger(__name__)


class ListenError(MeshagentError):
    """An address cannot be served."""


@dataclass(frozen=True)
class Address:
    """HOST:PORT; port 0 for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not host or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"{text!r}: must be HOST:PORT, such as 127.0.0.1:8443")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def names_and_addresses(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Certificate SANs: what is a DNS name, and what an IP address. Wildcard binds are neither."""
    dns: list[str] = []
    addresses: list[str] = []
    for name in dict.fromkeys(names):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            dns.append(name)
        else:
            if not address.is_unspecified:
                addresses.append(str(address))
    return dns, addresses


class ServerCertificate:
    """The server's own certificate, in the forms that both servers take. `directory` holds it for ssl, which reads only files."""

    def __init__(self, authority: Authority, names: Sequence[str], life: float, directory: Path) -> None:
        self._authority, self._life, self._directory = authority, life, directory
        self._dns, self._addresses = names_and_addresses(names)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._leaf: Leaf | None = None
        self._configuration: grpc.ServerCertificateConfiguration | None = None

    async def renew(self) -> None:
        key, chain = await self._authority.issue_server(self._dns, self._addresses, self._life)
        bundle = self._authority.bundle.encode()
        # Key and chain in one file: they are replaced in one rename.
        await asyncio.to_thread(write_durably, self._pem, key + chain)
        self._context.load_cert_chain(self._pem)
        self._configuration = grpc.ssl_server_certificate_configuration([(key, chain)], bundle)
        self._leaf = x509.read_leaf(chain)

    @property
    def _pem(self) -> Path:
        return self._directory / "server.pem"

    async def open(self) -> None:
        make_directory(self._directory)
        await self.renew()

    async def run(self) -> None:
        """Renews for ever, at half of life."""
        failures = 0
        while True:
            assert self._leaf is not None, "opened before it runs"
            now = time.time()
            if failures:
                pause = rotation.retry(failures, self._leaf.end - now, random.random())  # noqa: S311
            else:
                pause = rotation.delay(self._leaf.issued, self._leaf.end, now, random.random())  # noqa: S311
            await asyncio.sleep(pause)
            try:
                await self.renew()
            except MeshagentError as error:
                failures += 1
                _log.error("the server's certificate could not be renewed: %s", error)
                continue
            failures = 0
            _log.info("the server's certificate was renewed", extra={"fields": {"serial": self._leaf.serial}})

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    def credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS: clients without a certificate of ours do not get through the handshake."""
        served = self._now()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC's threads, one at a time, as each handshake begins. Another certificate frees what the one before it was
            served from, to which a handshake that began a moment earlier, on another thread, may not hold on yet: the process would die
            of it (grpc/grpc#36693). So gRPC is given one only when it has changed, and after time enough for those that have begun; who
            connects meanwhile waits."""
            nonlocal served
            if self._now() is served:
                return None
            time.sleep(CALM_SECONDS)
            served = self._now()
            return served

        # None is "no change": gRPC documents it, its stubs do not have it.
        return grpc.dynamic_ssl_server_credentials(served, fetch, require_client_authentication=True)  # type: ignore[arg-type]

    def _now(self) -> grpc.ServerCertificateConfiguration:
        assert self._configuration is not None, "opened before it serves"
        return self._configuration


def grpc_server(
    handlers: Sequence[grpc.GenericRpcHandler], certificate: ServerCertificate, address: Address
) -> tuple[grpc.aio.Server, Address]:
    """Bound and not started yet; the address with its real port."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
            ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Agents ask, too, whether we are there.
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            # Before it has shown a certificate a peer is nobody.
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
            # Two servers on one port would each get some of the agents, without a word.
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        port = server.add_secure_port(str(address), certificate.credentials())
    except RuntimeError as error:
        # gRPC does not say why; the system does.
        words: object = error
        try:
            _bound(address).close()
        except OSError as refused:
            words = refused
        raise ListenError(f"{address}: cannot be listened on for xDS: {words}") from error
    return server, Address(address.host, port)


def _bound(address: Address) -> socket.socket:
    family, _, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    # With the protocol named: asyncio turns Nagle's algorithm off only for such sockets, and each answer would wait 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def api_socket(address: Address) -> tuple[socket.socket, Address]:
    """Bound and listening, so that the port is known and taken before anything is told of it."""
    try:
        sock = _bound(address)
        try:
            sock.listen(CONNECTIONS)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise ListenError(f"{address}: cannot be listened on for the API: {error}") from error
    return sock, Address(address.host, sock.getsockname()[1])


class Impatient(H11Protocol):
    """HTTP whose connections end when they are idle. uvicorn counts only from the end of an answer to the next byte: who never sends a
    whole request would keep its place for ever."""

    _idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again(self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def _look_again(self, before: object) -> None:
        self._idle = self.loop.call_later(IDLE_SECONDS, self._look, before)

    def _look(self, before: object) -> None:
        cycle = self.cycle
        if cycle is before and (cycle is None or cycle.response_complete):
            self.transport.close()
        else:
            self._look_again(cycle)


class ApiServer(uvicorn.Server):
    """uvicorn without its signal handling: the composition root stops everything in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def api_server(app: ASGIApp, certificate: ServerCertificate) -> ApiServer:
    config = uvicorn.Config(
        app,
        http=Impatient,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(GRACE_SECONDS),
    )
    config.load()
    config.ssl = certificate.context
    return ApiServer(config)
