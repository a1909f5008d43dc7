"""Checks of the agent: its configuration, that one runs and answers, that it is not alone for long. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshagent.doctor.finding import Finding, ok, or_well, span, unknown, warning, wrong

# A restarted server is back within minutes; what is older is somebody's to know.
STALE = 900.0


def address(given: str | None, routed: str, last: str) -> Iterator[Finding]:
    """On which peers reach this host: what the configuration gives, else the default route's, else the last that was good."""
    if given is not None or routed:
        return
    words = "host.address is not given, and this host has no default route to tell it by"
    remedy = "set host.address in the agent's configuration to the address on which peers reach this host, and restart meshagent-agent"
    if last:
        yield warning("settings", f"{words}: {last}, the last one, goes on", remedy)
    else:
        yield wrong("settings", f"{words}: no server takes it", remedy)


@dataclass(frozen=True)
class AgentSeen:
    """A process that is an agent, and what its configuration says, as far as it can be read."""

    pid: int
    config: str
    state_directory: str = ""
    first_slot: int = -1


def agents(
    seen: Sequence[AgentSeen], *, holder: int | None, answers: bool, state_directory: str, joined: bool
) -> Iterator[Finding]:
    """`holder` is the process that holds the lock of this state directory, None for nobody; `answers`: on the socket."""

    def each() -> Iterator[Finding]:
        if not joined:
            yield wrong(
                "agent",
                f"this host has not joined a mesh: {state_directory}/host holds no membership",
                "make a token (`meshctl token create`), put it into join_token_file, and start meshagent-agent",
            )
        if holder is None:
            yield wrong("agent", f"no agent is at work on {state_directory}", "systemctl start meshagent-agent")
        elif not answers:
            yield wrong(
                "agent",
                f"the agent (pid {holder}) does not answer on its socket",
                "systemctl restart meshagent-agent; the proxies serve on meanwhile",
            )
        yield from _several(seen)

    yield from or_well("agent", each(), f"one agent (pid {holder}) is at work, and answers")


def _several(seen: Sequence[AgentSeen]) -> Iterator[Finding]:
    for index, one in enumerate(seen):
        for other in seen[:index]:
            both = f"two agents run: pid {other.pid} with {other.config} and pid {one.pid} with {one.config}"
            if one.state_directory and one.state_directory == other.state_directory:
                yield wrong("agent", f"{both}, on one state directory", "stop the one that systemd did not start")
            elif one.first_slot >= 0 and one.first_slot == other.first_slot:
                yield wrong(
                    "agent",
                    f"{both}, and both number their placements from slot {one.first_slot}",
                    "give each a `host.first_slot` of its own, or stop one",
                )


@dataclass(frozen=True)
class HeldSeen:
    """What the host keeps. `heard`: when a server was heard of last, None for never. `connected`: to which server, None while no agent can
    be asked. `refused`: what Envoys refused, in words; `held`: why what is offered is not taken."""

    heard: float | None
    connected: str | None
    desired: bool
    held: Sequence[str] = ()
    refused: Sequence[str] = ()
    problems: Sequence[str] = ()


def configuration_held(seen: HeldSeen, now: float) -> Iterator[Finding]:
    """How the mesh's configuration on this host stands."""

    def each() -> Iterator[Finding]:
        if not seen.desired:
            yield warning(
                "configuration", "no server has said yet what this host is to run", "see `servers`: it needs one, once"
            )
        elif not seen.connected:
            yield from _stale(seen.heard, now)
        for words in seen.held:
            yield wrong(
                "configuration",
                words,
                "look at `meshctl diff` and `meshctl get`; `meshctl accept HOST` lets this host take what is offered",
            )
        for words in seen.refused:
            yield wrong("configuration", words, "change what it names: Envoy goes on with what it took before")
        for words in seen.problems:
            yield wrong("configuration", words, "allow it by a new token, or take it out of `placements`")

    yield from or_well("configuration", each(), f"current, from {seen.connected}")


def _stale(heard: float | None, now: float) -> Iterator[Finding]:
    if heard is None:
        yield unknown("configuration", "it is not known when a server was heard of last")
        return
    age = span(max(now - heard, 0.0))
    if now - heard > STALE:
        yield warning(
            "configuration",
            f"stale: no server was heard of for {age}; all serves on from disk",
            "see `servers` for why",
        )
    else:
        yield ok("configuration", f"a server was heard of {age} ago")
