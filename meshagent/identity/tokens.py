"""Join tokens: how a new host proves, once, that an operator invited it.

    mj1.<base64url of {"a": [API addresses], "r": SHA-256 of the root, "i": id, "s": secret}>

One string carries all that a host needs: where to go, whom to trust, what to show. The store keeps only the secret's
hash, under tokens/ID. A token is used once: by one key, which may come again until the token ends, for when the reply was
lost. Agents decode tokens with this module too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from meshagent.identity import spiffe
from meshagent.identity.errors import IdentityError, TokenRefused
from meshagent.store.base import Conflict, Delete, Entry, Put, Store

PREFIX = "mj1."
LONGEST_TOKEN = 8192

_ID = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 10
# Compared with when there is no such token, so that the answer takes as long.
_NOBODY = hashlib.sha256(b"").hexdigest()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinToken:
    """What the string says: `addresses` are the servers' API addresses, host:port."""

    addresses: tuple[str, ...]
    root_sha256: str
    id: str
    secret: str

    def __repr__(self) -> str:  # a secret does not belong into logs
        return f"JoinToken(id={self.id!r}, addresses={self.addresses!r})"


@dataclass(frozen=True)
class Use:
    """Who redeemed a token first; `when` in Unix seconds."""

    host: str
    public_key_sha256: str
    when: float


@dataclass(frozen=True)
class TokenRecord:
    """What the store keeps. `placements` are resource paths, one ending in * allows all that begin so; `host` is the only host
    name that may use it, None for any; `expires` in Unix seconds."""

    id: str
    secret_sha256: str
    placements: tuple[str, ...]
    host: str | None
    expires: float
    used_by: Use | None = None

    def allows(self, resource_path: str) -> bool:
        return placement_allowed(self.placements, resource_path)


def placement_allowed(patterns: Sequence[str], resource_path: str) -> bool:
    """Whether one of the patterns is this path, or its beginning followed by *."""
    return any(
        resource_path.startswith(pattern[:-1]) if pattern.endswith("*") else resource_path == pattern
        for pattern in patterns
    )


def encode(token: JoinToken) -> str:
    fields = {"a": list(token.addresses), "r": token.root_sha256, "i": token.id, "s": token.secret}
    text = json.dumps(fields, separators=(",", ":")).encode()
    return PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode(text: str) -> JoinToken:
    """IdentityError says what is wrong, without repeating the secret."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise IdentityError(f"join token: must begin with {PREFIX}, as `meshctl token create` prints it")
    if len(text) > LONGEST_TOKEN:
        raise IdentityError(f"join token: must be at most {LONGEST_TOKEN} characters, found {len(text)}")
    body = text.removeprefix(PREFIX)
    try:
        fields = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise IdentityError("join token: cannot be read; was it copied whole?") from None
    if not isinstance(fields, dict):
        raise IdentityError("join token: cannot be read; was it copied whole?")
    addresses, root, name, secret = (fields.get(field) for field in "aris")
    if not isinstance(addresses, list) or not addresses or not all(isinstance(a, str) and ":" in a for a in addresses):
        raise IdentityError("join token: names no server; each must be host:port")
    if not isinstance(root, str) or not _SHA256.fullmatch(root):
        raise IdentityError("join token: must carry the SHA-256 of the root in hex")
    if not isinstance(name, str) or not _ID.fullmatch(name) or not isinstance(secret, str) or not secret:
        raise IdentityError("join token: must carry an id and a secret")
    return JoinToken(tuple(addresses), root, name, secret)


async def create(
    store: Store,
    addresses: Sequence[str],
    root_sha256: str,
    placements: Sequence[str],
    life: float,
    now: float,
    host: str | None = None,
) -> tuple[JoinToken, TokenRecord]:
    """A new token that ends `life` seconds after `now`. Its secret is in the answer and nowhere else."""
    if not placements:
        raise IdentityError(
            "join token: must allow at least one placement, such as mesh/shop/virtualNode/web or mesh/shop/*"
        )
    for placement in placements:
        _check_placement(placement)
    if life <= 0:
        raise IdentityError(f"join token: a life of {life:g} s; must be more than 0")
    token = JoinToken(tuple(addresses), root_sha256, secrets.token_hex(8), secrets.token_urlsafe(32))
    record = TokenRecord(token.id, _hashed(token.secret), tuple(placements), host, now + life)
    await store.commit([Put(_key(token.id), _encoded(record))], expect={_key(token.id): 0})
    return token, record


async def redeem(
    store: Store, token_id: str, secret: str, host: str, public_key_sha256: str, now: float
) -> TokenRecord:
    """Uses the token for this host and key, and returns what it allows. TokenRefused says why not; who does not know the
    secret is not told whether there is such a token."""
    for _ in range(_ATTEMPTS):
        entry = await store.get(_key(token_id)) if _ID.fullmatch(token_id) else None
        record = _record(entry) if entry else None
        known = hmac.compare_digest(_hashed(secret), record.secret_sha256 if record else _NOBODY)
        if entry is None or record is None or not known:
            raise _refused(
                token_id, host, "join token refused: unknown, or deleted; make a new one with `meshctl token create`"
            )
        if now >= record.expires:
            raise _refused(
                token_id, host, f"join token {token_id} has expired; make a new one with `meshctl token create`"
            )
        if record.host is not None and record.host != host:
            raise _refused(token_id, host, f"join token {token_id} is for host {record.host!r}, not for {host!r}")
        if record.used_by is not None:
            if record.used_by.public_key_sha256 == public_key_sha256 and record.used_by.host == host:
                return record
            raise _refused(
                token_id,
                host,
                f"join token {token_id} was already used, by host {record.used_by.host!r}; each host needs a token of its own: "
                "make one with `meshctl token create`",
            )
        used = replace(record, used_by=Use(host, public_key_sha256, now))
        try:
            await store.commit([Put(entry.key, _encoded(used))], expect={entry.key: entry.revision})
        except Conflict:
            continue  # somebody was faster: look again who
        return used
    raise _refused(token_id, host, f"join token {token_id} is being used by many at once; try again")


async def list_tokens(store: Store) -> tuple[TokenRecord, ...]:
    entries, _ = await store.list("tokens/")
    return tuple(_record(entry) for entry in entries)


async def used_by(store: Store, host: str) -> tuple[str, ...]:
    """The store's keys of the tokens that this host used."""
    return tuple(
        _key(one.id) for one in await list_tokens(store) if one.used_by is not None and one.used_by.host == host
    )


async def delete(store: Store, token_id: str) -> bool:
    """False when there is no such token."""
    entry = await store.get(_key(token_id)) if _ID.fullmatch(token_id) else None
    if entry is None:
        return False
    await store.commit([Delete(entry.key)])
    return True


async def sweep(store: Store, now: float, keep: float = 7 * 86400.0) -> int:
    """Removes tokens that ended more than `keep` seconds ago; returns how many."""
    entries, _ = await store.list("tokens/")
    ended = [entry for entry in entries if _record(entry).expires + keep < now]
    for entry in ended:
        await store.commit([Delete(entry.key)])
    return len(ended)


def _check_placement(pattern: str) -> None:
    if pattern.endswith("*"):
        if pattern.startswith("mesh/") and "*" not in pattern[:-1] and not any(c.isspace() for c in pattern):
            return
    else:
        with contextlib.suppress(IdentityError):
            spiffe.workload_id("any", pattern)
            return
    raise IdentityError(
        f"join token: placement {pattern!r} must be a virtual node's or gateway's path such as mesh/shop/virtualNode/web, "
        "or the beginning of some and a *, such as mesh/shop/*"
    )


def _refused(token_id: str, host: str, words: str) -> TokenRefused:
    # A refusal is somebody at the door: it is written down here as well as answered.
    log.warning("join refused: token %.32r, host %.256r: %s", token_id, host, words)
    return TokenRefused(words)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(token_id: str) -> str:
    return f"tokens/{token_id}"


def _encoded(record: TokenRecord) -> bytes:
    return json.dumps(asdict(record)).encode()


def _record(entry: Entry) -> TokenRecord:
    fields = json.loads(entry.value)
    use = fields.pop("used_by")
    return TokenRecord(
        **{**fields, "placements": tuple(fields["placements"])}, used_by=Use(**use) if use is not None else None
    )
