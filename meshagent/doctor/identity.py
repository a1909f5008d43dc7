"""Checks of certificates and keys: valid now and for a while, whole, and nobody else's to read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshagent.doctor.finding import Finding, ok, or_well, span, unknown, warning, wrong
from meshagent.identity.rotation import SKEW_LIMIT

_SET = "set it, and let a time service keep it (systemd-timesyncd, chrony): `timedatectl`"
_JOIN_AGAIN = (
    "make a token (`meshctl token create --host NAME`, with this host's name), put it into the agent's join_token_file, and "
    "restart meshagent-agent"
)


@dataclass(frozen=True)
class IdentitySeen:
    """One identity on the disk. `placement` "" for the host's own. `words`: why it cannot be used. `owner` and `wanted_owner` are users'
    names; `served` is the serial of what Envoy presents, "" while that is not known."""

    placement: str
    directory: str
    words: str = ""
    issued: float = 0.0
    end: float = 0.0
    serial: str = ""
    key_mode: int = 0o600
    owner: str = ""
    wanted_owner: str = ""
    served: str = ""

    @property
    def name(self) -> str:
        return f"the certificate of placement {self.placement}" if self.placement else "the host's certificate"


def certificates(seen: Iterable[IdentitySeen], now: float) -> Iterator[Finding]:
    every = list(seen)

    def each() -> Iterator[Finding]:
        for one in every:
            yield from _usable(one, now)
            yield from _key(one)

    well = "certificates are valid, and their keys are their owners' alone" if every else "this host has none yet"
    yield from or_well("certificates", each(), well)


def _usable(one: IdentitySeen, now: float) -> Iterator[Finding]:
    own = _JOIN_AGAIN if not one.placement else "the agent renews it as soon as a server is in reach: see `servers`"
    if one.words:
        yield wrong("certificates", f"{one.name} in {one.directory}: {one.words}", own)
        return
    left, life = one.end - now, max(one.end - one.issued, 1.0)
    if left <= 0:
        yield wrong("certificates", f"{one.name} expired {span(-left)} ago", own)
    elif left < life / 4:
        yield warning(
            "certificates",
            f"{one.name} was not renewed and expires in {span(left)}",
            "it is renewed at half of its life, by a server: see `servers`",
        )
    if one.served and one.serial and one.served != one.serial:
        yield wrong(
            "certificates",
            f"Envoy of placement {one.placement} presents another certificate ({one.served}) than lies in {one.directory}",
            "Envoy reads it when the link `current` changes; if it stays so, restart the proxy",
        )


def _key(one: IdentitySeen) -> Iterator[Finding]:
    path = f"{one.directory}/current/key.pem"
    if one.words:
        return
    if one.key_mode & 0o077:
        yield wrong("certificates", f"{path} has mode {one.key_mode:04o}: others may read the key", f"chmod 600 {path}")
    if one.owner and one.wanted_owner and one.owner != one.wanted_owner:
        yield wrong(
            "certificates",
            f"{path} belongs to {one.owner}, not to {one.wanted_owner}",
            f"chown {one.wanted_owner} {path}",
        )


def clock(now: float, measured: Iterable[tuple[str, float]], issued: Iterable[float]) -> Iterator[Finding]:
    """`measured`: servers and how far this host's clock is ahead of theirs, in seconds. `issued`: when certificates of this host were made,
    by the servers' clocks, which cannot be later than now."""
    told = False
    for server, ahead in measured:
        told = True
        if abs(ahead) > SKEW_LIMIT:
            way = "ahead of" if ahead > 0 else "behind"
            yield wrong("clock", f"this host's clock is {span(abs(ahead))} {way} that of {server}", _SET)
        else:
            yield ok("clock", f"within {max(abs(ahead), 0.1):.1f} s of {server}'s")
    behind = max((one - now for one in issued), default=0.0)
    if not told and behind > SKEW_LIMIT:
        yield wrong("clock", f"this host's clock is behind: a certificate was made {span(behind)} in its future", _SET)
    elif not told:
        yield unknown("clock", "no server is in reach to compare it with")
