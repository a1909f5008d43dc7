"""HostService: the conversation with every host's agent over mutual TLS, as meshagent/protocol/host.proto has it.

The host is who its certificate says, until its name is joined anew. A stream that says hello gets its desired state, and
again whenever that changes; whatever it reports keeps its lease. Nothing is taken from a host that this server does not
know: it is told so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio

from meshagent import __version__
from meshagent.errors import MeshagentError
from meshagent.identity import spiffe
from meshagent.identity.authority import Authority
from meshagent.identity.errors import IdentityError
from meshagent.identity.leaf import Leaf
from meshagent.mesh.graph import View
from meshagent.protocol import host_pb2
from meshagent.protocol.facts import attributes
from meshagent.server.clones import CloneRefused, refuse_clone
from meshagent.server.desired import BOOT_ID_LIMIT, HelloRefused, Refusal, desired, settle, taken
from meshagent.server.draining import heard
from meshagent.server.lineage import notice_rollback
from meshagent.server.loop import Loop
from meshagent.server.machines import Contested, Machines
from meshagent.server.peers import NotAllowed, admitted, peer_address, peer_certificate, unknown_host
from meshagent.server.reconcile import Applied
from meshagent.server.records import HostRecord
from meshagent.server.registry import Vouching, edit_host, read_host
from meshagent.server.session import Session
from meshagent.server.status import HostSeen, Status, in_sync, stamp_of
from meshagent.specs.keys import Key
from meshagent.store.base import Store, StoreError
from meshagent.xds.server import NotServed

SERVICE = "meshagent.host.v1.HostService"
HELLO_SECONDS = 10.0
WRITE_SECONDS = 30.0

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Terms:
    """What every host is told alike. `servers` are host:port of the xDS addresses; lives in seconds."""

    servers: tuple[str, ...]
    lease_seconds: int = 15
    certificate_life: float = 86400.0


class HostService:
    def __init__(
        self,
        store: Store,
        loop: Loop,
        status: Status,
        authority: Authority,
        terms: Terms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._loop, self._status, self._authority = store, loop, status, authority
        self.terms, self._clock = terms, clock
        self._machines = Machines(store, loop, clock)
        self._sessions: dict[str, Session] = {}
        loop.listeners.append(self._applied)
        status.stream_listeners.append(self._look_for_drains)

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Watch": grpc.stream_stream_rpc_method_handler(
                    self.watch,
                    request_deserializer=host_pb2.Observed.FromString,
                    response_serializer=host_pb2.Desired.SerializeToString,
                ),
                "Sign": grpc.unary_unary_rpc_method_handler(
                    self.sign,
                    request_deserializer=host_pb2.SignRequest.FromString,
                    response_serializer=host_pb2.SignResponse.SerializeToString,
                ),
                "Check": grpc.unary_unary_rpc_method_handler(
                    self.check,
                    request_deserializer=host_pb2.CheckRequest.FromString,
                    response_serializer=host_pb2.CheckResponse.SerializeToString,
                ),
            },
        )

    def stop(self) -> None:
        """Ends every stream: agents look for another server, or for this one when it is back."""
        for session in self._sessions.values():
            session.end("the server stops")

    # --- who may have which proxy's configuration ---

    async def authorize(self, context: Context, node: Any) -> str:
        """For AdsService: Node.id picks among the placements of the certificate's host, nothing more."""
        host = self._known(context).host
        placement = self._loop.reconciler.placements.get(node.id)
        if placement is None or placement.host != host:
            raise NotServed(f"{host} runs no placement {node.id!r}: it must be one of those in its desired state")
        return placement.id

    def _known(self, context: Context) -> HostRecord:
        """The peer's, as the Mesh has it."""
        leaf = peer_certificate(context.auth_context(), self._authority.trust_domain)
        return admitted(leaf, self._loop.reconciler.hosts.get(leaf.spiffe_id.host))

    # --- Check ---

    async def check(self, request: host_pb2.CheckRequest, context: Context) -> host_pb2.CheckResponse:
        try:
            self._known(context)
        except NotAllowed as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return host_pb2.CheckResponse(now=time.time(), version=__version__)

    # --- Sign ---

    async def sign(self, request: host_pb2.SignRequest, context: Context) -> host_pb2.SignResponse:
        try:
            leaf = peer_certificate(context.auth_context(), self._authority.trust_domain)
            chain = await self._authority.issue_workload(
                request.csr, await self._identity(leaf, request.placement), self.terms.certificate_life
            )
        except NotAllowed as error:
            _log.warning("a certificate was refused: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except IdentityError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return host_pb2.SignResponse(chain=chain, trust_bundle=self._authority.bundle.encode())

    async def _identity(self, leaf: Leaf, placement: str) -> str:
        host = leaf.spiffe_id.host
        record = admitted(leaf, await read_host(self._store, host))
        if not placement:
            return spiffe.host_id(self._authority.trust_domain, host)
        found = next((one for one in record.placements if one.id == placement), None)
        if found is None or not record.allows(found.resource):
            raise NotAllowed(f"{host} runs no placement {placement!r}: it must be one of those in its desired state")
        return spiffe.workload_id(self._authority.trust_domain, found.resource)

    # --- Watch ---

    async def watch(self, _: Any, context: Context) -> None:
        try:
            leaf = peer_certificate(context.auth_context(), self._authority.trust_domain)
        except NotAllowed as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        host = leaf.spiffe_id.host
        first = await self._read(context, HELLO_SECONDS)
        if first is None:
            return
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must carry hello")
        try:
            session = await self._greet(leaf, first.hello)
        except CloneRefused as error:
            self._status.kept_out(host, first.hello.boot_id, peer_address(context.peer()))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except Contested as error:
            _log.info("%s has to wait: %s", host, error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except HelloRefused as error:
            _log.warning("%s was turned away: %s", host, error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except NotAllowed as error:
            _log.warning("%s was turned away: %s", host, error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except (StoreError, MeshagentError) as error:
            _log.error("%s could not be taken in: %s", host, error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        await self._hold(host, session, first, context)

    async def _greet(self, leaf: Leaf, hello: host_pb2.Hello) -> Session:
        """The host's record with what it wants now, written and seen in the Mesh, so that all it is told of exists."""
        host = leaf.spiffe_id.host
        if len(hello.boot_id) > BOOT_ID_LIMIT:
            raise HelloRefused(f"boot id of {len(hello.boot_id)} characters: must be at most {BOOT_ID_LIMIT}")
        refuse_clone(admitted(leaf, await read_host(self._store, host)), hello.boot_id)
        # Before anything is written on its behalf: our own small writes must not hide that the store is behind.
        reconciler = self._loop.reconciler
        rolled_back = await notice_rollback(self._store, host, stamp_of(hello.held), reconciler.lineage.id)
        await self._contend(host, hello)
        refusals: tuple[Refusal, ...] = ()

        def edit(record: HostRecord) -> HostRecord:
            nonlocal refusals
            refuse_clone(record, hello.boot_id)
            record, refusals = settle(record, hello)
            return record

        written = await edit_host(self._store, host, edit)
        if written is None:
            raise NotAllowed(unknown_host(host))
        _, revision = written
        if rolled_back is not None:
            revision = max(revision, await self._store.revision())
        await self._loop.reached(revision)
        # Another machine may have been quicker.
        await self._contend(host, hello)
        # As the Mesh has it now: what was written while this waited, a drain or a removal, no session was told of.
        record = admitted(leaf, reconciler.hosts.get(host))
        refuse_clone(record, hello.boot_id)
        if record.address != hello.address:
            raise Contested(f"host {host!r} said hello from {record.address}, too, and from there later: not now")
        return Session(leaf, record, hello.boot_id, refusals, self._clock())

    async def _contend(self, host: str, hello: host_pb2.Hello) -> None:
        await self._machines.contend(self._sessions.get(host), hello.boot_id, self.terms.lease_seconds / 2)

    async def _hold(self, host: str, session: Session, first: host_pb2.Observed, context: Context) -> None:
        earlier = self._sessions.get(host)
        if earlier is not None:
            earlier.end("another connection of this host took over")
        self._sessions[host] = session
        seen = self._status.host(host)
        seen.connected, seen.hello, seen.since = True, first.hello, time.time()
        seen.problems = tuple((refusal.resource, refusal.words) for refusal in session.refusals)
        _log.info(
            "%s connected with %d placements, %d refused", host, len(session.record.placements), len(session.refusals)
        )
        try:
            words = await _first_of(
                self._listen(host, session, first, context), self._tell(host, session, context), _ended(session)
            )
        finally:
            if self._sessions.get(host) is session:
                del self._sessions[host]
                seen.connected, seen.since = False, time.time()
                self._status.heard(host)
                _log.info("%s is no longer connected", host)
        if words:
            await context.abort(grpc.StatusCode.ABORTED, words)

    async def _listen(self, host: str, session: Session, observed: host_pb2.Observed | None, context: Context) -> str:
        """Every message renews the lease; "" when the host ends the stream."""
        vouching: Vouching | None = None
        while observed is not None:
            seen = self._status.host(host)
            session.hears(self._clock())
            _note(seen, observed)
            self._status.heard(host)
            if any(session.drain_seen.get(one.id, 0) != one.drain for one in seen.placements.values()):
                session.changed.set()
            try:
                answers = vouching is not None
                if vouching is None:
                    opened = Vouching(self._store, session.record, float(self.terms.lease_seconds))
                    await opened.open()
                    vouching = opened
                else:
                    await vouching.renew()
                await self._consider(host, session, seen, vouching)
                if observed.HasField("facts"):
                    await self._keep_facts(host, attributes(observed.facts))
                if answers:
                    await self._machines.settle(session)
            except StoreError as error:
                # What is in memory goes on being served; the next report tries again.
                _log.error("what %s reports could not be written: %s", host, error)
            session.reads_on(self._clock())
            observed = await self._read(context, 2.0 * self.terms.lease_seconds)
        return ""

    async def _consider(self, host: str, session: Session, seen: HostSeen, vouching: Vouching) -> None:
        reconciler = self._loop.reconciler
        await vouching.register(session.record, seen.placements.values())
        rolled_back = reconciler.rolled_back
        if rolled_back is None:
            for stamp in seen.stamps():
                # A proxy may hold a later revision than the host's hello said.
                if stamp.lineage == reconciler.lineage.id and stamp.revision > reconciler.mesh.revision:
                    await notice_rollback(self._store, host, stamp, reconciler.lineage.id)
        if session.record.accept and self._has_taken(session.record, seen):
            await edit_host(self._store, host, lambda record: record.accepted(False))
            _log.info("%s has taken what an operator released it for", host)

    def _has_taken(self, record: HostRecord, seen: HostSeen) -> bool:
        """Whether a released host has no more use for it: all that it holds is ours, it holds nothing back, and none of its proxies is to
        be offered anything that it might."""
        reconciler = self._loop.reconciler
        return (
            taken(reconciler.stamp, _now_held(seen))
            and not any((seen.held_reason, *(one.held_reason for one in seen.placements.values())))
            and all(in_sync(self._status.stream(one.id), reconciler.snapshot(one.id)) for one in record.placements)
        )

    async def _keep_facts(self, host: str, found: Mapping[str, str]) -> None:
        """In the host's record, so that selectors know it while it is away, and after a restart."""
        await edit_host(self._store, host, lambda record: replace(record, facts=found))

    async def _tell(self, host: str, session: Session, context: Context) -> str:
        """Desired at first, and whenever it says something else."""
        last: host_pb2.Desired | None = None
        while True:
            session.changed.clear()
            message = self._desired(session)
            if session.again or last is None or not _says_the_same(last, message):
                session.again = False
                try:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await context.write(message)
                except TimeoutError:
                    return f"nothing was read for {WRITE_SECONDS:g} s"
                last = message
            await session.changed.wait()

    def _desired(self, session: Session) -> host_pb2.Desired:
        reconciler = self._loop.reconciler
        view = View(reconciler.mesh)
        message = desired(
            view,
            session.record,
            session.refusals,
            stamp=reconciler.stamp,
            replaces=reconciler.lineage.replaces,
            bundle=self._authority.bundle,
            servers=self.terms.servers,
            lease_seconds=self.terms.lease_seconds,
            drain_seen=self._drain_seen(session),
        )
        session.touched = frozenset(view.touched)
        return message

    def _drain_seen(self, session: Session) -> dict[str, int]:
        """What the host may be told of its drains. Once said of a drain, it is not taken back: later changes are not about it."""
        found: dict[str, int] = {}
        session.telling = False
        told = self._status.host(session.record.host).placements
        for placement in session.record.placements:
            number = told[placement.id].drain if placement.id in told else 0
            if not number:
                continue
            node = Key.parse(placement.resource)
            if session.drain_seen.get(placement.id) == number or heard(
                self._loop.reconciler, node, placement.id, self._status.stream
            ):
                found[placement.id] = number
            else:
                session.telling = True
        session.drain_seen = found
        return found

    def _look_for_drains(self) -> None:
        for session in self._sessions.values():
            if session.telling:
                session.changed.set()

    def _applied(self, applied: Applied) -> None:
        """The loop's word: wakes the sessions that it concerns."""
        hosts = self._loop.reconciler.hosts
        for name in applied.hosts:
            session = self._sessions.get(name)
            if name not in hosts:
                self._status.forget_host(name)
                if session is not None:
                    session.end(f"host {name} was removed by an operator")
            elif session is not None:
                self._machines.changed(session, hosts[name])
                session.record = hosts[name]
                session.changed.set()
        self._look_for_drains()
        for session in self._sessions.values():
            if applied.everyone or not session.touched.isdisjoint(applied.touched):
                session.changed.set()

    async def _read(self, context: Context, seconds: float) -> host_pb2.Observed | None:
        """The next message; None when the host ended the stream."""
        try:
            # Not wait_for, which in Python 3.11 loses a cancellation that comes with the message.
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was heard for {seconds:g} s")
        return None if message is grpc.aio.EOF else message


def _note(seen: HostSeen, observed: host_pb2.Observed) -> None:
    seen.last = time.time()
    seen.held = stamp_of(observed.held)
    seen.held_reason = observed.held_reason
    seen.certificate_expires = observed.host_certificate_expires
    seen.placements = {placement.id: placement for placement in observed.placements}
    if observed.HasField("facts"):
        seen.facts = observed.facts


def _now_held(seen: HostSeen) -> list[Any]:
    """What the host holds by its last report; its hello was true when it connected."""
    return [stamp for stamp in (seen.held, *(stamp_of(one.held) for one in seen.placements.values())) if stamp.lineage]


def _says_the_same(last: host_pb2.Desired, message: host_pb2.Desired) -> bool:
    """Whether only the revision differs: a stamp alone is no news. Another lineage is."""
    if last.stamp.lineage != message.stamp.lineage:
        return False
    bare = host_pb2.Desired()
    bare.CopyFrom(message)
    bare.stamp.revision = last.stamp.revision
    return bare == last


async def _ended(session: Session) -> str:
    await session.superseded.wait()
    return session.ended


async def _first_of(*work: Coroutine[Any, Any, str]) -> str:
    """The answer of the first that ends; the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
