"""Checked values out of YAML: a walk over its nodes, whose marks give the lines, and the checks of single values.

Every fault is gathered, with its line and path, instead of stopping at the first; an unknown key is a fault.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


class Bad(Exception):
    """A value that is not what it should be; carries what would be right."""


Check = Callable[["Reader", yaml.Node, str], Any]


class Reader:
    """Walks the YAML nodes, whose marks give the lines, and gathers faults instead of stopping at the first."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.faults: list[str] = []

    def fault(self, node: yaml.Node, path: str, words: str) -> None:
        self.faults.append(f"{self.filename}:{node.start_mark.line + 1}: {path or 'the document'}: {words}")

    def fields(
        self, node: yaml.Node, path: str, checks: Mapping[str, Check], required: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, f"must be a mapping with {', '.join(checks)}")
            return {}
        values: dict[str, Any] = {}
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = f"{path}.{key}" if path else key
            if key not in checks:
                close = get_close_matches(key, checks, 1)
                self.fault(
                    key_node,
                    here,
                    f"unknown key; {f'did you mean {close[0]}?' if close else 'known are ' + ', '.join(checks)}",
                )
            elif key in seen:
                self.fault(key_node, here, "given twice")
            else:
                seen.add(key)
                try:
                    values[key] = checks[key](self, value_node, here)
                except Bad as bad:
                    self.fault(value_node, here, str(bad))
        for key in required:
            if key not in seen:
                self.fault(node, path, f"{key} is missing")
        return values


def text(reader: Reader, node: yaml.Node, path: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip() or node.tag == "tag:yaml.org,2002:null":
        raise Bad("must be text")
    return str(node.value)


def absolute_path(reader: Reader, node: yaml.Node, path: str) -> Path:
    value = Path(text(reader, node, path))
    if not value.is_absolute():
        raise Bad(f"must be an absolute path, found {value}")
    return value


def address(reader: Reader, node: yaml.Node, path: str) -> str:
    value = text(reader, node, path)
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise Bad(f"must be an IP address, found {value!r}") from None
    if parsed.is_unspecified or parsed.is_multicast:
        raise Bad(f"must be one host's address, found {value}")
    return str(parsed)


def loopback(reader: Reader, node: yaml.Node, path: str) -> tuple[str, int]:
    value = text(reader, node, path)
    host, _, port = value.rpartition(":")
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback or not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= 65535:
        raise Bad(f"must be a loopback address and a port, such as 127.0.0.1:9903, found {value!r}")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)


def duration(reader: Reader, node: yaml.Node, path: str) -> float:
    value = text(reader, node, path)
    match = _DURATION.fullmatch(value)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0.01 <= seconds <= 3600:
        raise Bad(f"must be a duration such as 1s or 500ms, from 10ms to 1h, found {value!r}")
    return seconds


def within(low: int, high: int) -> Check:
    def check(reader: Reader, node: yaml.Node, path: str) -> int:
        value = text(reader, node, path)
        if not re.fullmatch(r"-?\d{1,9}", value) or not low <= int(value) <= high:
            raise Bad(f"must be a number from {low} to {high}, found {value!r}")
        return int(value)

    return check


def one_of(*words: str) -> Check:
    def check(reader: Reader, node: yaml.Node, path: str) -> str:
        value = text(reader, node, path)
        if value not in words:
            raise Bad(f"must be one of {', '.join(words)}, found {value!r}")
        return value

    return check


def http_path(reader: Reader, node: yaml.Node, path: str) -> str:
    value = text(reader, node, path)
    if not re.fullmatch(r"/[!-~]*", value):
        raise Bad(f"must be a path that begins with /, without spaces, found {value!r}")
    return value


def boolean(reader: Reader, node: yaml.Node, path: str) -> bool:
    value = text(reader, node, path)
    if value not in ("true", "false"):
        raise Bad(f"must be true or false, found {value!r}")
    return value == "true"


def network(reader: Reader, node: yaml.Node, path: str) -> str:
    value = text(reader, node, path)
    try:
        found = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Bad(f"must be an IP address or a network such as 10.0.0.0/8, found {value!r}") from None
    return str(found.network_address) if found.num_addresses == 1 else str(found)


def every(check: Check) -> Check:
    """One or a list of them."""

    def checked(reader: Reader, node: yaml.Node, path: str) -> tuple[Any, ...]:
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return tuple(check(reader, item, f"{path}[{index}]") for index, item in enumerate(items))

    return checked
