"""What App Mesh has no word for, as documents beside its own.

kind: MeshPolicy             kind: VirtualNodePolicy
meshName: shop               meshName: shop
spec:                        virtualNodeName: web
  mutualTls: STRICT          spec:
                               endpoints: leases
"""

from __future__ import annotations

from enum import StrEnum

from meshagent.specs.fields import Model


class MutualTls(StrEnum):
    """PERMISSIVE: listeners take mutual TLS and plaintext, clients speak mutual TLS to endpoints that have a lease.

    STRICT: mutual TLS only, for all."""

    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class EndpointSource(StrEnum):
    """What makes a virtual node's endpoints: its agents' leases, its service discovery, or the union with leases speaking first."""

    LEASES = "leases"
    DISCOVERY = "discovery"
    BOTH = "both"


class MeshPolicySpec(Model):
    mutual_tls: MutualTls = MutualTls.PERMISSIVE


class VirtualNodePolicySpec(Model):
    endpoints: EndpointSource = EndpointSource.BOTH
