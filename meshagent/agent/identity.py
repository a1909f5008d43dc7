"""Identities on disk: where keys, chains and bundles lie, how they are replaced, and when.

An identity is three files in a generation directory of its own, and a note of what the chain says; `current` is a symlink that is swapped
by rename, so that whoever reads (an Envoy that watches the directory) sees a key and the chain that belongs to it. Keys are made here and
never leave the host. Who signs is an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshagent.agent import certificates
from meshagent.errors import MeshagentError
from meshagent.host.files import (
    PRIVATE_DIRECTORY,
    READABLE_DIRECTORY,
    FileError,
    give,
    make_directory,
    point_symlink,
    read_if_there,
    remove_tree,
    write_durably,
)
from meshagent.identity import leaf as leaves
from meshagent.identity import rotation
from meshagent.identity.leaf import Leaf
from meshagent.identity.rotation import Due

log = logging.getLogger(__name__)

KEEP_GENERATIONS = 2
_PREFIX = "g-"
_NOTE = "leaf.json"
# A sleep is cut into pieces, so that a clock that was set is noticed.
_LONGEST_SLEEP = 60.0
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name

# Envoy reads these once and the PEMs again at each swap. All paths are relative to the proxy's directory, where Envoy runs.
SDS_FILES = {
    "sds-certificate.yaml": f"""resources:
- "@type": {_SECRET}
  name: default
  tls_certificate:
    certificate_chain: {{filename: tls/current/chain.pem}}
    private_key: {{filename: tls/current/key.pem}}
    watched_directory: {{path: tls}}
""",
    "sds-validation.yaml": f"""resources:
- "@type": {_SECRET}
  name: trust
  validation_context:
    trusted_ca: {{filename: tls/current/bundle.pem}}
    watched_directory: {{path: tls}}
""",
}


@dataclass(frozen=True)
class Identity:
    """Key, chain and roots, PEM."""

    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    bundle: bytes = field(repr=False)
    leaf: Leaf


def read(directory: Path) -> Identity | None:
    """The identity that `directory`/current holds; None when there is none, or not all of it."""
    current = directory / "current"
    try:
        key, chain, bundle = (read_if_there(current / f"{name}.pem") for name in ("key", "chain", "bundle"))
        if not key or not chain or not bundle:
            return None
        return Identity(key, chain, bundle, _noted(current, chain) or certificates.read_leaf(chain))
    except MeshagentError as error:
        log.error("%s cannot be used: %s", current, error)
        return None


def _noted(current: Path, chain: bytes) -> Leaf | None:
    return leaves.noted(read_if_there(current / _NOTE) or b"", hashlib.sha256(chain).hexdigest())


def install(
    directory: Path, key: bytes, chain: bytes, bundle: bytes, owner: int | None = None, leaf: Leaf | None = None
) -> Identity:
    """Makes these three the current identity, durably and at once. What fails on the way leaves the old one in place. `owner` is the id of
    the user who alone reads them; None for our own. `leaf` is the chain's, where it is known."""
    identity = Identity(key, chain, bundle, leaf or certificates.read_leaf(chain))
    _make(directory, owner)
    generations = _generations(directory)
    number = generations[-1] + 1 if generations else 1
    fresh = _make(directory / f"{_PREFIX}{number}", owner)
    try:
        for name, content in (("key", key), ("chain", chain), ("bundle", bundle)):
            write_durably(fresh / f"{name}.pem", content, owner=owner)
        write_durably(fresh / _NOTE, leaves.note(identity.leaf, hashlib.sha256(chain).hexdigest()), owner=owner)
        point_symlink(directory / "current", fresh.name)
    except FileError:
        # A disk that stays full for long must not fill with attempts.
        with contextlib.suppress(FileError):
            if (directory / "current").resolve() != fresh.resolve():
                remove_tree(fresh)
        raise
    for old in [*generations, number][:-KEEP_GENERATIONS]:
        remove_tree(directory / f"{_PREFIX}{old}")
    return identity


def write_sds(directory: Path, owner: int | None = None) -> None:
    """The files by which Envoy finds what lies in `directory`, a proxy's tls/. Left alone when they are right already: Envoy watches."""
    _make(directory, owner)
    if owner is not None:
        give(directory, owner, READABLE_DIRECTORY)
    for name, content in SDS_FILES.items():
        if read_if_there(directory / name) != content.encode():
            write_durably(directory / name, content, owner=owner)


def _make(directory: Path, owner: int | None) -> Path:
    """Ours, whoever's the files in it are."""
    return make_directory(directory, PRIVATE_DIRECTORY if owner is None else READABLE_DIRECTORY)


def _generations(directory: Path) -> list[int]:
    found = (path.name.removeprefix(_PREFIX) for path in directory.glob(f"{_PREFIX}*"))
    return sorted(int(number) for number in found if number.isdecimal())


Sign = Callable[[bytes], Awaitable[tuple[bytes, bytes]]]
"""A certificate request (PEM) in, the chain and the trust bundle (PEM) out. Raises MeshagentError."""


class Keeper:
    """Keeps one identity valid for as long as it runs: made when there is none, renewed at half of life, its roots kept up to date."""

    def __init__(
        self,
        what: str,
        directory: Path,
        sign: Sign,
        installed: Callable[[Identity], None],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._what, self._directory, self._sign, self._installed = what, directory, sign, installed
        self._clock, self._monotonic, self._chance = clock, monotonic, chance
        self.owner: int | None = None  # whose the files are; None: our own
        self._roots: bytes | None = None
        self._asked: tuple[bytes, bytes] | None = None  # the key and the request of the renewal under way
        self._wake = asyncio.Event()
        self._failures = 0
        self._nudged = False

    def trust(self, bundle: bytes) -> None:
        """The roots as the control plane gives them now. A chain that does not lead to them is renewed at once."""
        if bundle and bundle != self._roots:
            self._roots = bundle
            self._wake.set()

    def nudge(self) -> None:
        """Whoever signs is in reach again: what failed is tried now, not when its pause is over."""
        if self._failures:
            self._nudged = True
            self._wake.set()

    async def run(self) -> None:
        identity = await asyncio.to_thread(read, self._directory)
        due = self._due(self._delay(identity, self._clock()) if identity else 0.0)
        while True:
            await self._until(due)
            before = identity
            try:
                if identity is None or self._nudged or self._left(due) <= 0:
                    self._nudged = False
                    identity = await self._renew()
                elif self._roots and self._roots != identity.bundle:
                    identity = await self._with_roots(identity, self._roots)
                else:
                    continue
            except MeshagentError as error:
                self._failures += 1
                due = self._due(self._retry(identity))
                self._complain(identity, error)
                continue
            self._failures = 0
            if before is None or identity.leaf != before.leaf:
                due = self._due(self._delay(identity, identity.leaf.issued))

    async def _renew(self) -> Identity:
        # One key a renewal, however often it is tried.
        if self._asked is None:
            self._asked = await asyncio.to_thread(certificates.new_request)
        key, request = self._asked
        chain, bundle = await self._sign(request)
        leaf = await asyncio.to_thread(certificates.checked_leaf, chain, bundle, key)
        # A wrong clock is told, but must not make a loop.
        skew = self._clock() - leaf.issued
        if abs(skew) > rotation.SKEW_LIMIT:
            log.error("this host's clock differs from the server's by %.0f s: set it", skew)
        identity = await asyncio.to_thread(install, self._directory, key, chain, bundle, self.owner, leaf)
        self._asked = None
        log.info("%s: certificate %s installed, valid for %.0f s", self._what, leaf.serial, leaf.end - self._clock())
        self._installed(identity)
        return identity

    async def _with_roots(self, identity: Identity, roots: bytes) -> Identity:
        try:
            await asyncio.to_thread(certificates.checked_leaf, identity.chain, roots)
        except MeshagentError:
            log.info("%s: the trust bundle changed and the chain does not lead to it: renewing", self._what)
            return await self._renew()
        identity = await asyncio.to_thread(
            install, self._directory, identity.key, identity.chain, roots, self.owner, identity.leaf
        )
        log.info("%s: the trust bundle changed and is installed", self._what)
        self._installed(identity)
        return identity

    def _due(self, seconds: float) -> Due:
        """So many seconds from now."""
        return Due(self._clock() + seconds, self._monotonic() + seconds)

    def _left(self, due: Due) -> float:
        return due.left(self._clock(), self._monotonic())

    async def _until(self, due: Due) -> None:
        while (left := self._left(due)) > 0 and not self._wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LONGEST_SLEEP)):
                    await self._wake.wait()
        self._wake.clear()

    def _delay(self, identity: Identity, now: float) -> float:
        return rotation.delay(identity.leaf.issued, identity.leaf.end, now, self._chance())

    def _retry(self, identity: Identity | None) -> float:
        # Without any identity there is nothing that could last meanwhile: try as often as may be.
        left = identity.leaf.end - self._clock() if identity else 0.0
        return rotation.retry(self._failures, left, self._chance())

    def _complain(self, identity: Identity | None, error: MeshagentError) -> None:
        if identity is None:
            if self._failures == 1 or self._failures % 20 == 0:
                log.warning("%s: no certificate yet: %s", self._what, error)
            return
        urgency = rotation.urgency(identity.leaf.issued, identity.leaf.end, self._clock())
        level = logging.WARNING if urgency in (rotation.Urgency.NONE, rotation.Urgency.LATE) else logging.ERROR
        left = identity.leaf.end - self._clock()
        log.log(level, "%s: not renewed (%s, %.0f s left): %s", self._what, urgency, left, error)
