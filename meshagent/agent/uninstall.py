"""What of the agent's is on a host, taken away again in the order in which nothing is lost: proxies first, their users last.

Each step is tried, whatever became of the one before; what failed is said at the end, and running it again does the rest. The software
itself is not touched: it is running. docs/install.md says how that goes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meshagent.agent import redirect
from meshagent.agent.run import stop_proxies
from meshagent.agent.settings import Settings
from meshagent.errors import MeshagentError
from meshagent.host import users
from meshagent.host.files import give, remove_tree
from meshagent.host.processes import is_systemd_host

UNITS = Path("/etc/systemd/system")
ENVOYS = "meshagent-envoy@*.service"
DAEMONS = ("meshagent-agent.service", "meshagent-redirect.service")
_STOP_SECONDS = 180.0  # a drain of every Envoy at once, and their end
_WORDS = 300

Say = Callable[[str], None]
Step = tuple[str, Callable[[], object]]


class UninstallError(MeshagentError):
    """What could not be taken away."""


def uninstall(settings: Settings, config: Path, purge: bool, say: Say) -> None:
    """Raises UninstallError with every step that failed."""
    failed = []
    for words, act in steps(settings, config, purge):
        try:
            act()
            say(words)
        except (MeshagentError, OSError) as error:
            failed.append(f"{words}: not done: {error}")
    if failed:
        raise UninstallError("\n".join([*failed, "once the reason is gone, run it again"]))


def steps(settings: Settings, config: Path, purge: bool) -> Iterator[Step]:
    """`purge`: with the host's identity, its proxies' snapshots and Envoy's versions, and the configuration."""
    state = settings.state_directory
    # While the agent is there, so that callers hear of it; then the agent, which would start them again at a boot.
    yield "every proxy was drained and stopped", lambda: systemctl("stop", ENVOYS)
    yield "the agent was stopped", lambda: disable(DAEMONS)
    yield "no Envoy runs", lambda: stop_proxies(settings) if state.is_dir() else None
    yield "names and turned connections are gone", lambda: redirect.forget(settings)
    yield "units are gone", remove_units
    yield f"{settings.runtime_directory} is gone", lambda: remove_tree(settings.runtime_directory)
    # Whoever is given one of the users' numbers next would own them. An agent that comes back gives them to the users it makes then.
    yield "the proxies' keys are root's", lambda: to_root(state / "proxies")
    yield "the proxies' users are gone", users.remove_all
    if purge:
        yield f"{state} is gone", lambda: remove_tree(state)
        yield "the configuration is gone", lambda: remove_configuration(settings, config)


def to_root(directory: Path) -> None:
    if directory.is_dir():
        give(directory, 0)


def disable(units: Sequence[str]) -> None:
    there = [unit for unit in units if (UNITS / unit).exists()]
    if there:
        systemctl("disable", "--now", *there)


def remove_units() -> None:
    """The agent's own, and what it wrote for each Envoy."""
    for path in sorted(UNITS.glob("meshagent-*")):
        if path.is_dir():
            remove_tree(path)
        elif path.name in DAEMONS or path.name == "meshagent-envoy@.service":
            path.unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("reset-failed", ENVOYS, *DAEMONS, check=False)


def remove_configuration(settings: Settings, config: Path) -> None:
    token = settings.join_token_file
    for path in (config, config.with_name("join-placements"), *([token] if token else [])):
        path.unlink(missing_ok=True)
    if config.parent.is_dir() and not any(config.parent.iterdir()):
        config.parent.rmdir()


def systemctl(*arguments: str, check: bool = True) -> None:
    """Where systemd does not run the machine nothing of its is there to be told."""
    if not is_systemd_host():
        return
    command = ["systemctl", "--quiet", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STOP_SECONDS, check=False)
    except OSError as error:
        raise UninstallError(f"cannot run systemctl: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UninstallError(f"{' '.join(command)} took more than {_STOP_SECONDS:.0f} s") from error
    if check and done.returncode:
        raise UninstallError(f"{' '.join(command)}: {' '.join(done.stderr.split())[:_WORDS]}")
