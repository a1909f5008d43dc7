"""What /v1 asks for, done: the control plane's side of meshagent.api.operator.

Reads the Reconciler and Status, writes hosts, tokens and lineage into the store. While the store is known to be rolled
back, everything is refused that would add to it, but for accepting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshagent.api.errors import (
    BadRequestException,
    ForbiddenException,
    NotFoundException,
    ServiceUnavailableException,
)
from meshagent.identity import spiffe, tokens, x509
from meshagent.identity.authority import Authority
from meshagent.identity.errors import IdentityError, TokenRefused
from meshagent.mesh.placement import Endpoint
from meshagent.server.clones import forgotten
from meshagent.server.fleet import edit_policy
from meshagent.server.hosts import Terms
from meshagent.server.lineage import accept_all, accept_host
from meshagent.server.loop import Loop
from meshagent.server.records import HostRecord
from meshagent.server.registry import delete_host, edit_host
from meshagent.server.rollout import Scope
from meshagent.server.selectors import Selector, SelectorError
from meshagent.server.status import Status, host_status, proxy_status
from meshagent.specs.keys import Kind
from meshagent.store.base import Store
from meshagent.xds.snapshot import Snapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControlPlane:
    """Implements meshagent.api.operator.Operations. `api_addresses` are what join tokens name."""

    store: Store
    loop: Loop
    seen: Status
    authority: Authority
    terms: Terms
    api_addresses: tuple[str, ...]

    def write_gate(self) -> str:
        """Why nothing may be written now; "" when it may."""
        rolled_back = self.loop.reconciler.rolled_back
        return str(rolled_back) if rolled_back is not None else ""

    # --- joining ---

    async def bundle(self) -> Mapping[str, Any]:
        return {"bundle": self.authority.bundle}

    async def join(self, token: str, host: str, csr: bytes) -> Mapping[str, Any]:
        self._check_writable()
        now = time.time()
        try:
            shown = tokens.decode(token)
            key = x509.public_key_sha256(x509.requested_key(csr))
            # Before the token counts as used: a name that no certificate can carry must not burn it.
            identity = spiffe.host_id(self.authority.trust_domain, host)
            allowed = await tokens.redeem(self.store, shown.id, shown.secret, host, key, now)
            chain = await self.authority.issue_workload(csr, identity, self.terms.certificate_life)
            await edit_host(self.store, host, lambda record: joined(record, allowed, now), create=True)
        except TokenRefused as error:
            raise ForbiddenException(str(error)) from error
        except IdentityError as error:
            raise BadRequestException(str(error)) from error
        _log.info("%s joined with token %s, for %s", host, allowed.id, ", ".join(allowed.placements))
        return {
            "chain": chain.decode(),
            "bundle": self.authority.bundle,
            "trustDomain": self.authority.trust_domain,
            "servers": list(self.terms.servers),
            "serverName": self.authority.server_name,
        }

    async def create_token(
        self, placements: Sequence[str], life_seconds: float, host: str | None, who: str
    ) -> Mapping[str, Any]:
        self._check_writable()
        try:
            token, record = await tokens.create(
                self.store,
                self.api_addresses,
                self.authority.root_sha256,
                placements,
                life_seconds,
                time.time(),
                host,
            )
        except IdentityError as error:
            raise BadRequestException(str(error)) from error
        _log.info("token %s for %s was made by %s", record.id, ", ".join(record.placements), who or "nobody named")
        return {"id": record.id, "token": tokens.encode(token), "expires": int(record.expires)}

    async def tokens(self) -> Mapping[str, Any]:
        return {"tokens": [_token(record) for record in await tokens.list_tokens(self.store)]}

    async def delete_token(self, token: str, who: str) -> Mapping[str, Any]:
        if not await tokens.delete(self.store, token):
            raise NotFoundException(f"there is no join token {token[:40]!r}")
        _log.info("token %s was deleted by %s", token, who or "nobody named")
        return {"deleted": token}

    # --- what there is ---

    async def status(self) -> Mapping[str, Any]:
        reconciler = self.loop.reconciler
        return {
            "lineage": reconciler.lineage.id,
            "revision": reconciler.mesh.revision,
            "replaces": list(reconciler.lineage.replaces),
            "rolledBack": self.write_gate(),
            "braking": reconciler.book.brake.braking,
            "proxies": self._proxies(),
            "hosts": self._hosts(),
            "problems": self._problems(),
        }

    async def hosts(self, selector: str) -> Mapping[str, Any]:
        try:
            wanted = Selector.parse(selector) if selector else None
        except SelectorError as error:
            raise BadRequestException(str(error)) from error
        records = self.loop.reconciler.hosts
        return {
            "hosts": [one for one in self._hosts() if wanted is None or wanted.matches(records[one["host"]].attributes)]
        }

    async def endpoints(self) -> Mapping[str, Any]:
        mesh, book = self.loop.reconciler.mesh, self.loop.reconciler.book
        nodes = {node for name in mesh.meshes for node in mesh.of_kind(name, Kind.VIRTUAL_NODE)}
        # A lease may stand for a node that is not defined, or not any more.
        nodes |= {one.node for one in book.leases.values()}
        found = [
            _endpoint(one, self._ports(one), one.placement in book.brake.suspects)
            for node in sorted(nodes, key=lambda node: node.path)
            for one in mesh.endpoints(node)
        ]
        return {"endpoints": found}

    # --- what an operator does ---

    async def delete_host(self, host: str, who: str) -> Mapping[str, Any]:
        self._check_writable()
        record = await delete_host(self.store, host)
        if record is None:
            raise NotFoundException(f"there is no host {host!r}")
        await edit_policy(self.store, Scope("host", host), lambda _: None)
        _log.info("host %s was removed by %s", host, who or "nobody named")
        return {"deleted": host, "proxies": [{"proxy": one.id, "resource": one.resource} for one in record.placements]}

    async def drain(self, host: str | None, proxy: str | None, drained: bool, who: str) -> Mapping[str, Any]:
        self._check_writable()
        placement = self.loop.reconciler.placements.get(proxy or "")
        name = host or (placement.host if placement is not None else "")
        if not name:
            raise NotFoundException(f"there is no proxy {proxy!r}")
        written = await edit_host(self.store, name, lambda record: drains(record, proxy, drained))
        if written is None:
            raise NotFoundException(f"there is no host {name!r}")
        record, revision = written
        await self.loop.reached(revision)
        what = f"proxy {proxy} on {name}" if proxy else f"host {name}"
        _log.info("%s is %s, said %s", what, "drained" if drained else "no longer drained", who or "nobody named")
        proxies = [proxy] if proxy else [one.id for one in record.placements]
        return {"host": name, "drained": drained, "proxies": proxies}

    async def accept_host(self, host: str, who: str) -> Mapping[str, Any]:
        _log.info("accept of host %s asked for by %s", host, who or "nobody named")
        if await accept_host(self.store, host) is None:
            raise NotFoundException(f"there is no host {host!r}: a host whose records are lost joins with a new token")
        return await self._accepted()

    async def accept_all(self, who: str) -> Mapping[str, Any]:
        _log.info("accept of all hosts asked for by %s", who or "nobody named")
        lineage = self.loop.reconciler.lineage
        _, revision = await accept_all(self.store, self.seen.foreign_lineages(lineage.id, lineage.replaces))
        await self.loop.reached(revision)
        return await self._accepted()

    async def _accepted(self) -> Mapping[str, Any]:
        lineage = self.loop.reconciler.lineage
        return {"lineage": lineage.id, "revision": await self.store.revision(), "replaces": list(lineage.replaces)}

    def _check_writable(self) -> None:
        if reason := self.write_gate():
            raise ServiceUnavailableException(reason)

    def _proxies(self) -> list[dict[str, Any]]:
        reconciler = self.loop.reconciler
        placements = sorted(reconciler.placements.values(), key=lambda one: (one.resource.path, one.host, one.slot))
        proxies = []
        for placement in placements:
            proxies.append(
                proxy_status(
                    placement,
                    self.seen.hosts.get(placement.host),
                    self.seen.stream(placement.id),
                    reconciler.snapshot(placement.id) or Snapshot(),
                    reconciler.failures.get(placement.id, ""),
                    placement.id in reconciler.hosts[placement.host].drained_placements,
                )
            )
        return proxies

    def _hosts(self) -> list[dict[str, Any]]:
        hosts = self.loop.reconciler.hosts
        return [host_status(record, self.seen.hosts.get(name)) for name, record in sorted(hosts.items())]

    def _problems(self) -> list[dict[str, str]]:
        """What is amiss in the mesh, and what of its specs is not compiled for somebody."""
        reconciler = self.loop.reconciler
        found = [(one.resource.path, one.path, one.message) for one in reconciler.mesh.problems]
        for placement in reconciler.placements:
            found += [(one.resource.path, one.path, one.message) for one in reconciler.notices(placement)]
        return [
            {"resource": resource, "path": path, "message": message} for resource, path, message in sorted(set(found))
        ]

    def _ports(self, endpoint: Endpoint) -> list[int]:
        spec = self.loop.reconciler.mesh.spec(endpoint.node)
        return [listener.port_mapping.port for listener in spec.body.listeners] if spec is not None else []


def drains(record: HostRecord, proxy: str | None, drained: bool) -> HostRecord:
    """The host's record with all of it, or one of its proxies, drained or not. What was drained as a whole comes back as a whole."""
    if proxy is None:
        return replace(
            record, drained=drained, placements=tuple(replace(one, drained=False) for one in record.placements)
        )
    if record.drained and not drained:
        raise BadRequestException(f"host {record.host} is drained with all of its proxies: undrain the host")
    return replace(
        record,
        placements=tuple(replace(one, drained=drained) if one.id == proxy else one for one in record.placements),
    )


def joined(record: HostRecord, token: tokens.TokenRecord, now: float) -> HostRecord:
    """The host's record after a join. It keeps no placement that the token does not allow: whoever takes a known host's name gets nothing
    of what that host ran. TokenRefused for a token that was used before the one it joined with last: it would bring old rights back."""
    if record.token == token.id:
        return record
    used = token.used_by.when if token.used_by is not None else now
    if record.token and used < min(record.joined, now):
        raise TokenRefused(
            f"host {record.host!r} has joined with a newer token than {token.id} since: use that, or make a new one"
        )
    fresh = replace(forgotten(record), allowed=token.placements, token=token.id, joined=int(now))
    return replace(fresh, placements=tuple(one for one in record.placements if fresh.allows(one.resource)))


def _endpoint(endpoint: Endpoint, ports: list[int], suspect: bool) -> dict[str, Any]:
    return {
        "node": endpoint.node.path,
        "address": endpoint.address,
        "ports": ports,
        "host": endpoint.host,
        "proxy": endpoint.placement,
        "health": endpoint.health.value,
        "leased": endpoint.leased,
        "suspect": suspect,
    }


def _token(record: tokens.TokenRecord) -> dict[str, Any]:
    used = record.used_by
    return {
        "id": record.id,
        "placements": list(record.placements),
        "host": record.host,
        "expires": int(record.expires),
        "usedBy": {"host": used.host, "when": int(used.when)} if used is not None else None,
    }
