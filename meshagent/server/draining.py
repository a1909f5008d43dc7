"""Whether the mesh knows that a placement drains: the endpoint is out of rotation, and every proxy that calls it has taken that. Pure."""

from __future__ import annotations

from collections.abc import Callable

from meshagent.mesh.placement import Health
from meshagent.server.reconcile import Reconciler
from meshagent.specs.keys import Key, Kind
from meshagent.xds.snapshot import ENDPOINT
from meshagent.xds.stream import AdsStream


def in_rotation(reconciler: Reconciler, node: Key, placement: str) -> bool:
    return any(one.placement == placement and one.health is Health.HEALTHY for one in reconciler.mesh.endpoints(node))


def unheard(reconciler: Reconciler, node: Key, stream: Callable[[str], AdsStream | None]) -> list[str]:
    """The connected proxies that may still send requests by what they knew of the node's endpoints before. One whose agent is away cannot
    be told, and is not waited for."""
    found = []
    for reader in sorted(reconciler.readers([("endpoints", node)])):
        open_stream = stream(reader)
        if open_stream is None:
            continue
        current = reconciler.snapshot(reader)
        if current is not None and not (open_stream.target is current and open_stream.settled(ENDPOINT)):
            found.append(reader)
    return found


def heard(reconciler: Reconciler, node: Key, placement: str, stream: Callable[[str], AdsStream | None]) -> bool:
    """A gateway is nobody's endpoint: who calls it, the mesh does not know."""
    if node.kind is not Kind.VIRTUAL_NODE:
        return True
    return not in_rotation(reconciler, node, placement) and not unheard(reconciler, node, stream)
