"""The values that xDS moves: resources, and the snapshot of all that one proxy needs. Type URLs and bytes; never what
is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

# Make before break: additions go out in this order, removals in its reverse.
ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE)

SHORT_NAMES = {CLUSTER: "cluster", ENDPOINT: "endpoints", LISTENER: "listener", ROUTE: "route"}


@dataclass(frozen=True)
class Resource:
    """One Envoy resource. `body` is the serialised message without the Any around it; `version` is a hash of it, so
    that equal input gives equal versions on every server and after every restart."""

    type_url: str
    name: str
    version: str
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> Resource:
        return cls(type_url, name, hashlib.sha256(body).hexdigest()[:16], body)


@dataclass(frozen=True)
class Stamp:
    """Where a snapshot comes from: the control plane's lineage (random, made at its first start) and its store's
    revision.

    `reason` names the operator's act (a deletion, a spec that says so) by which a snapshot may rightly be empty; ""
    when there is none."""

    lineage: str = ""
    revision: int = 0
    reason: str = ""

    def __str__(self) -> str:
        """The form in `system_version_info`: lineage/revision or lineage/revision/reason."""
        return f"{self.lineage}/{self.revision}" + (f"/{self.reason}" if self.reason else "")

    @classmethod
    def parse(cls, text: str) -> Stamp:
        lineage, _, rest = text.partition("/")
        revision, _, reason = rest.partition("/")
        if not lineage or not revision.isdigit():
            raise ValueError(f"{text!r} is not a stamp such as 6f1d.../42")
        return cls(lineage, int(revision), reason)


_NONE: Mapping[str, Resource] = MappingProxyType({})


@dataclass(frozen=True)
class Snapshot:
    """All resources of one proxy, keyed type_url -> name.

    Closed: every name that one of them refers to is in it, and nothing is in it that none refers to. An EDS cluster's
    load assignment has the cluster's own name."""

    resources: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)
    stamp: Stamp = field(default_factory=Stamp)

    def of(self, type_url: str) -> Mapping[str, Resource]:
        return self.resources.get(type_url, _NONE)

    @classmethod
    def build(cls, resources: list[Resource] | tuple[Resource, ...], stamp: Stamp) -> Snapshot:
        by_type: dict[str, dict[str, Resource]] = {type_url: {} for type_url in ORDER}
        for resource in resources:
            by_type[resource.type_url][resource.name] = resource
        return cls(by_type, stamp)
