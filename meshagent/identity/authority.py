"""The built-in certificate authority: a root for ten years, an intermediate for one, leaves for hours.

Its state lies in the store, so that every server is the same authority: authority/trust-domain, authority/root and authority/intermediate,
keys included (the store's file is 0600). Whoever opens it first makes it, by compare-and-swap. Who may have which identity is the server's
to decide; this module signs what it is told.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence

from meshagent.identity import spiffe, x509
from meshagent.identity.errors import IdentityError
from meshagent.identity.x509 import Issuer
from meshagent.store.base import Conflict, Entry, Put, Store

DAY = 86400.0
ROOT_LIFE = 3652 * DAY
INTERMEDIATE_LIFE = 366 * DAY
LONGEST_LEAF_LIFE = 90 * DAY
# The next intermediate is made while the present one still covers two generations of the longest leaf: at about half of its life.
INTERMEDIATE_RESERVE = 2 * LONGEST_LEAF_LIFE
ROOT_ALARM = INTERMEDIATE_LIFE

_TRUST_DOMAIN = "authority/trust-domain"
_ROOT = "authority/root"
_INTERMEDIATE = "authority/intermediate"
_ATTEMPTS = 10

log = logging.getLogger(__name__)


class Authority:
    """Made by `open`. Issuing reads the store only when the intermediate nears its end."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        trust_domain: str,
        root: Issuer,
        intermediate: Issuer,
    ) -> None:
        self.trust_domain = trust_domain
        self._store = store
        self._clock = clock
        self._root = root
        self._intermediate = intermediate

    @classmethod
    async def open(cls, store: Store, trust_domain: str, clock: Callable[[], float] = time.time) -> Authority:
        """The store's authority, made now if there is none. IdentityError when it was made for another trust domain."""
        spiffe.check_trust_domain(trust_domain)
        for _ in range(_ATTEMPTS):
            entries, _ = await store.list("authority/")
            state = {entry.key: entry for entry in entries}
            if _TRUST_DOMAIN in state:
                authority = cls._restored(store, clock, trust_domain, state)
                await authority.refresh()
                return authority
            try:
                await cls._found(store, trust_domain, clock())
            except Conflict:
                continue  # another server was first: its authority is ours
        raise IdentityError(
            "authority: the store keeps changing under it; is another server being set up on the same store?"
        )

    @classmethod
    def _restored(
        cls, store: Store, clock: Callable[[], float], trust_domain: str, state: dict[str, Entry]
    ) -> Authority:
        fixed = state[_TRUST_DOMAIN].value.decode()
        if fixed != trust_domain:
            raise IdentityError(
                f"trust domain {trust_domain!r}: this store's was fixed as {fixed!r} at the first start and stands in every "
                f"certificate; start with --trust-domain {fixed}, or with an empty data directory"
            )
        missing = {_ROOT, _INTERMEDIATE} - set(state)
        if missing:
            raise IdentityError(
                f"authority: {', '.join(sorted(missing))} is missing in the store; restore it from a backup"
            )
        return cls(store, clock, fixed, _issuer(state[_ROOT]), _issuer(state[_INTERMEDIATE]))

    @staticmethod
    async def _found(store: Store, trust_domain: str, now: float) -> None:
        root = x509.new_root(trust_domain, now, ROOT_LIFE)
        intermediate = x509.new_intermediate(root, trust_domain, now, INTERMEDIATE_LIFE)
        changes = [
            Put(_TRUST_DOMAIN, trust_domain.encode()),
            Put(_ROOT, _encoded(root)),
            Put(_INTERMEDIATE, _encoded(intermediate)),
        ]
        await store.commit(changes, expect={change.key: 0 for change in changes})
        log.info("authority: made a root and an intermediate for trust domain %s", trust_domain)

    @property
    def bundle(self) -> str:
        """The roots to trust, as PEM."""
        return self._root.certificate_pem.decode()

    @property
    def root_sha256(self) -> str:
        """What join tokens carry, so that a host can check the bundle that it is given."""
        return x509.root_sha256(self._root.certificate_pem)

    @property
    def server_name(self) -> str:
        """The DNS name that every server certificate carries and agents verify."""
        return spiffe.server_name(self.trust_domain)

    async def issue_workload(self, request_pem: bytes, spiffe_id: str, life: float) -> bytes:
        """The chain (leaf, then intermediate, PEM) for the request's key and this SPIFFE ID, a host's or a proxy's. The names that the
        request itself asks for are ignored."""
        wanted = spiffe.parse(spiffe_id)
        if wanted.trust_domain != self.trust_domain:
            raise IdentityError(f"{spiffe_id}: this authority signs for trust domain {self.trust_domain} only")
        if wanted.kind is spiffe.IdKind.SERVER:
            raise IdentityError(f"{spiffe_id}: a server's identity is given to no request from outside")
        key = x509.requested_key(request_pem)
        intermediate = await self._issuer_for(life)
        return x509.new_leaf(intermediate, key, spiffe_id, self._clock(), life)

    async def issue_server(
        self, dns_names: Sequence[str], addresses: Sequence[str], life: float
    ) -> tuple[bytes, bytes]:
        """A server's new key and chain, PEM; `server_name` is among its names whatever else is."""
        names = list(dict.fromkeys([self.server_name, *dns_names]))
        key = x509.new_key()
        intermediate = await self._issuer_for(life)
        uri = spiffe.server_id(self.trust_domain)
        chain = x509.new_leaf(intermediate, x509.public_key_of(key), uri, self._clock(), life, names, addresses)
        return key, chain

    async def refresh(self) -> None:
        """Takes the store's intermediate, and makes the next one when too little is left of it. Leaves of the old one stay valid: their
        chains carry it. Issuing calls this by itself when it is due."""
        if self._root.end - self._clock() < ROOT_ALARM:
            log.warning("authority: the root ends in %d days", (self._root.end - self._clock()) / DAY)
        for _ in range(_ATTEMPTS):
            entry = await self._store.get(_INTERMEDIATE)
            if entry is None:
                raise IdentityError(f"authority: {_INTERMEDIATE} is missing in the store; restore it from a backup")
            self._intermediate = _issuer(entry)
            if not self._due():
                return
            successor = x509.new_intermediate(self._root, self.trust_domain, self._clock(), INTERMEDIATE_LIFE)
            try:
                await self._store.commit(
                    [Put(_INTERMEDIATE, _encoded(successor))], expect={_INTERMEDIATE: entry.revision}
                )
            except Conflict:
                continue  # another server made it: take that one
            self._intermediate = successor
            log.info("authority: made the next intermediate")
            return

    def _due(self) -> bool:
        # An intermediate that already ends with its root gains nothing from being made again.
        little_left = self._intermediate.end - self._clock() < INTERMEDIATE_RESERVE
        return little_left and self._intermediate.end < self._root.end

    async def _issuer_for(self, life: float) -> Issuer:
        if not 0 < life <= LONGEST_LEAF_LIFE:
            raise IdentityError(
                f"certificate life of {life:g} s: must be more than 0 and at most {LONGEST_LEAF_LIFE / DAY:g} days"
            )
        if self._due():
            await self.refresh()
        if self._intermediate.end <= self._clock():
            raise IdentityError("authority: the root has ended; the mesh needs a new authority")
        return self._intermediate


def _encoded(issuer: Issuer) -> bytes:
    return json.dumps({"certificate": issuer.certificate_pem.decode(), "key": issuer.key_pem.decode()}).encode()


def _issuer(entry: Entry) -> Issuer:
    try:
        fields = json.loads(entry.value)
        return x509.load_issuer(fields["certificate"].encode(), fields["key"].encode())
    except (ValueError, KeyError, AttributeError) as error:
        raise IdentityError(
            f"authority: {entry.key} in the store cannot be read ({error}); restore it from a backup"
        ) from error
