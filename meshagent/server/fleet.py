"""The shell around the rollout of Envoy's versions: wakes when a host, a policy or a report changes, asks `decide`, writes what it says.

All that it knows of the past is in the store, so that a server that starts anew, or another one, goes on where this one was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from meshagent.protocol import host_pb2
from meshagent.server.loop import Loop
from meshagent.server.records import HostRecord, Order
from meshagent.server.registry import edit_host
from meshagent.server.rollout import Decision, Host, Policy, Report, Scope, decide
from meshagent.server.rolloutrecords import decode_policy, encode, policy_key
from meshagent.server.status import HostSeen, Status
from meshagent.store.base import Conflict, Delete, Put, Store, StoreError

TICK_SECONDS = 5.0
# Reports come in crowds: they are looked at together.
PACE_SECONDS = 0.5
_ATTEMPTS = 10

_log = logging.getLogger(__name__)


class Fleet:
    def __init__(self, store: Store, loop: Loop, seen: Status, clock: Callable[[], float] = time.time) -> None:
        self._store, self._loop, self._seen, self._clock = store, loop, seen, clock
        self._began = clock()
        self._woken = asyncio.Event()
        loop.listeners.append(lambda applied: self.wake() if applied.hosts or applied.policies else None)
        seen.listeners.append(lambda host: self.wake())

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self.step()
            except StoreError as error:
                _log.warning("the rollout of Envoy's versions waits for the store: %s", error)
            await asyncio.sleep(PACE_SECONDS)

    async def step(self) -> None:
        """One look: what is due is written, and seen in the Mesh before the next one."""
        reconciler = self._loop.reconciler
        ordered = any(record.envoy is not None for record in reconciler.hosts.values())
        if reconciler.rolled_back is not None or not (reconciler.policies or ordered):
            return
        now, hosts = self._clock(), self.hosts()
        number = max([int(now * 1000), *(host.order.number + 1 for host in hosts if host.order)])
        decision = decide(reconciler.policies.values(), reconciler.releases, hosts, now, number)
        revision = await self._write(decision, {host.name: host.order for host in hosts}, now)
        if revision:
            await self._loop.reached(revision)

    def hosts(self) -> list[Host]:
        return [
            _host(record, self._seen.hosts.get(name) or HostSeen(), self._began)
            for name, record in sorted(self._loop.reconciler.hosts.items())
        ]

    async def _write(self, decision: Decision, before: dict[str, Order | None], now: float) -> int:
        revision = 0
        for name, order in sorted(decision.orders.items()):
            written = await edit_host(self._store, name, partial(_ordered, before[name], order))
            if written is not None:
                revision = written[1]
                words = "runs what it was told" if order.done else "is told to run"
                _log.info("%s %s: Envoy %s", name, words, order.version or "of its own configuration")
        for scope, words in decision.stops.items():
            revision = await edit_policy(self._store, scope, partial(_stopped, words, now))
            _log.error("the rollout of Envoy for %s stops: %s", scope, words)
        return revision


async def edit_policy(store: Store, scope: Scope, edit: Callable[[Policy | None], Policy | None]) -> int:
    """Writes what `edit` makes of the policy, None for none; returns the revision at which it stands."""
    key = policy_key(scope)
    for _ in range(_ATTEMPTS):
        entry = await store.get(key)
        before = decode_policy(entry) if entry else None
        after = edit(before)
        if after == before:
            return await store.revision()
        change = Delete(key) if after is None else Put(key, encode(after))
        try:
            return await store.commit([change], expect={key: entry.revision if entry else 0})
        except Conflict:
            continue
    raise StoreError(f"{key}: keeps changing under it: try again")


def _stopped(words: str, now: float, policy: Policy | None) -> Policy:
    # Going back to what hosts' own configurations say has no policy until something has to be remembered of it.
    return replace(policy or Policy(Scope("all"), "", at=now), stopped=words)


def _ordered(before: Order | None, order: Order, record: HostRecord) -> HostRecord:
    return replace(record, envoy=order) if record.envoy == before else record


def _host(record: HostRecord, seen: HostSeen, began: float) -> Host:
    resources = {placement.id: placement.resource for placement in record.placements}
    return Host(
        name=record.host,
        attributes=record.attributes,
        placements=tuple(resources),
        order=record.envoy,
        connected=seen.connected,
        since=max(began, seen.since),
        reports=tuple(_report(told, resources.get(told.id, "")) for told in seen.placements.values()),
    )


def _report(told: host_pb2.PlacementStatus, resource: str) -> Report:
    return Report(
        id=told.id,
        resource=resource,
        version=told.envoy_version,
        wanted=told.wanted_version,
        live=told.envoy_state == "LIVE",
        healthy=told.health == host_pb2.HEALTHY,
        failure=told.upgrade_failure,
        detail=told.health_detail,
        order=told.envoy_order,
    )
