"""What is seen over the network: servers step by step, names, Envoys' admin interfaces, peers. Every step has its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import grpc

from meshagent.agent import admin
from meshagent.agent.identity import Identity
from meshagent.doctor.network import PeerSeen, ServerSeen
from meshagent.protocol import host_pb2

STEP_SECONDS = 3.0
MOST_PEERS = 64
_AT_ONCE = 16
_CHECK = "/meshagent.host.v1.HostService/Check"
# What says that the server is one of the mesh, and that this host is not its own; all else is no answer of a server.
_REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


class _Failed(Exception):
    def __init__(self, step: str, words: str) -> None:
        super().__init__(words)
        self.step = step


async def server(address: str, server_name: str, held: Identity | None, files: Path) -> ServerSeen:
    """`held` lies in `files`: key.pem, chain.pem, bundle.pem. Without an identity the way ends before TLS."""
    host, _, port = address.rpartition(":")
    try:
        await _resolve(host.strip("[]"))
        await _connect(host.strip("[]"), int(port))
        if held is None:
            return ServerSeen(address)
        await _handshake(host.strip("[]"), int(port), server_name, files)
        return ServerSeen(address, ahead=await _ask(address, server_name, held))
    except _Failed as failed:
        return ServerSeen(address, failed.step, str(failed))


async def _resolve(host: str) -> None:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise _Failed("resolve", f"the name server did not answer within {STEP_SECONDS:g} s") from None
    except OSError as error:
        raise _Failed("resolve", error.strerror or str(error)) from error


async def _connect(host: str, port: int) -> None:
    words = await connection(host, port)
    if words:
        raise _Failed("connect", words)


async def connection(host: str, port: int, seconds: float = STEP_SECONDS) -> str:
    """Why no TCP connection can be made, or ""."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    return ""


async def _handshake(host: str, port: int, server_name: str, files: Path) -> None:
    try:
        context = ssl.create_default_context(cafile=str(files / "bundle.pem"))
        context.load_cert_chain(files / "chain.pem", files / "key.pem")
        context.set_alpn_protocols(["h2"])
        async with asyncio.timeout(STEP_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name)
    except TimeoutError:
        raise _Failed("tls", f"no handshake within {STEP_SECONDS:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise _Failed("tls", f"the server's certificate for {server_name}: {error.verify_message}") from error
    except (OSError, ValueError) as error:
        raise _Failed("tls", str(error)) from error
    writer.close()


async def _ask(address: str, server_name: str, held: Identity) -> float | None:
    """How far this host's clock is ahead of the server's; None when it did not say."""
    credentials = grpc.ssl_channel_credentials(held.bundle, held.key, held.chain)
    options = [
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.default_authority", server_name),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call = channel.unary_unary(
            _CHECK,
            request_serializer=host_pb2.CheckRequest.SerializeToString,
            response_deserializer=host_pb2.CheckResponse.FromString,
        )
        began = time.time()
        try:
            answer = await call(host_pb2.CheckRequest(), timeout=STEP_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None  # a server of an earlier release
            step = "ask" if error.code() in _REFUSALS else "speak"
            raise _Failed(step, f"{error.code().name}: {error.details()}") from error
    ended = time.time()
    # It was asked for somewhere in between.
    return (began + ended) / 2 - answer.now


async def resolved(names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """What this host's resolver answers for each, IPv4."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> tuple[str, ...]:
        try:
            async with gate, asyncio.timeout(STEP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(
                    name, None, family=socket.AF_INET, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError, UnicodeError):
            return ()
        return tuple(sorted({str(each[4][0]) for each in found}))

    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def endpoints(admin_socket: str) -> Iterable[tuple[str, str]] | None:
    """(address:port, cluster) of what an Envoy sends requests to; None when it does not answer."""
    text = await admin.text(admin_socket, "/clusters?format=json")
    if text is None:
        return None
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
        return tuple(_addresses(json.loads(text)))
    return ()


def _addresses(clusters: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    every = clusters.get("cluster_statuses", [])
    assert isinstance(every, list)
    for cluster in every:
        for host in cluster.get("host_statuses", ()):
            where = host.get("address", {}).get("socket_address", {})
            address, port = where.get("address", ""), where.get("port_value", 0)
            if address and port and not address.startswith("127.") and address != "::1":
                yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}", cluster["name"]


async def peers(found: Iterable[tuple[str, str]]) -> list[PeerSeen]:
    """Connects to each address once, at most MOST_PEERS of them."""
    once = dict(reversed(list(found)))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(address: str, cluster: str) -> PeerSeen:
        host, _, port = address.rpartition(":")
        async with gate:
            return PeerSeen(address, cluster, await connection(host.strip("[]"), int(port), 2.0))

    return list(await asyncio.gather(*(one(*each) for each in sorted(once.items())[:MOST_PEERS])))
