"""How configuration is kept in the store: keys and JSON. Pure.

    config/<resource path>       {"spec", "metadata", "source", "tags", "clientToken"}
    services/<mesh>/<service>    {"index": n}    stays when the service is deleted: an index is never another service's
    deleted/<resource path>      {"by", "at", "revision"}    there until the resource is created again
    meta/configuration           {"by", "at"}    the last write; the guard that makes writers take turns

Unknown fields of a later version are dropped when a record is read.
"""

from __future__ import annotations

import json
from typing import Any

from meshagent.api.changes import Metadata, Record
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import MODELS, Source, Spec
from meshagent.store.base import Entry, StoreError

CONFIG, SERVICES, DELETED, GUARD = "config/", "services/", "deleted/", "meta/configuration"


def config_key(key: Key) -> str:
    return CONFIG + key.path


def deleted_key(key: Key) -> str:
    return DELETED + key.path


def index_key(service: Key) -> str:
    mesh, _, name = service.path.removeprefix("mesh/").partition(f"/{Kind.VIRTUAL_SERVICE.segment}/")
    return f"{SERVICES}{mesh}/{name}"


def encode(record: Record) -> bytes:
    metadata = record.metadata
    return packed(
        {
            "spec": record.spec.body.wire(),
            "metadata": {
                "uid": metadata.uid,
                "version": metadata.version,
                "createdAt": metadata.created_at,
                "lastUpdatedAt": metadata.last_updated_at,
                "meshOwner": metadata.mesh_owner,
                "resourceOwner": metadata.resource_owner,
            },
            "source": {"file": record.spec.source.file, "line": record.spec.source.line},
            "tags": [{"key": key, "value": value} for key, value in record.tags],
            "clientToken": record.client_token,
        }
    )


def decode(entry: Entry) -> Spec:
    """The spec of an entry under config/; StoreError where it is none that this release reads."""
    return decode_record(entry).spec


def decode_record(entry: Entry) -> Record:
    try:
        key = key_of(entry.key)
        found = json.loads(entry.value)
        metadata, source = found["metadata"], found.get("source", {})
        return Record(
            Spec(
                key,
                MODELS[key.kind].model_validate(found["spec"]),
                Source(source.get("file", ""), source.get("line", 0)),
            ),
            Metadata(
                metadata["uid"],
                metadata["version"],
                metadata["createdAt"],
                metadata["lastUpdatedAt"],
                metadata["meshOwner"],
                metadata["resourceOwner"],
            ),
            tuple((tag["key"], tag["value"]) for tag in found.get("tags", ())),
            found.get("clientToken", ""),
            entry.revision,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"{entry.key} does not hold a resource that this release can read: {error}") from error


def key_of(key: str) -> Key:
    """The resource of a key under config/ or deleted/; ValueError where it is none."""
    _, _, path = key.partition("/")
    return Key.parse(path)


def decode_index(entry: Entry) -> tuple[Key, int]:
    """The virtual service and its address index, of an entry under services/."""
    try:
        return service_of(entry.key), int(json.loads(entry.value)["index"])
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{entry.key} does not hold a service's address index: {error}") from error


def service_of(key: str) -> Key:
    _, mesh, name = key.split("/")
    return Key.parse(f"mesh/{mesh}/{Kind.VIRTUAL_SERVICE.segment}/{name}")


def packed(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
