"""A host's facts for people and for selectors: the same words wherever they are shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshagent.protocol import host_pb2
from meshagent.protocol.labels import label_fault

_LONGEST, _MOST = 256, 64
# What a host may be selected by, beside its labels: what does not change from one minute to the next.
_ATTRIBUTES = {
    "os": "os",
    "os-version": "os_version",
    "kernel": "kernel",
    "arch": "arch",
    "systemd": "systemd",
    "instance-id": "instance_id",
    "instance-type": "instance_type",
    "zone": "zone",
    "region": "region",
}


def attributes(facts: host_pb2.Facts) -> dict[str, str]:
    """What selectors know a host by; a value that no selector could name is left out."""
    found = {key: str(getattr(facts, name)) for key, name in _ATTRIBUTES.items()}
    return {key: value for key, value in found.items() if value and not label_fault(key, value)}


def facts_json(facts: host_pb2.Facts) -> Mapping[str, Any]:
    """As /status and /v1/hosts have it. They come from a host: long ones are cut."""
    return {
        "os": facts.os[:_LONGEST],
        "osVersion": facts.os_version[:_LONGEST],
        "kernel": facts.kernel[:_LONGEST],
        "arch": facts.arch[:_LONGEST],
        "systemd": facts.systemd[:_LONGEST],
        "booted": facts.booted,
        "cpus": facts.cpus,
        "load": facts.load,
        "memory": {"totalBytes": facts.memory_total, "availableBytes": facts.memory_available},
        "disks": [
            {
                "path": disk.path[:_LONGEST],
                "totalBytes": disk.total,
                "usedPercent": disk.used_percent,
                "readOnly": disk.read_only,
            }
            for disk in facts.disks[:_MOST]
        ],
        "addresses": [address[:_LONGEST] for address in facts.addresses[:_MOST]],
        "instance": {
            "id": facts.instance_id[:_LONGEST],
            "type": facts.instance_type[:_LONGEST],
            "zone": facts.zone[:_LONGEST],
            "region": facts.region[:_LONGEST],
        },
    }
