"""App Mesh's answers: the resource object, the reference in a list, ARNs. Pure."""

from __future__ import annotations

from typing import Any

from meshagent.api.changes import Record
from meshagent.specs.keys import Key
from meshagent.specs.naming import names_of


def arn(key: Key, region: str, account: str) -> str:
    return f"arn:aws:appmesh:{region}:{account}:{key.path}"


def metadata(record: Record, region: str) -> dict[str, Any]:
    """Times are epoch seconds, which is how App Mesh's protocol writes them."""
    found = record.metadata
    return {
        "arn": arn(record.key, region, found.resource_owner),
        "createdAt": found.created_at,
        "lastUpdatedAt": found.last_updated_at,
        "meshOwner": found.mesh_owner,
        "resourceOwner": found.resource_owner,
        "uid": found.uid,
        "version": found.version,
    }


def resource(record: Record, region: str, status: str = "ACTIVE") -> dict[str, Any]:
    """What Create, Describe, Update and Delete answer: the bare object."""
    return {
        **names_of(record.key),
        "spec": record.spec.body.wire(),
        "metadata": metadata(record, region),
        "status": {"status": status},
    }


def reference(record: Record, region: str) -> dict[str, Any]:
    """An item of a list: names and metadata without the uid."""
    return {
        **names_of(record.key),
        **{field: value for field, value in metadata(record, region).items() if field != "uid"},
    }
