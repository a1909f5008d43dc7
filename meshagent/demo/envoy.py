"""What the demo and the end-to-end tests ask a real Envoy: its statistics, certificates and state, over its admin socket."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from urllib.parse import quote

from meshagent.agent import admin
from meshagent.demo.world import World


@dataclass(frozen=True)
class Admin:
    socket: str

    @classmethod
    def of(cls, world: World, service: str) -> Admin:
        return cls(world.generation(service)["admin_socket"])

    async def get(self, path: str) -> str:
        answer = await admin.text(self.socket, path)
        if answer is None:
            raise LookupError(f"Envoy does not answer {path} on {self.socket}")
        return answer

    async def live(self) -> bool:
        state = await admin.server_state(self.socket)
        return state is not None and state.state == "LIVE"

    async def stats(self, regex: str) -> dict[str, int]:
        """Counters and gauges by name."""
        answer = json.loads(await self.get(f"/stats?format=json&filter={quote(regex)}"))
        return {stat["name"]: stat["value"] for stat in answer["stats"] if "value" in stat}

    async def serial(self) -> str:
        """The serial of the leaf that Envoy presents, as Envoy itself says."""
        certificates = await admin.certificates(self.socket)
        if not certificates:
            raise LookupError(f"the Envoy of {self.socket} holds no certificate, or does not say which")
        return certificates[0].serial


def kill(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
