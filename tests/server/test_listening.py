"""One certificate for both addresses, renewed while they serve."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE

import grpc.aio
import pytest
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from meshagent.identity.authority import Authority
from meshagent.identity.x509 import new_key, new_request
from meshagent.server import listening
from meshagent.server.listening import (
    Address,
    ListenError,
    ServerCertificate,
    api_server,
    api_socket,
    grpc_server,
    names_and_addresses,
)
from meshagent.store.memory import MemoryStore

ROOT = Path(__file__).parents[2]


def serial(address: Address, bundle: str, client: Path | None = None) -> int:
    context = ssl.create_default_context(cadata=bundle)
    if client is not None:
        context.load_cert_chain(client)
        context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((address.host, address.port), 5) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    authority = await Authority.open(MemoryStore(), "mesh.local")
    certificate = ServerCertificate(authority, ["localhost", "127.0.0.1"], 3600.0, tmp_path / "tls")
    await certificate.open()
    key = new_key()
    client = tmp_path / "client.pem"
    client.write_bytes(key + await authority.issue_workload(new_request(key), "spiffe://mesh.local/host/a", 3600.0))
    xds, xds_address = grpc_server([], certificate, Address("127.0.0.1", 0))
    sock, api_address = api_socket(Address("127.0.0.1", 0))
    api = api_server(Starlette(), certificate)
    serving = asyncio.create_task(api.serve([sock]))
    await xds.start()
    try:
        before = {
            await asyncio.to_thread(serial, api_address, authority.bundle),
            await asyncio.to_thread(serial, xds_address, authority.bundle, client),
        }
        await certificate.renew()
        after = {
            await asyncio.to_thread(serial, api_address, authority.bundle),
            await asyncio.to_thread(serial, xds_address, authority.bundle, client),
        }
        assert len(before) == len(after) == 1
        assert before != after
    finally:
        api.should_exit = True
        await xds.stop(None)
        await serving
        sock.close()


async def test_who_says_nothing_whole_makes_room_and_who_waits_for_an_answer_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.2)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(1.0)
        return Response("late")

    authority = await Authority.open(MemoryStore(), "mesh.local")
    certificate = ServerCertificate(authority, ["localhost"], 3600.0, tmp_path / "tls")
    await certificate.open()
    sock, address = api_socket(Address("127.0.0.1", 0))
    api = api_server(Starlette(routes=[Route("/slow", slow)]), certificate)
    serving = asyncio.create_task(api.serve([sock]))
    context = ssl.create_default_context(cadata=authority.bundle)

    async def say(*parts: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="localhost"
        )
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.05)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()

    whole = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n"
    try:
        assert await say() == b""
        assert await say(whole[:8], whole[8:20]) == b""
        assert (await say(whole)).endswith(b"late")
    finally:
        api.should_exit = True
        await serving
        sock.close()


async def test_nobody_gets_in_without_a_certificate(tmp_path: Path) -> None:
    authority = await Authority.open(MemoryStore(), "mesh.local")
    certificate = ServerCertificate(authority, ["localhost"], 3600.0, tmp_path / "tls")
    await certificate.open()
    xds, address = grpc_server([], certificate, Address("127.0.0.1", 0))
    await xds.start()
    credentials = grpc.ssl_channel_credentials(authority.bundle.encode())
    options = [("grpc.ssl_target_name_override", "localhost")]
    try:
        async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(channel.channel_ready(), 1.0)
    finally:
        await xds.stop(None)


def connect_and_leave(port: int, until: float) -> int:
    """Many connections at once, of which none goes on; how many."""
    count = 0
    while time.monotonic() < until:
        with contextlib.ExitStack() as open_ones:
            sockets = [open_ones.enter_context(socket.socket()) for _ in range(20)]
            for sock in sockets:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            time.sleep(0.002)
            for sock in sockets:
                with contextlib.suppress(OSError):
                    sock.send(b"nobody's hello")
                    count += 1
    return count


def test_who_storms_it_with_handshakes_does_not_end_it(tmp_path: Path) -> None:
    """gRPC died of it in a second when it was given a certificate at every handshake, and of some hundreds of renewals without a pause."""
    serving = [sys.executable, "-m", "tests.server.handshakes", str(tmp_path)]
    with (
        subprocess.Popen(serving, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=ROOT, text=True) as server,
        ThreadPoolExecutor(4) as threads,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        until = time.monotonic() + 4.0
        storms = [threads.submit(connect_and_leave, port, until) for _ in range(4)]
        assert all(storm.result() > 0 for storm in storms)
        assert server.poll() is None
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(sock) as tls:
                assert tls.getpeercert(binary_form=True)
        server.stdin.close()
        assert server.wait(60) == 0


async def test_a_taken_port_is_said(tmp_path: Path) -> None:
    authority = await Authority.open(MemoryStore(), "mesh.local")
    certificate = ServerCertificate(authority, [], 3600.0, tmp_path / "tls")
    await certificate.open()
    sock, address = api_socket(Address("127.0.0.1", 0))
    with sock:
        with pytest.raises(ListenError, match=r"cannot be listened on for xDS: .*Address already in use"):
            grpc_server([], certificate, address)
        with pytest.raises(ListenError, match=r"cannot be listened on for the API"):
            api_socket(address)


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:70000", "host:x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ListenError, match="must be HOST:PORT"):
        Address.parse(text)


def test_names_of_a_certificate() -> None:
    assert str(Address.parse("[::1]:8443")) == "[::1]:8443"
    assert names_and_addresses(["localhost", "127.0.0.1", "0.0.0.0", "::1", "localhost"]) == (
        ["localhost"],
        ["127.0.0.1", "::1"],
    )
