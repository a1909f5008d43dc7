"""The demo's applications, each a small process of its own: they know nothing of the mesh.

    python -m meshagent.demo.services http ADDRESS PORT NAME    answers every request with who it is and who the proxy says is calling
    python -m meshagent.demo.services tcp ADDRESS PORT NAME     speaks first (as databases do), then echoes lines
    python -m meshagent.demo.services grpc ADDRESS PORT NAME    /demo.Quotes/Watch: a stream that answers each message

SIGUSR1 makes an http service answer 500 from then on, SIGUSR2 ends that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable

BACKLOG = 4096  # the usual 5 or 100 alone lose connections under load


async def serve_http(address: str, port: int, name: str) -> None:
    import h11

    failing = False

    def fail(now: bool) -> None:
        nonlocal failing
        failing = now

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, fail, True)
    loop.add_signal_handler(signal.SIGUSR2, fail, False)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Request):
                    headers = {key.decode(): value.decode() for key, value in event.headers}
                    path = event.target.decode()
                elif isinstance(event, h11.EndOfMessage):
                    body = json.dumps(
                        {"service": name, "path": path, "caller": headers.get("x-forwarded-client-cert", "")}
                    ).encode()
                    status = 500 if failing else 200
                    writer.write(
                        (
                            http.send(h11.Response(status_code=status, headers=[("content-length", str(len(body)))]))
                            or b""
                        )
                        + (http.send(h11.Data(data=body)) or b"")
                        + (http.send(h11.EndOfMessage()) or b"")
                    )
                    await writer.drain()
                    if http.our_state is h11.MUST_CLOSE:
                        return
                    http.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except (OSError, h11.RemoteProtocolError):
            return  # the peer went away, or spoke something else: this connection's end and no more
        finally:
            writer.close()

    server = await asyncio.start_server(connection, address, port, backlog=BACKLOG)
    await server.serve_forever()


async def serve_tcp(address: str, port: int, name: str) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(f"{name} ready\n".encode())
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, address, port, backlog=BACKLOG)
    await server.serve_forever()


async def serve_grpc(address: str, port: int, name: str) -> None:
    import grpc.aio

    async def watch(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield name.encode() + b" " + request

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("demo.Quotes", {"Watch": grpc.stream_stream_rpc_method_handler(watch)}),)
    )
    server.add_insecure_port(f"{address}:{port}")
    await server.start()
    await server.wait_for_termination()


SERVICES: dict[str, Callable[[str, int, str], object]] = {"http": serve_http, "tcp": serve_tcp, "grpc": serve_grpc}


def main() -> None:
    kind, address, port, name = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(SERVICES[kind](address, int(port), name))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
