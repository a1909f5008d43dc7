"""The control plane's composition root: builds in order, runs all of it, closes in reverse.

Everything durable is in the store; what lies beside it in DIR/admin is for the operator (ca.pem, access-key.json,
addresses.json), in DIR/tls for TLS.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meshagent.discovery.brake import Brake, Limits
from meshagent.discovery.leases import Lookup
from meshagent.discovery.resolve import Resolving, resolver_for
from meshagent.envoy.compile import Compiler
from meshagent.host.files import make_directory, write_durably
from meshagent.host.limits import raise_open_files
from meshagent.identity import tokens
from meshagent.identity.authority import Authority
from meshagent.server.accesskeys import open_access_keys
from meshagent.server.answers import Answers
from meshagent.server.app import application
from meshagent.server.catalog import DEFAULT_ACCOUNT, Catalog
from meshagent.server.envoyoperations import EnvoyOperations
from meshagent.server.fleet import Fleet
from meshagent.server.hosts import HostService, Terms
from meshagent.server.lineage import open_lineage
from meshagent.server.listening import (
    Address,
    ApiServer,
    ListenError,
    ServerCertificate,
    api_server,
    api_socket,
    grpc_server,
)
from meshagent.server.loop import Loop
from meshagent.server.operations import ControlPlane
from meshagent.server.preview import preview
from meshagent.server.reconcile import Applied, Reconciler
from meshagent.server.status import Status
from meshagent.server.suspects import Suspects
from meshagent.store.base import Store, StoreError
from meshagent.store.sqlite import SqliteStore
from meshagent.telemetry.sdnotify import alive, notify
from meshagent.xds.cache import SnapshotCache
from meshagent.xds.server import AdsService

DEFAULT_TRUST_DOMAIN = "mesh.local"
STOP_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """`advertise` are names or addresses by which hosts reach this server; lives in seconds. `trust_domain` "" for the store's own, at the
    first start DEFAULT_TRUST_DOMAIN."""

    data_dir: Path
    api: Address
    xds: Address
    advertise: tuple[str, ...] = ()
    trust_domain: str = ""
    certificate_life: float = 86400.0
    lease_seconds: int = 15
    account: str = DEFAULT_ACCOUNT
    dns_servers: tuple[str, ...] = ()


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. MeshagentError where it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    raise_open_files()
    make_directory(settings.data_dir)
    admin = make_directory(settings.data_dir / "admin")
    async with _store(settings.data_dir / "store.db") as store:
        # What this server is.
        lineage = await open_lineage(store)
        authority = await Authority.open(store, settings.trust_domain or await _trust_domain(store))
        keys = await open_access_keys(store, admin / "access-key.json")
        write_durably(admin / "ca.pem", authority.bundle, 0o644)
        certificate = ServerCertificate(
            authority, _names(settings), settings.certificate_life, settings.data_dir / "tls"
        )
        await certificate.open()

        # What proxies get.
        compiler, cache, seen = Compiler(), SnapshotCache(), Status()
        brake = Brake(Limits(grace=min(5.0, settings.lease_seconds / 3)))
        reconciler = Reconciler(compiler, authority.trust_domain, brake)
        loop = Loop(store, reconciler, cache, time.monotonic)
        answers = Answers(settings.data_dir / "resolved.json")
        for lookup, found in answers.known.items():
            loop.resolved(lookup, found)
        await loop.load()

        def answered(asked: Lookup, heard: tuple[str, ...]) -> None:
            loop.resolved(asked, heard)
            answers.note(asked, heard)

        def want(applied: Applied) -> None:
            if applied.touched:
                resolving.want(reconciler.lookups)
                answers.keep(reconciler.lookups)

        resolving = Resolving(resolver_for(settings.dns_servers), answered)
        resolving.want(reconciler.lookups)
        loop.listeners.append(want)

        # Who serves it.
        sock, api_address = api_socket(settings.api)
        with closing(sock):
            hosts = HostService(store, loop, seen, authority, _terms(settings, settings.xds))
            ads = AdsService(cache, hosts.authorize, seen)
            xds, xds_address = grpc_server([hosts.handlers(), ads.handlers()], certificate, settings.xds)
            hosts.terms = _terms(settings, xds_address)
            control = ControlPlane(store, loop, seen, authority, hosts.terms, _reached_at(settings, api_address))
            catalog = Catalog(store, account=settings.account, write_gate=control.write_gate)
            fleet = Fleet(store, loop, seen)
            envoys = EnvoyOperations(store, loop, fleet, control.write_gate)
            app = application(
                catalog, control, envoys, partial(preview, reconciler, authority.trust_domain), keys, settings.account
            )
            api = api_server(app, certificate)
            addresses = {"api": str(api_address), "xds": str(xds_address)}
            write_durably(admin / "addresses.json", json.dumps(addresses) + "\n", 0o644)

            try:
                async with alive(), asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(loop.run(), name="reconcile"),
                        group.create_task(Suspects(store, loop).run(), name="suspects"),
                        group.create_task(fleet.run(), name="versions of Envoy"),
                        group.create_task(resolving.run(), name="dns"),
                        group.create_task(answers.run(), name="dns: answers"),
                        group.create_task(certificate.run(), name="server certificate"),
                        group.create_task(_housekeeping(store), name="housekeeping"),
                    ]
                    await xds.start()
                    serving = group.create_task(api.serve([sock]), name="api")
                    await _started(api, serving)
                    _log.info("serving lineage %s", lineage.id, extra={"fields": addresses})
                    print("ready", flush=True)
                    notify("READY=1")
                    await stop.wait()
                    notify("STOPPING=1")
                    _log.info("stopping")
                    api.should_exit = True
                    hosts.stop()
                    await xds.stop(STOP_SECONDS)
                    await serving
                    for task in tasks:
                        task.cancel()
            finally:
                await xds.stop(None)


@asynccontextmanager
async def _store(path: Path) -> AsyncIterator[Store]:
    store = await SqliteStore.open(path)
    try:
        yield store
    finally:
        await store.close()


async def _trust_domain(store: Store) -> str:
    entry = await store.get("authority/trust-domain")
    return entry.value.decode() if entry else DEFAULT_TRUST_DOMAIN


def _names(settings: Settings) -> list[str]:
    """Everything by which this server may be called: what its certificate is for."""
    names = ["localhost", "127.0.0.1", settings.api.host, settings.xds.host, *settings.advertise]
    return [*names, socket.gethostname()] if not settings.advertise else names


def _reached_at(settings: Settings, address: Address) -> tuple[str, ...]:
    """Where hosts find this server: the advertised names, else the address that it is bound to."""
    if settings.advertise:
        return tuple(str(Address(name, address.port)) for name in settings.advertise)
    if address.host in ("0.0.0.0", "::"):
        return (str(Address(socket.gethostname(), address.port)),)
    return (str(address),)


def _terms(settings: Settings, xds: Address) -> Terms:
    return Terms(_reached_at(settings, xds), settings.lease_seconds, settings.certificate_life)


async def _started(api: ApiServer, serving: asyncio.Task[None]) -> None:
    """The socket listens already; this waits until requests are answered."""
    while not api.started:
        if serving.done():
            serving.result()
            raise ListenError("the API ended as it began")
        await asyncio.sleep(0.01)


async def _housekeeping(store: Store) -> None:
    """Removes what nobody can use any more."""
    while True:
        try:
            swept = await tokens.sweep(store, time.time())
            if swept:
                _log.info("%d join tokens that ended a week ago were removed", swept)
        except StoreError as error:
            _log.warning("old join tokens could not be removed: %s", error)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
