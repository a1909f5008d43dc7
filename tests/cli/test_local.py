"""What the host's commands say when the agent does not answer as it should."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from meshagent.cli.local import AgentRefused, NoAgent, ask


def answering(path: Path, content: bytes | None) -> threading.Thread:
    """One connection is taken and given these bytes; None: it is held and nothing said."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()

    def serve() -> None:
        connection, _ = sock.accept()
        connection.recv(1 << 16)
        if content is None:
            connection.recv(1)  # until the other end goes
        else:
            connection.sendall(content)
        connection.close()
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (
            b"HTTP/1.1 409 Conflict\r\ncontent-length: 18\r\n\r\n" + b'{"error": "not so"}'[:18],
            NoAgent,
            "cannot be read",
        ),
        (b'HTTP/1.1 409 Conflict\r\ncontent-length: 19\r\n\r\n{"error": "not so"}', AgentRefused, "^not so$"),
        (b"garbage", NoAgent, "cannot be read"),
        (None, NoAgent, "does not answer on .* within 0.2 s"),
    ],
)
def test_what_is_no_good_answer_is_said(
    run_dir: Path, content: bytes | None, error: type[Exception], words: str
) -> None:
    thread = answering(run_dir / "agent.sock", content)
    with pytest.raises(error, match=words):
        ask(run_dir / "agent.sock", "/status", seconds=5.0 if content else 0.2)
    thread.join(5)


def test_nobody_there_is_said_with_what_to_look_at(run_dir: Path) -> None:
    with pytest.raises(NoAgent, match="systemctl status meshagent-agent"):
        ask(run_dir / "agent.sock", "/status")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(run_dir / "agent.sock"))
    left.close()  # what a killed agent leaves
    with pytest.raises(NoAgent, match="no agent answers"):
        ask(run_dir / "agent.sock", "/status")
