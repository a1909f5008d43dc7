"""What the tests of meshctl share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshagent.cli.meshctl import meshctl
from tests.cli.fake_server import FakeServer, serving

Run = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    with serving(tmp_path) as fake:
        yield fake


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """meshctl with an empty environment: run("status", "-o", "json")."""
    for name in ("MESHCTL_SERVER", "MESHCTL_CA", "MESHCTL_ACCESS_KEY", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MESHCTL_CONTEXT_FILE", str(tmp_path / "config" / "context.yaml"))

    def run(*arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(meshctl, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def online(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """meshctl that finds the server by its environment."""
    monkeypatch.setenv("MESHCTL_SERVER", server.url)
    monkeypatch.setenv("MESHCTL_CA", str(server.ca))
    monkeypatch.setenv("MESHCTL_ACCESS_KEY", str(server.access_key))
    return run
