"""MeshSpec as a frozen model: what holds for a whole mesh, by App Mesh's API model 2019-01-25.

It knows of no other kind.
"""

from __future__ import annotations

from enum import StrEnum

from meshagent.specs.fields import IpPreference, Model


class EgressFilterType(StrEnum):
    ALLOW_ALL = "ALLOW_ALL"
    DROP_ALL = "DROP_ALL"


class EgressFilter(Model):
    type: EgressFilterType


class MeshServiceDiscovery(Model):
    ip_preference: IpPreference | None = None


class MeshSpec(Model):
    egress_filter: EgressFilter | None = None
    service_discovery: MeshServiceDiscovery | None = None
