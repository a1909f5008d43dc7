"""Envoy's resources in Envoy's JSON form, for people and for Envoy's own configuration files: field names as in Envoy's
documents, each Any opened under its "@type"."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToJson

from meshagent.envoy.static import message_of
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot

_SECTIONS = {"listeners": LISTENER, "clusters": CLUSTER, "routes": ROUTE, "endpoints": ENDPOINT}


def readable(resource: Resource) -> dict[str, Any]:
    # By way of text: what comes straight out of protobuf has ordered dicts in it, which YAML does not know.
    form: dict[str, Any] = json.loads(MessageToJson(message_of(resource), preserving_proto_field_name=True))
    return form


def readable_snapshot(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """{"listeners": [...], "clusters": [...], "routes": [...], "endpoints": [...]}, each by name."""
    return {
        section: [readable(resource) for _, resource in sorted(snapshot.of(type_url).items())]
        for section, type_url in _SECTIONS.items()
    }
