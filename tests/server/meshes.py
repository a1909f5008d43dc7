"""A small shop for the server's tests: specs from text, hosts as records."""

from __future__ import annotations

from meshagent.mesh.placement import Endpoint, Health
from meshagent.server.desired import placement_id
from meshagent.server.events import Changes
from meshagent.server.records import HostRecord, LineageRecord, PlacementRecord
from meshagent.specs.documents import parse_text
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Spec

SHOP = """
kind: Mesh
meshName: shop
spec: {}
---
kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: web.shop.internal}}
  backends: [{virtualService: {virtualServiceName: catalog.shop.internal}}]
---
kind: VirtualNode
meshName: shop
virtualNodeName: catalog
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
    healthCheck: {protocol: http, path: /ping, healthyThreshold: 2, unhealthyThreshold: 2, intervalMillis: 5000, timeoutMillis: 2000}
  serviceDiscovery: {dns: {hostname: catalog-nodes.shop.internal}}
---
kind: VirtualRouter
meshName: shop
virtualRouterName: catalog
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: Route
meshName: shop
virtualRouterName: catalog
routeName: all
spec: {httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNode: catalog, weight: 1}]}}}
---
kind: VirtualService
meshName: shop
virtualServiceName: catalog.shop.internal
spec: {provider: {virtualRouter: {virtualRouterName: catalog}}}
"""

WEB, CATALOG = "mesh/shop/virtualNode/web", "mesh/shop/virtualNode/catalog"


def specs(text: str = SHOP) -> dict[Key, Spec]:
    loaded = parse_text(text, "shop.yaml")
    assert not loaded.errors, loaded.errors
    return {spec.key: spec for spec in loaded.specs}


def host(name: str, *resources: str, address: str = "10.0.0.1", leased: bool = True) -> HostRecord:
    placements = tuple(
        PlacementRecord(placement_id(name, resource, 0), resource, 0, slot, "bind", address, "127.0.0.1", leased)
        for slot, resource in enumerate(resources)
    )
    return HostRecord(name, ("mesh/shop/*",), address=address, placements=placements)


def lease(record: HostRecord, health: Health = Health.HEALTHY) -> Endpoint:
    """Of the host's first placement."""
    placement = record.placements[0]
    return Endpoint(Key.parse(placement.resource), placement.address, record.host, placement.id, health, leased=True)


def shop(*hosts: HostRecord, revision: int = 10, lineage: str = "ours") -> Changes:
    found = specs()
    services = [key for key in found if key.kind is Kind.VIRTUAL_SERVICE]
    return Changes(
        revision=revision,
        specs=dict(found),
        indexes={key: number for number, key in enumerate(services, start=1)},
        hosts={record.host: record for record in hosts},
        lineage=LineageRecord(lineage),
    )
