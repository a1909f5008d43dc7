"""What a proxy serves from when no server is in reach: for each resource, the last version that its Envoy took.

Saved durably after Envoy has spoken, never before. A file that cannot be read is set aside and reported, never fatal: the server will
send everything again. Resource bodies are bytes here; nobody looks inside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from meshagent.host.files import FileError, read_if_there, set_aside, write_durably
from meshagent.protocol import host_pb2
from meshagent.xds.snapshot import Resource, Snapshot, Stamp
from meshagent.xds.stream import Rejection

log = logging.getLogger(__name__)

T = TypeVar("T")

# What Envoy refused: (type_url, name) -> the version and Envoy's words.
Refusals = Mapping[tuple[str, str], Rejection]


def refusals(rejected: Iterable[Rejection]) -> Refusals:
    return {(rejection.type_url, rejection.name): rejection for rejection in rejected}


def standing(known: Refusals, snapshot: Snapshot) -> Refusals:
    """The refusals that still speak of a version in this snapshot; a changed resource starts afresh."""
    return {
        (type_url, name): rejection
        for (type_url, name), rejection in known.items()
        if (resource := snapshot.of(type_url).get(name)) and resource.version == rejection.version
    }


def acceptable(candidate: Snapshot, held: Snapshot | None, refused: Refusals) -> Snapshot:
    """The candidate with each refused resource at the version that Envoy holds, or without it where it holds none.

    It is what Envoy is offered when the refusal is known beforehand, and what is saved once it is: both times, what Envoy has."""
    if not refused:
        return candidate
    resources: dict[str, Mapping[str, Resource]] = dict(candidate.resources)
    for type_url, name in refused:
        of_type = dict(resources.get(type_url, {}))
        older = held.of(type_url).get(name) if held else None
        if older is None:
            of_type.pop(name, None)
        else:
            of_type[name] = older
        resources[type_url] = of_type
    return Snapshot(resources, candidate.stamp)


def encode_stamp(stamp: Stamp) -> host_pb2.Stamp:
    return host_pb2.Stamp(lineage=stamp.lineage, revision=stamp.revision, reason=stamp.reason)


def decode_stamp(stamp: host_pb2.Stamp) -> Stamp:
    return Stamp(stamp.lineage, stamp.revision, stamp.reason)


def encode(snapshot: Snapshot) -> bytes:
    return host_pb2.SavedSnapshot(
        stamp=encode_stamp(snapshot.stamp),
        resources=[
            host_pb2.SavedResource(
                type_url=resource.type_url, name=resource.name, version=resource.version, body=resource.body
            )
            for of_type in snapshot.resources.values()
            for resource in of_type.values()
        ],
    ).SerializeToString(deterministic=True)


def decode(content: bytes) -> Snapshot:
    """Raises ValueError for anything that `encode` did not make; a resource's version is checked against its body."""
    saved = host_pb2.SavedSnapshot()
    try:
        saved.ParseFromString(content)
    except DecodeError as error:
        raise ValueError("not a saved snapshot") from error
    if not saved.stamp.lineage:
        raise ValueError("a saved snapshot without a lineage")
    resources = []
    for item in saved.resources:
        resource = Resource.of(item.type_url, item.name, item.body)
        if resource.version != item.version:
            raise ValueError(f"{item.name} is not the version {item.version} that it says it is")
        resources.append(resource)
    try:
        return Snapshot.build(resources, decode_stamp(saved.stamp))
    except KeyError as error:
        raise ValueError(f"unknown type {error}") from error


def save(path: Path, snapshot: Snapshot) -> None:
    write_durably(path, encode(snapshot))


def load(path: Path) -> Snapshot | None:
    """What was saved; None when there is nothing, or nothing that can be used."""
    content = read_if_there(path)
    return None if content is None else _usable(path, decode, content)


def save_desired(path: Path, desired: host_pb2.Desired) -> None:
    write_durably(path, desired.SerializeToString(deterministic=True))


def load_desired(path: Path) -> host_pb2.Desired | None:
    content = read_if_there(path)
    return None if content is None else _usable(path, _decode_desired, content)


def _decode_desired(content: bytes) -> host_pb2.Desired:
    desired = host_pb2.Desired()
    try:
        desired.ParseFromString(content)
    except DecodeError as error:
        raise ValueError("not a saved desired state") from error
    if not desired.stamp.lineage:
        raise ValueError("a desired state without a lineage")
    return desired


def _usable(path: Path, decoder: Callable[[bytes], T], content: bytes) -> T | None:
    try:
        return decoder(content)
    except ValueError as error:
        try:
            aside = set_aside(path)
        except FileError as failure:
            log.error("%s cannot be used (%s), and %s", path, error, failure)
        else:
            log.error("%s cannot be used (%s): set aside as %s; the server will send it again", path, error, aside.name)
        return None
