"""agent.yaml: which keys there are, what each must be, and what they must be together.

Read whole: every fault is told at once, as fields.py gathers them. `docs/agent-configuration.md` says what the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from meshagent.agent import fields
from meshagent.agent.fields import Bad, Check, Reader
from meshagent.agent.settings import (
    NOWHERE,
    PROBE_PROTOCOLS,
    PROCESS,
    SYSTEMD,
    EnvoySettings,
    HostSettings,
    InterceptSettings,
    PlacementSettings,
    ProbeSettings,
    Settings,
    SettingsError,
    completed,
)
from meshagent.host.envoys import DEFAULT_VERSION, SHA256, VERSION
from meshagent.host.processes import is_systemd_host
from meshagent.protocol.labels import LABELS_LIMIT, label_fault

MODES = ("bind", "redirect", "intercept")
LOG_LEVELS = ("debug", "info", "warning", "error")
ENVOY_LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
_RUNTIME_PATH_LIMIT = 75  # a unix socket's path ends at 107 bytes, and /ID-GENERATION-admin.sock comes behind
_RESOURCE = re.compile(r"mesh/[^/\s]+/(virtualNode|virtualGateway)/[^/\s]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?|\d{1,10}")
_SERVICE = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.service")
_COMMAND_INTERVAL, _COMMAND_TIMEOUT = 10.0, 5.0
_MAX_BYTES = 1 << 20


def load(path: Path) -> Settings:
    """Reads and parses a file, and completes it for this machine. Raises SettingsError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return completed(parse(text, str(path)), is_systemd_host())


def parse(text: str, filename: str) -> Settings:
    """Raises SettingsError with every fault as `FILE:LINE: PATH: what is wrong and what would be right`."""
    if len(text) > _MAX_BYTES:
        raise SettingsError(f"{filename}: larger than {_MAX_BYTES >> 20} MiB: not an agent's configuration")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{filename}:{mark.line + 1}" if mark else filename
        raise SettingsError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise SettingsError(f"{filename}: empty: at least `placements` must be there")
    reader = Reader(filename)
    settings = _settings(reader, root)
    if reader.faults:
        raise SettingsError("\n".join(reader.faults))
    return settings


def _settings(reader: Reader, node: yaml.Node) -> Settings:
    values = reader.fields(node, "", _SETTINGS, required=("placements",))
    if "join_token" in values and "join_token_file" in values:
        reader.fault(node, "join_token", "give join_token or join_token_file, not both")
    values.setdefault("placements", ())
    if len(values["placements"]) > 1 and any(each.mode == "intercept" for each in values["placements"]):
        reader.fault(
            node, "placements", "intercept takes all that leaves the host: it must be the host's only placement"
        )
    return Settings(
        **{"state_directory": Path("/var/lib/meshagent"), "runtime_directory": Path("/run/meshagent"), **values}
    )


def _runtime_path(reader: Reader, node: yaml.Node, path: str) -> Path:
    value = fields.absolute_path(reader, node, path)
    if len(str(value).encode()) > _RUNTIME_PATH_LIMIT:
        raise Bad(
            f"must be at most {_RUNTIME_PATH_LIMIT} bytes, since a unix socket's path ends at 107, found {len(str(value))}"
        )
    return value


def _host_name(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    if not _HOST_NAME.fullmatch(value):
        raise Bad(f"must be letters, digits, '.', '_' and '-', at most 255, found {value!r}")
    return value


def _resource(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    if not _RESOURCE.fullmatch(value):
        raise Bad(f"must be mesh/MESH/virtualNode/NAME or mesh/MESH/virtualGateway/NAME, found {value!r}")
    return value


def _user(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    if not _USER.fullmatch(value):
        raise Bad(f"must be a user's name or number, found {value!r}")
    return value


def _intercept(reader: Reader, node: yaml.Node, path: str) -> InterceptSettings:
    return InterceptSettings(**reader.fields(node, path, _INTERCEPT))


def _hosts_file(reader: Reader, node: yaml.Node, path: str) -> Path:
    return NOWHERE if fields.text(reader, node, path) == "none" else fields.absolute_path(reader, node, path)


def _unit(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    if not _SERVICE.fullmatch(value):
        raise Bad(f"must be a service of systemd such as web.service, found {value!r}")
    return value


def _command(reader: Reader, node: yaml.Node, path: str) -> tuple[str, ...]:
    words = node.value if isinstance(node, yaml.SequenceNode) else ()
    if not words or not all(isinstance(word, yaml.ScalarNode) for word in words):
        raise Bad("must be a list of a program and its arguments: [/usr/local/bin/check, --quick]")
    command = tuple(str(word.value) for word in words)
    if not command[0].startswith("/") or any("\0" in word for word in command):
        raise Bad(f"must begin with the absolute path of a program, found {command[0]!r}; no shell reads it")
    return command


def _probe(reader: Reader, node: yaml.Node, path: str) -> ProbeSettings:
    values = reader.fields(node, path, _PROBE)
    if "command" in values:
        # A process each time: seldom enough to cost nothing.
        values = {"interval": _COMMAND_INTERVAL, "timeout": _COMMAND_TIMEOUT, **values}
    return ProbeSettings(**values)


def _placements(reader: Reader, node: yaml.Node, path: str) -> tuple[PlacementSettings, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise Bad("must be a list of placements: - resource: mesh/MESH/virtualNode/NAME")
    placements = []
    for index, item in enumerate(node.value):
        values = reader.fields(item, f"{path}[{index}]", _PLACEMENT, required=("resource",))
        if "resource" in values:
            placements.append(PlacementSettings(**values))
    return tuple(placements)


def _host(reader: Reader, node: yaml.Node, path: str) -> HostSettings:
    return HostSettings(**reader.fields(node, path, _HOST))


def _metadata(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    # YAML 1.1 reads a bare off as false.
    if value.lower() in ("off", "false") or re.fullmatch(r"http://[A-Za-z0-9.:\[\]-]+", value):
        return "off" if value.lower() in ("off", "false") else value
    raise Bad(f"must be off, or the address of an EC2 metadata service such as http://169.254.169.254, found {value!r}")


def _labels(reader: Reader, node: yaml.Node, path: str) -> Mapping[str, str]:
    if not isinstance(node, yaml.MappingNode):
        raise Bad("must be a mapping such as {zone: eu-west-1a, role: web}")
    labels: dict[str, str] = {}
    for key_node, value_node in node.value:
        key, value = str(key_node.value), fields.text(reader, value_node, path)
        if words := label_fault(key, value):
            reader.fault(key_node, f"{path}.{key}", words)
        elif key in labels:
            reader.fault(key_node, f"{path}.{key}", "given twice")
        labels[key] = value
    if len(labels) > LABELS_LIMIT:
        raise Bad(f"must be at most {LABELS_LIMIT} labels, found {len(labels)}")
    return labels


def _version(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path)
    if not VERSION.fullmatch(value):
        raise Bad(f"must be a version of Envoy such as {DEFAULT_VERSION}, found {value!r}")
    return value


def _sha256(reader: Reader, node: yaml.Node, path: str) -> str:
    value = fields.text(reader, node, path).lower()
    if not SHA256.fullmatch(value):
        raise Bad(f"must be 64 hexadecimal digits, found {value!r}")
    return value


def _envoy(reader: Reader, node: yaml.Node, path: str) -> EnvoySettings:
    values = reader.fields(node, path, _ENVOY)
    if ("url" in values) != ("sha256" in values):
        reader.fault(
            node, path, "url and sha256 belong together: what is downloaded is used only if it is what you mean"
        )
    return EnvoySettings(**values)


_PROBE: Mapping[str, Check] = {
    "protocol": fields.one_of(*PROBE_PROTOCOLS),
    "path": fields.http_path,
    "unit": _unit,
    "command": _command,
    "interval": fields.duration,
    "timeout": fields.duration,
    "healthy": fields.within(1, 100),
    "unhealthy": fields.within(1, 100),
}
_INTERCEPT: Mapping[str, Check] = {
    "app_ports": fields.every(fields.within(1, 65535)),
    "egress_ignored_ip": fields.every(fields.network),
    "egress_ignored_ports": fields.every(fields.within(1, 65535)),
    "ignore_uid": fields.every(fields.within(0, 999999999)),
    "ignore_gid": fields.every(fields.within(0, 999999999)),
    "ipv6": fields.boolean,
}
_PLACEMENT: Mapping[str, Check] = {
    "resource": _resource,
    "mode": fields.one_of(*MODES),
    "application": fields.address,
    "application_user": _user,
    "intercept": _intercept,
    "probe": _probe,
}
_HOST: Mapping[str, Check] = {
    "name": _host_name,
    "address": fields.address,
    "first_slot": fields.within(0, 63),
    "labels": _labels,
    "metadata": _metadata,
}
_ENVOY: Mapping[str, Check] = {
    "version": _version,
    "url": fields.text,
    "sha256": _sha256,
    "directory": fields.absolute_path,
    "concurrency": fields.within(1, 1024),
    "log_level": fields.one_of(*ENVOY_LOG_LEVELS),
    "drain": fields.duration,
    "sds_socket": fields.absolute_path,
}
_SETTINGS: Mapping[str, Check] = {
    "state_directory": fields.absolute_path,
    "runtime_directory": _runtime_path,
    "join_token_file": fields.absolute_path,
    "join_token": fields.text,
    "host": _host,
    "hosts_file": _hosts_file,
    "placements": _placements,
    "envoy": _envoy,
    "log_level": fields.one_of(*LOG_LEVELS),
    "supervisor": fields.one_of(SYSTEMD, PROCESS),
    "status_address": fields.loopback,
}
