"""What /v1/envoy asks for, done: versions named, policies set, rollouts gone on with or taken back, and how far everybody is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshagent.api.envoy import OWN as OWN_WORD
from meshagent.api.envoy import Target
from meshagent.api.errors import BadRequestException, NotFoundException, ServiceUnavailableException
from meshagent.host.envoys import WHEELS
from meshagent.server.fleet import Fleet, edit_policy
from meshagent.server.loop import Loop
from meshagent.server.rollout import ALL, OWN, Host, Policy, Progress, Release, Scope, State, governing, progress
from meshagent.server.rolloutrecords import encode, release_key
from meshagent.server.selectors import Selector, SelectorError
from meshagent.store.base import Delete, Put, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnvoyOperations:
    """Implements meshagent.api.envoy.Operations."""

    store: Store
    loop: Loop
    fleet: Fleet
    write_gate: Callable[[], str]

    async def list(self) -> Mapping[str, Any]:
        reconciler, now = self.loop.reconciler, time.time()
        named = {version: Release(version) for version in WHEELS} | reconciler.releases
        rows = [(host, self._progress(host, now)) for host in self.fleet.hosts()]
        return {
            "releases": [_release(one) for _, one in sorted(named.items())],
            "policies": [_policy(one, rows) for _, one in sorted(reconciler.policies.items())],
            "hosts": [_host(host, seen) for host, seen in rows],
        }

    async def name_release(self, version: str, url: str, sha256: str, who: str) -> Mapping[str, Any]:
        self._check_writable()
        release = Release(version, url, sha256, who, int(time.time()))
        await self._reach(await self.store.commit([Put(release_key(version), encode(release))]))
        _log.info("Envoy %s with SHA-256 %s was named by %s", version, sha256, who or "nobody named")
        return _release(release)

    async def forget_release(self, version: str, who: str) -> Mapping[str, Any]:
        self._check_writable()
        reconciler = self.loop.reconciler
        if version not in reconciler.releases:
            raise NotFoundException(f"no operator named Envoy {version}")
        users = [policy.scope for policy in reconciler.policies.values() if policy.version == version]
        if users and version not in WHEELS:
            raise BadRequestException(
                f"Envoy {version} is what {users[0]} should run: let it use another version first"
            )
        await self._reach(await self.store.commit([Delete(release_key(version))]))
        _log.info("Envoy %s was forgotten by %s", version, who or "nobody named")
        return {"deleted": version}

    async def use(self, version: str, target: Target, at_once: int, who: str) -> Mapping[str, Any]:
        self._check_writable()
        scope = self._scope(target)
        reconciler, now = self.loop.reconciler, time.time()
        wanted = OWN if version == OWN_WORD else version
        if wanted and wanted not in WHEELS and wanted not in reconciler.releases:
            known = ", ".join(sorted({*WHEELS, *reconciler.releases}))
            raise BadRequestException(
                f"Envoy {version} is not known here, known are {known}: name it first with `meshctl envoy install {version} --sha256 S`"
            )
        if scope.kind == "host" and scope.name not in reconciler.hosts:
            raise NotFoundException(f"there is no host {scope.name!r}")

        def edit(before: Policy | None) -> Policy:
            if before is None:
                return Policy(scope, wanted, at_once, by=who, at=now)
            previous = before.previous if before.version == wanted else before.version
            again = before.round + 1
            return Policy(scope, wanted, at_once, previous=previous, round=again, by=who, at=now)

        await self._reach(await edit_policy(self.store, scope, edit))
        _log.info("Envoy %s for %s, said %s", version, scope, who or "nobody named")
        return await self._about(scope)

    async def unset(self, target: Target, who: str) -> Mapping[str, Any]:
        self._check_writable()
        scope = self._policy(target).scope
        await self._reach(await edit_policy(self.store, scope, lambda _: None))
        _log.info("no version of Envoy for %s any more, said %s", scope, who or "nobody named")
        return {"unset": _scope(scope)}

    async def resume(self, target: Target | None, who: str) -> Mapping[str, Any]:
        self._check_writable()
        policy = self._policy(target) if target else self._only(lambda one: bool(one.stopped), "has stopped")
        if not policy.stopped:
            raise BadRequestException(
                f"the rollout of Envoy for {policy.scope} has not stopped: there is nothing to resume"
            )

        def edit(before: Policy | None) -> Policy | None:
            return replace(before, stopped="", round=before.round + 1) if before and before.stopped else before

        await self._reach(await edit_policy(self.store, policy.scope, edit))
        _log.info("the rollout of Envoy for %s goes on, said %s", policy.scope, who or "nobody named")
        return await self._about(policy.scope)

    async def abort(self, target: Target | None, who: str) -> Mapping[str, Any]:
        """Back to the version before, as far as hosts were told the new one; where there was none, to what would go without the policy."""
        self._check_writable()
        policy = self._policy(target) if target else self._only(self._under_way, "is under way")
        if not self._under_way(policy):
            raise BadRequestException(
                f"no rollout is under way for {policy.scope}: all of its hosts run Envoy {policy.version or 'of their own configuration'}"
            )

        def edit(before: Policy | None) -> Policy | None:
            if before is None or before.previous is None:
                return None
            back = before.previous
            return replace(
                before, version=back, previous=None, stopped="", round=before.round + 1, by=who, at=time.time()
            )

        await self._reach(await edit_policy(self.store, policy.scope, edit))
        _log.info("the rollout of Envoy for %s is taken back, said %s", policy.scope, who or "nobody named")
        return await self._about(policy.scope)

    # --- what they stand on ---

    def _progress(self, host: Host, now: float) -> Progress:
        return progress(governing(self.loop.reconciler.policies.values(), host), host, now)

    def _under_way(self, policy: Policy) -> bool:
        now = time.time()
        return bool(policy.stopped) or any(
            seen.policy == policy and seen.state is not State.DONE
            for seen in (self._progress(host, now) for host in self.fleet.hosts())
        )

    def _policy(self, target: Target) -> Policy:
        scope = self._scope(target)
        found = self.loop.reconciler.policies.get(scope)
        if found is None:
            raise NotFoundException(f"no version of Envoy is set for {scope}")
        return found

    def _only(self, test: Callable[[Policy], bool], words: str) -> Policy:
        found = [policy for policy in self.loop.reconciler.policies.values() if test(policy)]
        if not found:
            raise BadRequestException(f"no rollout of Envoy {words}")
        if len(found) > 1:
            named = ", ".join(str(one.scope) for one in found)
            raise BadRequestException(f"more than one rollout of Envoy {words} ({named}): say which")
        return found[0]

    def _scope(self, target: Target) -> Scope:
        kind, name = target
        try:
            # A selector in its one spelling: two policies for the same hosts would be one too many.
            return Scope(kind, str(Selector.parse(name)) if kind == "selector" else name)
        except SelectorError as error:
            raise BadRequestException(str(error)) from error

    def _check_writable(self) -> None:
        if reason := self.write_gate():
            raise ServiceUnavailableException(reason)

    async def _reach(self, revision: int) -> None:
        await self.loop.reached(revision)

    async def _about(self, scope: Scope) -> Mapping[str, Any]:
        now = time.time()
        rows = [(host, self._progress(host, now)) for host in self.fleet.hosts()]
        policy = self.loop.reconciler.policies.get(scope)
        return _policy(policy or Policy(ALL, OWN), rows)


def _release(release: Release) -> dict[str, Any]:
    return {
        "version": release.version,
        "url": release.url,
        "sha256": release.sha256,
        "pinned": release.version in WHEELS,
    }


def _scope(scope: Scope) -> dict[str, Any]:
    return {"all": True} if scope.kind == "all" else {scope.kind: scope.name}


def _policy(policy: Policy, rows: list[tuple[Host, Progress]]) -> dict[str, Any]:
    governed = [seen for _, seen in rows if seen.policy == policy]
    done = sum(1 for seen in governed if seen.state is State.DONE)
    state = "stopped" if policy.stopped else "done" if done == len(governed) else "rolling"
    return {
        "scope": _scope(policy.scope),
        "version": policy.version or OWN_WORD,
        "previous": policy.previous if policy.previous is None else policy.previous or OWN_WORD,
        "atOnce": policy.at_once,
        "state": state,
        "stopped": policy.stopped,
        "hosts": len(governed),
        "done": done,
        "by": policy.by,
        "at": int(policy.at),
    }


def _host(host: Host, seen: Progress) -> dict[str, Any]:
    return {
        "host": host.name,
        "connected": host.connected,
        "policy": _scope(seen.policy.scope) if seen.policy else None,
        "wanted": seen.wanted or OWN_WORD,
        "told": host.order.version or OWN_WORD if host.order else None,
        "running": sorted({report.version for report in host.reports if report.version}),
        "state": seen.state.value,
        "words": seen.words,
    }
