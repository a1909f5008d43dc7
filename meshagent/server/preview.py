"""What a change of configuration would do to the proxies there are: compiled before and after, and the difference as Envoy's JSON.

Nothing is written and nothing is offered. Reads the Reconciler; must not know the API's routes or the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from meshagent.api.changes import Change
from meshagent.envoy.compile import Compiler
from meshagent.envoy.readable import readable
from meshagent.mesh.graph import Mesh, Touch, allocate_indexes
from meshagent.mesh.placement import Placement
from meshagent.server.reconcile import Reconciler
from meshagent.specs.keys import Kind
from meshagent.xds.snapshot import ORDER, SHORT_NAMES, Snapshot


async def preview(reconciler: Reconciler, trust_domain: str, changes: Iterable[Change]) -> list[dict[str, Any]]:
    """One entry for each resource of each proxy that would be added, removed or changed, in the order of the proxies' ids.

    The loop goes on between two proxies: a change that touches all of them must not hold up who is served."""
    mesh, touched = changed_mesh(reconciler.mesh, changes)
    # A memo of its own: the reconciler's holds the pieces of the mesh as it is.
    compiler = Compiler()
    found: list[dict[str, Any]] = []
    for id_ in sorted(reconciler.readers(touched)):
        placement, before = reconciler.placements.get(id_), reconciler.snapshot(id_)
        if placement is not None:
            found += differences(
                placement, before or Snapshot(), compiler.compile(mesh, placement, trust_domain).snapshot
            )
        await asyncio.sleep(0)
    return found


def changed_mesh(mesh: Mesh, changes: Iterable[Change]) -> tuple[Mesh, frozenset[Touch]]:
    """The mesh as it would be. New virtual services get the addresses that they would be given now."""
    specs = {change.key: change.after for change in changes if change.before != change.after}
    services = [key for key, after in specs.items() if after is not None and key.kind is Kind.VIRTUAL_SERVICE]
    return mesh.replace(specs=specs, indexes=allocate_indexes(services, mesh.indexes), revision=mesh.revision + 1)


def differences(placement: Placement, before: Snapshot, after: Snapshot) -> Iterator[dict[str, Any]]:
    for type_url in ORDER:
        old, new = before.of(type_url), after.of(type_url)
        for name in sorted(old.keys() | new.keys()):
            was, is_ = old.get(name), new.get(name)
            if was is not None and is_ is not None and was.version == is_.version:
                continue
            yield {
                "proxy": placement.id,
                "resource": placement.resource.path,
                "host": placement.host,
                "type": SHORT_NAMES[type_url],
                "name": name,
                "change": "added" if was is None else "removed" if is_ is None else "changed",
                "before": readable(was) if was is not None else None,
                "after": readable(is_) if is_ is not None else None,
            }
