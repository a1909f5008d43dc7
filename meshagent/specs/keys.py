"""What names a thing in a mesh: its kind and its place in App Mesh's tree.

    mesh/M                                     mesh/M/virtualRouter/R/route/X
    mesh/M/virtualNode/N                       mesh/M/virtualGateway/G/gatewayRoute/X
    mesh/M/virtualService/S

These paths are the tails of App Mesh's ARNs, the ids in status and errors, and the keys in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote


class Kind(StrEnum):
    MESH = "Mesh"
    VIRTUAL_NODE = "VirtualNode"
    VIRTUAL_SERVICE = "VirtualService"
    VIRTUAL_ROUTER = "VirtualRouter"
    ROUTE = "Route"
    VIRTUAL_GATEWAY = "VirtualGateway"
    GATEWAY_ROUTE = "GatewayRoute"
    # Our own: what App Mesh has no word for.
    MESH_POLICY = "MeshPolicy"
    VIRTUAL_NODE_POLICY = "VirtualNodePolicy"

    @property
    def segment(self) -> str:
        """The kind's word in a path: virtualNode, gatewayRoute, mesh."""
        return self.value[0].lower() + self.value[1:]

    @property
    def name_field(self) -> str:
        """The field that carries the name in documents and API calls: virtualNodeName.

        A policy is named after what it governs."""
        return _NAME_FIELDS.get(self, f"{self.segment}Name")

    @property
    def parent(self) -> Kind | None:
        """The kind that holds this one inside a mesh; None where the mesh itself does."""
        return _PARENTS.get(self)


_PARENTS = {Kind.ROUTE: Kind.VIRTUAL_ROUTER, Kind.GATEWAY_ROUTE: Kind.VIRTUAL_GATEWAY}
_NAME_FIELDS = {Kind.MESH_POLICY: "meshName", Kind.VIRTUAL_NODE_POLICY: "virtualNodeName"}
_SEGMENTS = {kind.segment: kind for kind in Kind}

APP_MESH_KINDS = (
    Kind.MESH,
    Kind.VIRTUAL_NODE,
    Kind.VIRTUAL_SERVICE,
    Kind.VIRTUAL_ROUTER,
    Kind.ROUTE,
    Kind.VIRTUAL_GATEWAY,
    Kind.GATEWAY_ROUTE,
)


@dataclass(frozen=True, order=True)
class Key:
    """`parent` is the router's or gateway's name for routes and gateway routes, else None. A mesh's and its policy's `name` is its own."""

    mesh: str
    kind: Kind
    name: str
    parent: str | None = None

    def __post_init__(self) -> None:
        if (self.kind.parent is None) != (self.parent is None):
            raise ValueError(f"a {self.kind} {'has' if self.kind.parent else 'has no'} parent: {self!r}")

    @property
    def path(self) -> str:
        """`mesh/M/virtualRouter/R/route/X`, each name percent-encoded."""
        mesh = f"mesh/{_quoted(self.mesh)}"
        if self.kind is Kind.MESH:
            return mesh
        if self.kind is Kind.MESH_POLICY:
            return f"{mesh}/meshPolicy"
        own = f"{self.kind.segment}/{_quoted(self.name)}"
        if self.kind.parent is not None:
            return f"{mesh}/{self.kind.parent.segment}/{_quoted(self.parent or '')}/{own}"
        return f"{mesh}/{own}"

    def __str__(self) -> str:
        return self.path

    @property
    def parent_key(self) -> Key | None:
        """The resource that must exist before this one may: the router of a route, the mesh of a node; None for a mesh."""
        if self.kind is Kind.MESH:
            return None
        if self.kind.parent is not None:
            return Key(self.mesh, self.kind.parent, self.parent or "")
        return mesh_key(self.mesh)

    @classmethod
    def parse(cls, path: str) -> Key:
        """The inverse of `path`; ValueError says what is wrong."""
        parts = [unquote(part) for part in path.split("/")]
        if len(parts) < 2 or parts[0] != "mesh" or not all(parts):
            raise ValueError(f"{path!r} is not a resource path such as mesh/shop/virtualNode/web")
        mesh, rest = parts[1], parts[2:]
        if not rest:
            return mesh_key(mesh)
        if rest == ["meshPolicy"]:
            return cls(mesh, Kind.MESH_POLICY, mesh)
        kinds = [_SEGMENTS.get(segment) for segment in rest[::2]]
        match (kinds, rest[1::2]):
            case ([Kind() as kind], [name]) if kind.parent is None and kind not in (Kind.MESH, Kind.MESH_POLICY):
                return cls(mesh, kind, name)
            case ([Kind() as above, Kind() as kind], [parent, name]) if kind.parent is above:
                return cls(mesh, kind, name, parent)
        raise ValueError(f"{path!r} is not a resource path such as mesh/shop/virtualNode/web")


def _quoted(name: str) -> str:
    return quote(name, safe="")


def mesh_key(mesh: str) -> Key:
    return Key(mesh, Kind.MESH, mesh)


def node_key(mesh: str, name: str) -> Key:
    return Key(mesh, Kind.VIRTUAL_NODE, name)


def service_key(mesh: str, name: str) -> Key:
    return Key(mesh, Kind.VIRTUAL_SERVICE, name)


def router_key(mesh: str, name: str) -> Key:
    return Key(mesh, Kind.VIRTUAL_ROUTER, name)


def route_key(mesh: str, router: str, name: str) -> Key:
    return Key(mesh, Kind.ROUTE, name, router)


def gateway_key(mesh: str, name: str) -> Key:
    return Key(mesh, Kind.VIRTUAL_GATEWAY, name)


def gateway_route_key(mesh: str, gateway: str, name: str) -> Key:
    return Key(mesh, Kind.GATEWAY_ROUTE, name, gateway)
