"""docs/health.md's commands, run as they stand there, on a host of a mesh."""

from __future__ import annotations

import json

import pytest
import yaml

from meshagent.demo.hosts import HostMesh, until
from tests.documents import run_by

pytestmark = pytest.mark.lab

PAGE = "docs/health.md"
CONFIG = "/etc/meshagent/agent.yaml"


def test_every_command_of_the_page_does_what_it_says(mesh: HostMesh) -> None:
    lines = [command for block in run_by(__file__, PAGE) for command in block.commands]
    assert len(lines) >= 6
    host = mesh.host("h2")
    before = host.read(CONFIG)
    # As the page has it; it is nowhere by default.
    host.write(CONFIG, yaml.safe_dump({**yaml.safe_load(before), "status_address": "127.0.0.1:9903"}))
    host.run(["systemctl", "restart", "meshagent-agent"], check=True)
    try:
        until("the agent to answer", lambda: host.run("curl -sf http://127.0.0.1:9903/status").returncode == 0)
        mesh.in_sync()
        for line in lines:
            done = host.run(line, limit=60.0)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            if "json" in line or line.endswith("/status"):
                assert json.loads(done.stdout), line
        # Loopback is for reading alone.
        refused = host.run("curl -s -X POST http://127.0.0.1:9903/proxies/x/stop")
        assert "nothing is there" in refused.stdout
    finally:
        host.write(CONFIG, before)
        host.run(["systemctl", "restart", "meshagent-agent"], check=True)
