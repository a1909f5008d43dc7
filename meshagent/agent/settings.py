"""What an agent is told: frozen dataclasses, their defaults, and what follows from where it runs.

No models library: the agent's memory has no room for one. What only the host itself knows (its name, its address) stays None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshagent.errors import MeshagentError
from meshagent.host.envoys import DEFAULT_VERSION
from meshagent.host.hostsfile import HOSTS_FILE

PROBE_PROTOCOLS = ("tcp", "http", "http2", "grpc")
SYSTEMD, PROCESS = "systemd", "process"
NOWHERE = Path()


class SettingsError(MeshagentError):
    """All that is wrong with a configuration, one line each."""


@dataclass(frozen=True)
class ProbeSettings:
    """None: what the listener's healthCheck says, else tcp. A `unit` or a `command` stands in for the ports' probes, unless a protocol is
    given too."""

    protocol: str | None = None
    path: str | None = None
    interval: float = 1.0
    timeout: float = 1.0
    healthy: int = 2
    unhealthy: int = 2
    unit: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class InterceptSettings:
    """What App Mesh had as APPMESH_APP_PORTS, _EGRESS_IGNORED_IP, _EGRESS_IGNORED_PORTS, _IGNORE_UID, _IGNORE_GID and _ENABLE_IPV6.
    Without `app_ports`, the node's own."""

    app_ports: tuple[int, ...] = ()
    egress_ignored_ip: tuple[str, ...] = ()
    egress_ignored_ports: tuple[int, ...] = ()
    ignore_uid: tuple[int, ...] = ()
    ignore_gid: tuple[int, ...] = ()
    ipv6: bool = False


@dataclass(frozen=True)
class PlacementSettings:
    """`mode` "" is the host's default: see `completed`. `application_user` is a name or a number."""

    resource: str
    mode: str = ""
    application: str = "127.0.0.1"
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    application_user: str | None = None
    intercept: InterceptSettings = field(default_factory=InterceptSettings)


@dataclass(frozen=True)
class HostSettings:
    """None: asked of the operating system."""

    name: str | None = None
    address: str | None = None
    first_slot: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: str | None = None  # EC2's metadata service; "off" for none


@dataclass(frozen=True)
class EnvoySettings:
    version: str = DEFAULT_VERSION
    # Where the version comes from, and the SHA-256 of what lies there; "" for one that this release has pinned.
    url: str = ""
    sha256: str = ""
    directory: Path | None = None  # None: envoys/ in the state directory
    concurrency: int | None = None
    log_level: str = "info"
    drain: float = 5.0
    sds_socket: Path | None = None


@dataclass(frozen=True)
class Settings:
    state_directory: Path
    runtime_directory: Path
    placements: tuple[PlacementSettings, ...]
    host: HostSettings = field(default_factory=HostSettings)
    envoy: EnvoySettings = field(default_factory=EnvoySettings)
    join_token: str | None = field(default=None, repr=False)
    join_token_file: Path | None = None
    log_level: str = "info"
    supervisor: str | None = None  # who runs Envoy: systemd or process; None: the host's default
    hosts_file: Path | None = None  # where names are written; None: the host's default; NOWHERE: nowhere
    status_address: tuple[str, int] | None = None  # where GET /status is answered besides on the socket

    @property
    def envoys(self) -> Path:
        return self.envoy.directory or self.state_directory / "envoys"


def completed(settings: Settings, on_host: bool) -> Settings:
    """With what follows from where the agent runs. On a host whose systemd it is root of, connections are turned and names stand in
    /etc/hosts; of several agents on one machine, both are the business of the one with the first slots."""
    owns = on_host and settings.host.first_slot == 0
    supervisor = settings.supervisor or (SYSTEMD if on_host else PROCESS)
    if supervisor == SYSTEMD and not settings.runtime_directory.is_relative_to("/run"):
        raise SettingsError(
            f"runtime_directory: must be below /run where systemd runs Envoy, found {settings.runtime_directory}"
        )
    return replace(
        settings,
        supervisor=supervisor,
        placements=tuple(
            replace(each, mode=each.mode or ("redirect" if owns else "bind")) for each in settings.placements
        ),
        hosts_file=settings.hosts_file or (HOSTS_FILE if owns else NOWHERE),
    )
