"""python -m tests.server.handshakes DIR: what serves xDS, renewing its certificate all the time. Prints its port; ends with its input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from meshagent.identity.authority import Authority
from meshagent.server.listening import Address, ServerCertificate, grpc_server
from meshagent.store.memory import MemoryStore

RENEWAL_SECONDS = 0.5


async def main(directory: Path) -> None:
    authority = await Authority.open(MemoryStore(), "mesh.local")
    certificate = ServerCertificate(authority, ["localhost"], 3600.0, directory)
    await certificate.open()
    server, address = grpc_server([], certificate, Address("127.0.0.1", 0))
    await server.start()
    print(address.port, flush=True)

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            await certificate.renew()

    renewing = asyncio.create_task(renew())
    await asyncio.to_thread(sys.stdin.read)
    renewing.cancel()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
