"""The agent on a host of the inventory's group `agent`: its software, its Envoys, its configuration, and its way into the mesh.

Host data, as docs/agent-configuration.md has it: `placements` (resources, or mappings with `resource`), `address` (on which peers reach
the host; default: that of its default route), `labels`, and `agent`, a mapping with any other keys of agent.yaml.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable
from typing import Any

import yaml
from pyinfra import host, inventory, state
from pyinfra.api import DeployError, FactBase, Host, deploy
from pyinfra.operations import files, python, systemd

from roles import software
from roles.server import MESHCTL

_CONFIGURATION = "/etc/meshagent/agent.yaml"
_TOKEN = "/etc/meshagent/join-token"  # noqa: S105
_ALLOWED = "/etc/meshagent/join-placements"
_JOINED = "/var/lib/meshagent/host/joined.json"


class JoinedFor(FactBase[list[str]]):
    """The placements for which the host joined; empty when it has not."""

    def command(self) -> str:
        return f"if test -e {_JOINED}; then cat {_ALLOWED} 2>/dev/null || true; fi"

    def process(self, output: Iterable[str]) -> list[str]:
        return sorted(line for line in output if line.strip())


@deploy("Agent")
def mesh_host() -> None:
    changed = software.installed("agent")
    configuration = files.put(
        name="Write the agent's configuration",
        src=io.StringIO(
            "# Written by the agent role from its inventory.\n" + yaml.safe_dump(settings(), sort_keys=False)
        ),
        dest=_CONFIGURATION,
        mode="644",
        create_remote_dir=True,
    )
    systemd.service(
        name="Have connections turned at every boot, before any application starts",
        service="meshagent-redirect.service",
        running=None,
        enabled=True,
    )
    allowed = sorted(resources())
    invited = host.get_fact(JoinedFor) != allowed
    if invited:
        python.call(name="Invite the host", function=invite, allowed=allowed)
    systemd.service(
        name="Run the agent, at every boot",
        service="meshagent-agent.service",
        running=True,
        enabled=True,
        restarted=changed
        or invited
        or configuration.will_change
        or software.daemon_outdated("agent", _CONFIGURATION, _TOKEN),
    )


def settings() -> dict[str, Any]:
    """agent.yaml: what the inventory says and no more, so that defaults stay the agent's."""
    own = dict(host.data.get("agent", {}))
    about = {"name": host.name, "address": host.data.get("address"), "labels": host.data.get("labels")}
    own["host"] = {**{key: value for key, value in about.items() if value}, **own.get("host", {})}
    own["placements"] = [{"resource": each} if isinstance(each, str) else dict(each) for each in placements()]
    own["join_token_file"] = _TOKEN
    return own


def placements() -> list[Any]:
    return list(host.data.get("placements", []))


def resources() -> list[str]:
    return [each if isinstance(each, str) else each["resource"] for each in placements()]


def invite(allowed: list[str]) -> None:
    """A join token, made on the server for this host alone and put where the agent finds it. It is on no command line and in no log."""
    control_plane = server_host()
    options = " ".join(f"--placement {shlex.quote(resource)}" for resource in allowed)
    made, output = control_plane.run_shell_command(
        f"{MESHCTL} token create {options} --host {shlex.quote(host.name)} --life 1h", _sudo=sudo(control_plane)
    )
    if not made:
        raise DeployError(f"{control_plane.name} made no join token for {host.name}: {output.stderr}")
    put(_TOKEN, output.stdout_lines[-1])
    put(_ALLOWED, "\n".join(allowed))


def put(path: str, text: str) -> None:
    """Nobody else can read it, at any moment."""
    command = f"umask 077 && cat > {path}.new && mv {path}.new {path}"
    written, output = host.run_shell_command(command, _stdin=text, _sudo=sudo(host))
    if not written:
        raise DeployError(f"{path} could not be written on {host.name}: {output.stderr}")


def server_host() -> Host:
    """The server, also in a run that was limited to other hosts."""
    servers = inventory.get_group("server", default=[])
    if not servers:
        raise DeployError("the inventory has no host in its group `server`: nobody can make a join token")
    if not servers[0].connected:
        servers[0].connect(reason="to make a join token")
    return servers[0]


def sudo(of: Host) -> bool:
    return bool(of.data.get("_sudo") or state.config.SUDO)
