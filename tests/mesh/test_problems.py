"""What the resources of a mesh say of each other that cannot work, told where it is said."""

from __future__ import annotations

import pytest

from meshagent.mesh.graph import Mesh
from meshagent.specs.documents import parse_text

SOUND = """\
{kind: Mesh, meshName: m}
---
{kind: VirtualNode, meshName: m, virtualNodeName: web, spec: {
  listeners: [{portMapping: {port: 80, protocol: http}}], serviceDiscovery: {dns: {hostname: web}},
  backends: [{virtualService: {virtualServiceName: db}}]}}
---
{kind: VirtualNode, meshName: m, virtualNodeName: db, spec: {
  listeners: [{portMapping: {port: 1, protocol: tcp}}, {portMapping: {port: 2, protocol: http}}]}}
---
{kind: VirtualNodePolicy, meshName: m, virtualNodeName: db, spec: {endpoints: leases}}
---
{kind: VirtualService, meshName: m, virtualServiceName: web, spec: {provider: {virtualRouter: {virtualRouterName: r}}}}
---
{kind: VirtualService, meshName: m, virtualServiceName: db, spec: {provider: {virtualNode: {virtualNodeName: db}}}}
---
{kind: VirtualRouter, meshName: m, virtualRouterName: r, spec: {listeners: [{portMapping: {port: 80, protocol: http}}]}}
---
{kind: Route, meshName: m, virtualRouterName: r, routeName: x, spec: {httpRoute: {match: {prefix: /},
  action: {weightedTargets: [{virtualNode: web, weight: 1}, {virtualNode: db, weight: 1, port: 2}]}}}}
---
{kind: VirtualGateway, meshName: m, virtualGatewayName: g, spec: {
  listeners: [{portMapping: {port: 80, protocol: http}}, {portMapping: {port: 81, protocol: grpc}}]}}
---
{kind: GatewayRoute, meshName: m, virtualGatewayName: g, gatewayRouteName: y, spec: {httpRoute: {match: {prefix: /},
  action: {target: {virtualService: {virtualServiceName: web}}}}}}
"""

X = "mesh/m/virtualRouter/r/route/x: "
Y = "mesh/m/virtualGateway/g/gatewayRoute/y: "
WEB = "mesh/m/virtualNode/web: "
TARGET = "httpRoute.action.weightedTargets"


def problems(text: str) -> list[str]:
    loaded = parse_text(text, "m.yaml")
    assert loaded.errors == ()
    return [str(problem) for problem in Mesh.build(loaded.specs).problems]


def test_a_sound_mesh_has_none() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{kind: Mesh, meshName: m}", "", ["mesh/m: is not defined, but resources of it are"]),
        (
            "{virtualServiceName: db}}]}}",
            "{virtualServiceName: db}}, {virtualService: {virtualServiceName: db}}, {virtualService: {virtualServiceName: no}}]}}",
            [
                WEB + 'backends[1].virtualService.virtualServiceName: "db" is a backend already, as backends[0]',
                WEB + 'backends[2].virtualService.virtualServiceName: the virtual service "no" is not defined',
            ],
        ),
        (
            "endpoints: leases",
            "endpoints: both",
            [
                "mesh/m/virtualNode/db: serviceDiscovery: is required beside listeners, "
                "unless a VirtualNodePolicy says `endpoints: leases`"
            ],
        ),
        (
            "virtualRouterName: r}}}}",
            "virtualRouterName: no}}}}",
            [
                'mesh/m/virtualService/web: provider.virtualRouter.virtualRouterName: the virtual router "no" is not defined'
            ],
        ),
        (
            "{provider: {virtualNode: {virtualNodeName: db}}}",
            "{provider: {virtualNode: {virtualNodeName: no}}}",
            ['mesh/m/virtualService/db: provider.virtualNode.virtualNodeName: the virtual node "no" is not defined'],
        ),
        (
            "{provider: {virtualNode: {virtualNodeName: db}}}",
            "{}",
            ["mesh/m/virtualService/db: provider: is not given: nothing serves this name"],
        ),
        (
            "{virtualNode: web, ",
            "{virtualNode: no, ",
            [X + TARGET + '[0].virtualNode: the virtual node "no" is not defined'],
        ),
        (
            ", port: 2}]",
            "}]",
            [X + TARGET + '[1].port: is required: the virtual node "db" listens on 1, 2'],
        ),
        (
            ", port: 2}]",
            ", port: 3}]",
            [X + TARGET + '[1].port: the virtual node "db" does not listen on 3, but on 1, 2'],
        ),
        (
            ", port: 2}]",
            ", port: 1}]",
            [X + TARGET + '[1].virtualNode: the virtual node "db" listens with tcp on port 1, the route is for http'],
        ),
        ("weight: 1", "weight: 0", [X + TARGET + ": have no weight together: at least one must be above 0"]),
        (
            "virtualRouterName: r, spec: {listeners: [{portMapping: {port: 80, protocol: http}}",
            "virtualRouterName: r, spec: {listeners: [{portMapping: {port: 80, protocol: http2}}",
            [X + 'httpRoute: the virtual router "r" listens with http2 on port 80, the route is for http'],
        ),
        (
            "{httpRoute: {match: {prefix: /},\n  action: {weighted",
            "{httpRoute: {match: {prefix: /, port: 90},\n  action: {weighted",
            [X + 'httpRoute.match.port: the virtual router "r" does not listen on 90, but on 80'],
        ),
        (
            "virtualRouterName: r, routeName",
            "virtualRouterName: no, routeName",
            [
                'mesh/m/virtualRouter/no/route/x: the virtual router "no" is not defined',
                "mesh/m/virtualRouter/r: has no route",
            ],
        ),
        (
            "virtualServiceName: web}}",
            "virtualServiceName: no}}",
            [Y + 'httpRoute.action.target.virtualService.virtualServiceName: the virtual service "no" is not defined'],
        ),
        (
            "virtualServiceName: web}}",
            "virtualServiceName: db}}",
            [Y + 'httpRoute.action.target.port: is required: the provider of "db" listens on 1, 2'],
        ),
        (
            "virtualServiceName: web}}",
            "virtualServiceName: db}, port: 1}",
            [
                Y + "httpRoute.action.target.virtualService.virtualServiceName: "
                'the provider of "db" listens with tcp on port 1, the route is for http'
            ],
        ),
        (
            "{httpRoute: {match: {prefix: /},\n  action: {target",
            "{http2Route: {match: {prefix: /},\n  action: {target",
            [Y + 'http2Route: the virtual gateway "g" has no listener for http2'],
        ),
        (
            "virtualGatewayName: g, gateway",
            "virtualGatewayName: no, gateway",
            ['mesh/m/virtualGateway/no/gatewayRoute/y: the virtual gateway "no" is not defined'],
        ),
        (
            "{port: 81, protocol: grpc}",
            "{port: 80, protocol: grpc}",
            ["mesh/m/virtualGateway/g: listeners[1].portMapping.port: 80 is taken already by listeners[0]"],
        ),
        (
            "virtualNodeName: db, spec: {endpoints",
            "virtualNodeName: no, spec: {endpoints",
            [
                "mesh/m/virtualNode/db: serviceDiscovery: is required beside listeners, "
                "unless a VirtualNodePolicy says `endpoints: leases`",
                'mesh/m/virtualNodePolicy/no: the virtual node "no" is not defined',
            ],
        ),
    ],
)
def test_each_problem_is_told_where_it_is_said(old: str, new: str, expected: list[str]) -> None:
    assert old in SOUND
    assert problems(SOUND.replace(old, new)) == expected
