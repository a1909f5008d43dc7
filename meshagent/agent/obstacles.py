"""Where Envoy could not listen: who holds the address, what to do about it, and when it is worth another try. Pure.

Envoy tries a listener once. Where an address was taken the agent offers the listener again as soon as nobody is seen there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from meshagent.host.listening import Listener, Owner, holding
from meshagent.xds.messages import Rejection
from meshagent.xds.snapshot import LISTENER

# Between two tries although nobody was seen there: a socket that is bound and does not listen shows nowhere.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
_CANNOT_BIND = re.compile(r"cannot bind '\[?(?P<address>[^'\]]+)\]?:(?P<port>[0-9]{1,5})': (?P<why>[^\n]*)")
_PASSES = ("Address already in use", "Cannot assign requested address")


@dataclass(frozen=True)
class Unbound:
    """A listener that Envoy refused because of its address."""

    name: str
    version: str
    address: str
    port: int


def unbound(rejections: Iterable[Rejection]) -> tuple[Unbound, ...]:
    """Those for a reason that may pass without another configuration."""
    return tuple(
        Unbound(each.name, each.version, found["address"], int(found["port"]))
        for each in rejections
        if each.type_url == LISTENER
        and (found := _CANNOT_BIND.search(each.words)) is not None
        and any(why in found["why"] for why in _PASSES)
    )


def holders(
    refused: Iterable[Unbound], found: Iterable[Listener], owner: Callable[[Listener], Owner]
) -> dict[str, str]:
    """By the listener's name, who is in its way and what to do. Envoys do not count: they share their addresses."""
    everybody = tuple(found)
    words: dict[str, str] = {}
    for each in refused:
        for holder in holding(everybody, each.address, each.port):
            process = owner(holder)
            if process.name == "envoy":
                continue
            words[each.name] = f"{each.address}:{each.port} is held by {process}, {_remedy(each, holder)}"
            break
    return words


def _remedy(each: Unbound, holder: Listener) -> str:
    if holder.address == each.address:
        return "which listens on that very address: end it, or let it listen on 127.0.0.1"
    return (
        f"which listens on all addresses ({holder.address}:{holder.port}): let it listen on 127.0.0.1 alone, or give the placement "
        "`mode: redirect`, which takes applications as they are"
    )


def started_second(mode: str, address: str, words: str) -> str:
    """What a failed probe may mean in `bind`: nobody sees an application that could not even start."""
    if mode != "bind" or "Connection refused" not in words:
        return words
    return f"{words} (one that wants to listen on all addresses cannot start beside Envoy on {address}: let it listen on 127.0.0.1)"


@dataclass(frozen=True)
class Tries:
    """When each refused listener is worth another try: by name and version, the pause after the last one and its end."""

    waits: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def due(self, refused: Iterable[Unbound], held: Mapping[str, str], now: float) -> tuple[tuple[Unbound, ...], Tries]:
        """Those to try now, and what to ask the next time. Of one that somebody holds, the wait begins anew."""
        trying: list[Unbound] = []
        waits: dict[tuple[str, str], tuple[float, float]] = {}
        for each in refused:
            key = (each.name, each.version)
            if each.name in held:
                continue
            pause, end = self.waits.get(key, (0.0, now))
            if now >= end:
                trying.append(each)
                pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * pause))
                end = now + pause
            waits[key] = (pause, end)
        # What is being tried may be refused by nobody for a moment: its pauses are kept for as long as they last.
        kept = {key: wait for key, wait in self.waits.items() if key not in waits and wait[1] > now}
        gone = {(each.name, each.version) for each in refused if each.name in held}
        return tuple(trying), Tries({**{key: wait for key, wait in kept.items() if key not in gone}, **waits})
