"""VirtualServiceSpec and VirtualRouterSpec as frozen models: the names that are called, and what answers to them.

Whether a provider is defined is a Problem of `meshagent.mesh`, never an error here.
"""

from __future__ import annotations

from meshagent.specs.fields import Model, OneOf, PortMapping, ResourceName


class VirtualNodeServiceProvider(Model):
    virtual_node_name: ResourceName


class VirtualRouterServiceProvider(Model):
    virtual_router_name: ResourceName


class VirtualServiceProvider(OneOf):
    virtual_node: VirtualNodeServiceProvider | None = None
    virtual_router: VirtualRouterServiceProvider | None = None


class VirtualServiceSpec(Model):
    provider: VirtualServiceProvider | None = None


class VirtualRouterListener(Model):
    port_mapping: PortMapping


class VirtualRouterSpec(Model):
    listeners: tuple[VirtualRouterListener, ...] = ()
