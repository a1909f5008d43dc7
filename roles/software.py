"""The software of both roles on a host: sent and installed where it is not what the bundle here has, else left alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import DeployError, FactBase
from pyinfra.operations import files, server

_INCOMING = "/opt/meshagent/incoming"


class Lacking(FactBase[list[str]]):
    """What installing this release for these roles would change on the host."""

    def command(self, release: str, roles: str) -> str:
        installed = f"/opt/meshagent/releases/{release}/install.py"
        return f"if test -e {installed}; then python3 {installed} --check {roles}; else echo release {release}; fi"

    def process(self, output: Iterable[str]) -> list[str]:
        return [line for line in output if line.strip()]


class NewerThan(FactBase[list[str]]):
    """Those of the files that changed after the unit's process was started: what a deployment that was cut off did not act on."""

    def command(self, unit: str, paths: str) -> str:
        return (
            f'started=$(systemctl show --timestamp=us -P ExecMainStartTimestamp {unit}) && test -n "$started" || exit 0; '
            f'since=$(date -d "$started" +%s%6N) || exit 0; for path in {paths}; do '
            'changed=$(stat -c %.6Y "$path" 2>/dev/null | tr -d .); test "${changed:-0}" -gt "$since" && echo "$path"; done; true'
        )

    def process(self, output: Iterable[str]) -> list[str]:
        return [line for line in output if line.strip()]


def outdated(unit: str, *paths: str) -> bool:
    """Whether the unit runs with other files than there are now."""
    return bool(host.get_fact(NewerThan, unit=unit, paths=" ".join((*paths, f"/etc/systemd/system/{unit}"))))


def daemon_outdated(role: str, *paths: str) -> bool:
    """Whether the role's daemon runs another release than the one in use, or with other files than there are now."""
    release = "/opt/meshagent/venv"
    return outdated(f"meshagent-{role}.service", release, f"{release}/.complete-{role}", *paths)


def bundle() -> tuple[Path, dict[str, Any]]:
    """The bundle that the inventory names, by default where `make bundle` puts it."""
    directory = Path(host.data.get("bundle", "build/bundle"))
    try:
        return directory / "bundle.tar", json.loads((directory / "manifest.json").read_text())
    except OSError as error:
        raise DeployError(f"there is no bundle in {directory.absolute()}: make bundle ({error.strerror})") from error


def installed(*roles: str) -> bool:
    """Operations that install what is missing. True where there are any: the daemons want a restart then."""
    archive, manifest = bundle()
    words = " ".join(f"--role {role}" for role in roles)
    lacking = host.get_fact(Lacking, release=manifest["id"], roles=words)
    if not lacking:
        return False
    files.put(
        name="Send the bundle", src=str(archive), dest=f"{_INCOMING}/bundle.tar", mode="600", create_remote_dir=True
    )
    server.shell(
        name=f"Install {manifest['id']} ({len(lacking)} changes)",
        commands=[
            f"cd {_INCOMING} && tar -xf bundle.tar && python3 meshagent-bundle/install.py {words}",
            f"rm -rf {shlex.quote(_INCOMING)}",
        ],
    )
    return True
