"""meshagent proxy stop: when Envoy's listeners are drained without the agent."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshagent.agent.local import response
from meshagent.cli.meshagent import meshagent
from meshagent.host.supervisor import Running, write_state

INSTANCE = "0123456789ab-3"


async def serve(path: Path, asked: list[str], status: HTTPStatus, answer: Any) -> asyncio.Server:
    """Every request is kept by its first line, and answered with this."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" HTTP/")[0].decode())
        writer.write(response(status, answer))
        writer.close()

    return await asyncio.start_unix_server(speak, path)


@pytest.mark.parametrize(
    ("status", "answer", "drained"),
    [
        (HTTPStatus.OK, {"words": "drained"}, False),
        (HTTPStatus.OK, {"words": "generation 3 does not serve"}, False),
        (HTTPStatus.SERVICE_UNAVAILABLE, {"error": "128 requests are being answered"}, True),
        (HTTPStatus.NOT_FOUND, {"error": f"no proxy {INSTANCE} is here"}, True),
    ],
)
async def test_an_envoy_whose_agent_refuses_is_drained_all_the_same(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, status: HTTPStatus, answer: dict[str, str], drained: bool
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    config = run_dir / "agent.yaml"
    config.write_text(
        json.dumps({"state_directory": f"{run_dir}/state", "runtime_directory": str(run_dir), "placements": []})
    )
    directory = run_dir / "state" / "proxies" / "0123456789ab"
    directory.mkdir(parents=True)
    write_state(directory, Running(3, "1.40.0", "", f"{run_dir}/admin.sock", "boot"))
    agent: list[str] = []
    envoy: list[str] = []
    async with (
        await serve(run_dir / "agent.sock", agent, status, answer),
        await serve(run_dir / "admin.sock", envoy, HTTPStatus.OK, {}),
    ):
        command = ["proxy", "stop", INSTANCE, "--config", str(config)]
        result = await asyncio.to_thread(CliRunner().invoke, meshagent, command)
    assert result.exit_code == 0
    assert agent == [f"POST /proxies/{INSTANCE}/stop"]
    assert ("POST /drain_listeners?graceful" in envoy) is drained
    assert f"{INSTANCE}: {'its listeners are drained' if drained else answer['words']}" in result.output
