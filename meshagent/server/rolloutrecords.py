"""How releases of Envoy and policies for them are kept in the store: keys and JSON. Pure.

    envoy/release/<version>                 Release
    envoy/policy/all | host/<name> | selector/<text>    Policy

Unknown fields of a later version are dropped when a record is read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import quote, unquote

from meshagent.server.records import RecordError
from meshagent.server.rollout import Policy, Release, Scope
from meshagent.store.base import Entry

RELEASES, POLICIES = "envoy/release/", "envoy/policy/"


def release_key(version: str) -> str:
    return f"{RELEASES}{quote(version, safe='')}"


def version_of(key: str) -> str:
    return unquote(key.removeprefix(RELEASES))


def policy_key(scope: Scope) -> str:
    return f"{POLICIES}{scope.kind}" if scope.kind == "all" else f"{POLICIES}{scope.kind}/{quote(scope.name, safe='')}"


def scope_of(key: str) -> Scope:
    kind, _, name = key.removeprefix(POLICIES).partition("/")
    return Scope(kind, unquote(name))


def encode(record: Release | Policy) -> bytes:
    return json.dumps(asdict(record), sort_keys=True, separators=(",", ":")).encode()


def decode_release(entry: Entry) -> Release:
    try:
        return Release(**_known(Release, entry))
    except (TypeError, ValueError) as error:
        raise RecordError(f"{entry.key}: is no record of a version of Envoy: {error}") from error


def decode_policy(entry: Entry) -> Policy:
    try:
        policy = Policy(**{**_known(Policy, entry), "scope": scope_of(entry.key)})
        if policy.scope.kind == "selector":
            _ = policy.scope.selector
        elif policy.scope.kind not in ("all", "host"):
            raise ValueError(f"unknown scope {policy.scope.kind}")
    except (TypeError, ValueError) as error:
        raise RecordError(f"{entry.key}: is no record of a policy for Envoy's version: {error}") from error
    return policy


def _known(record: type, entry: Entry) -> dict[str, Any]:
    found = json.loads(entry.value)
    names = {one.name for one in fields(record)}
    return {name: value for name, value in found.items() if name in names}
