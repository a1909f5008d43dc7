"""Small applications for a mesh to carry, of the host's own Python and nothing else; they know nothing of the mesh.

    python3 app.py http ADDRESS PORT NAME    answers every request with who it is and who the proxy says is calling (JSON)
    python3 app.py tcp ADDRESS PORT NAME     speaks first, as databases do, then echoes lines

SIGUSR1 makes an http application answer 500 from then on, SIGUSR2 ends that.
"""

import asyncio
import contextlib
import json
import signal
import sys

BACKLOG = 4096  # the usual 5 or 100 alone lose connections under load
failing = False


class Http(asyncio.Protocol):
    """Requests without bodies, kept alive, pipelined or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, self.received = self.received.split(b"\r\n\r\n", 1)
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            self.answer(first.split(" ")[1], headers)

    def answer(self, path: str, headers: dict[str, str]) -> None:
        caller = headers.get("x-forwarded-client-cert", "")
        body = json.dumps({"service": self.name, "path": path, "caller": caller}).encode()
        status = "500 Internal Server Error" if failing else "200 OK"
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        if headers.get("connection", "").lower() == "close":
            self.transport.close()


async def serve_http(address: str, port: int, name: str) -> None:
    def fail(now: bool) -> None:
        global failing
        failing = now

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, fail, True)
    loop.add_signal_handler(signal.SIGUSR2, fail, False)
    server = await loop.create_server(lambda: Http(name), address, port, backlog=BACKLOG)
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


if __name__ == "__main__":
    _, kind, address, port, name = sys.argv
    asyncio.run({"http": serve_http, "tcp": serve_tcp}[kind](address, int(port), name))
