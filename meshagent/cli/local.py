"""How the host's commands ask the agent: one HTTP request over its unix socket, and what to do when nobody answers."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import click

from meshagent.errors import MeshagentError

CONFIG = Path("/etc/meshagent/agent.yaml")

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CONFIG,
    show_default=True,
    help="The agent's configuration: where its socket and its state are.",
)


class NoAgent(MeshagentError):
    """Nobody answers on the agent's socket."""


class AgentRefused(MeshagentError):
    """The agent's own words on why it does not do what it was asked."""


def ask(path: Path, target: str, method: str = "GET", body: Any = None, seconds: float = 15.0) -> Any:
    """The JSON answer to one request on the agent's socket. Raises NoAgent, AgentRefused."""
    connection = _UnixConnection(path, seconds)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, target, content)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except PermissionError:
        raise NoAgent(f"{path}: only root may ask this host's agent: run it with sudo") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoAgent(
            f"no agent answers on {path}: `systemctl status meshagent-agent` says how it is, `meshagent doctor` why"
        ) from None
    except TimeoutError:
        raise NoAgent(
            f"the agent does not answer on {path} within {seconds:g} s: `meshagent doctor` may say why"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAgent(f"the agent's answer on {path} cannot be read: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise AgentRefused(str(document.get("error", document)))
    return document


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
