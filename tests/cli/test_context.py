"""Where meshctl finds its server: options before and after the command, environment, context file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer


@pytest.fixture(autouse=True)
def an_answer(server: FakeServer) -> None:
    server.answer("GET /v1/hosts", {"hosts": []})


def test_options_after_and_before_the_command(run: Run, server: FakeServer) -> None:
    assert run("hosts", *server.options).exit_code == 0
    assert run(*server.options, "hosts").exit_code == 0
    assert run(*server.options[:2], "hosts", *server.options[2:]).exit_code == 0
    server.answer("GET /v1/tokens", {"tokens": []})
    assert run("token", *server.options[:2], "list", *server.options[2:]).exit_code == 0


def test_after_wins_over_before(run: Run, server: FakeServer) -> None:
    assert run("--server", "https://127.0.0.1:1", "hosts", *server.options).exit_code == 0


def test_options_win_over_the_environment_and_that_over_the_file(
    run: Run, online: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run("context", "set", "--server", "not a url", *server.options[2:]).exit_code == 0
    assert online("hosts").exit_code == 0
    monkeypatch.setenv("MESHCTL_SERVER", "also none")
    assert online("hosts", "--server", server.url).exit_code == 0
    assert "also none" in online("hosts").stderr
    monkeypatch.delenv("MESHCTL_SERVER")
    assert "not a url" in online("hosts").stderr


def test_nothing_said(run: Run) -> None:
    result = run("hosts")
    assert result.exit_code == 1
    assert result.stderr == (
        "meshctl: which server? give --server (or MESHCTL_SERVER), --ca (or MESHCTL_CA), --access-key (or MESHCTL_ACCESS_KEY), "
        "or keep all three by `meshctl context set`\n"
    )


def test_contexts(run: Run, server: FakeServer, tmp_path: Path) -> None:
    assert "contexts" in run("context", "show", "-o", "json").stdout
    incomplete = run("context", "set", "lab", "--server", server.url)
    assert (incomplete.exit_code, "--ca, --access-key" in incomplete.stderr) == (2, True)
    first = run("context", "set", "lab", *server.options)
    assert first.stdout == f"context lab: {server.url} (current)\n"
    run("context", "set", "other", *server.options)
    assert run("context", "set", "other", "--server", "https://b:1").stdout == "context other: https://b:1\n"
    assert run("hosts").exit_code == 0
    assert run("context", "use", "other").exit_code == 0
    kept = json.loads(run("context", "show", "-o", "json").stdout)
    assert (kept["current"], kept["contexts"]["other"]["server"]) == ("other", "https://b:1")
    assert "* " in run("context", "show").stdout
    missing = run("context", "use", "nowhere")
    assert (missing.exit_code, "there are: lab, other" in missing.stderr) == (1, True)
    file = tmp_path / "config" / "context.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(file.read_text())["contexts"]["lab"]["ca"] == str(server.ca)


def test_what_the_environment_says_is_remembered_where_nothing_is_yet(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url, _, ca, _, key = server.options
    for name, value in (("MESHCTL_SERVER", "https://other:1"), ("MESHCTL_CA", ca), ("MESHCTL_ACCESS_KEY", key)):
        monkeypatch.setenv(name, value)
    assert run("context", "set", "lab", "--server", url).stdout == f"context lab: {url} (current)\n"
    assert run("context", "set", "lab").stdout == f"context lab: {url} (current)\n", "what is remembered stays"
    for name in ("MESHCTL_SERVER", "MESHCTL_CA", "MESHCTL_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert run("hosts").exit_code == 0


@pytest.mark.parametrize("content", ["[", "[]", "contexts: []", "contexts: {a: {server: 1}}", "\x00"])
def test_files_that_are_broken(run: Run, tmp_path: Path, content: str) -> None:
    file = tmp_path / "config" / "context.yaml"
    file.parent.mkdir()
    file.write_text(content)
    result = run("hosts")
    assert result.exit_code == 1 and "context.yaml" in result.stderr and "Traceback" not in result.output
