"""Checks of what is around the host: its servers, the names that it resolves, its peers. Pure; look.py connects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshagent.doctor.finding import Finding, ok, or_well, unknown, warning, wrong


@dataclass(frozen=True)
class ServerSeen:
    """One server, host:port. Of the steps to it, the first that failed, with its words: resolve, connect, tls, speak, ask; "" for none.
    `ahead`: by how many seconds this host's clock is ahead of it; None when it did not say."""

    address: str
    failed: str = ""
    words: str = ""
    ahead: float | None = None


_STEPS = {
    "resolve": ("its name does not resolve", "mend the name server (`resolvectl query NAME`), or /etc/hosts"),
    "connect": ("no connection", "is `meshagent-server` running there, and does a firewall let this host in?"),
    "tls": (
        "TLS fails",
        "a server of another authority answers there, or one of both clocks is wrong (see `clock`); where the control plane was made "
        "anew, this host joins again with a new token",
    ),
    "speak": (
        "it takes the connection and does not answer",
        "is it another program's port, or does the server hang? `journalctl -u meshagent-server` there",
    ),
    "ask": ("it refuses this host", "join again with a new token: `meshctl token create --host NAME`"),
}


_REFUSALS = ("FAILED_PRECONDITION", "PERMISSION_DENIED")


def servers(seen: Sequence[ServerSeen], agent: str = "") -> Iterator[Finding]:
    """One server in reach is enough for the host to go on; the others are worth a warning. `agent`: why its agent has none."""
    reached = any(not server.failed for server in seen)
    if not seen:
        yield unknown("servers", "this host knows no server: it has not joined")
    for server in seen:
        if not server.failed:
            yield ok("servers", f"{server.address} answers")
            continue
        what, remedy = _STEPS[server.failed]
        say = warning if reached else wrong
        yield say("servers", f"{server.address}: {what}: {server.words}", remedy)
    if reached and agent:
        # Whoever is refused stays so; all else may be over in a moment.
        say = wrong if any(word in agent for word in _REFUSALS) else warning
        remedy = "do what the words say; `journalctl -u meshagent-agent` has what the agent tries meanwhile"
        yield say("servers", f"the agent has no server all the same: {agent}", remedy)


def names(wanted: Mapping[str, str], found: Mapping[str, Sequence[str]], *, file: str) -> Iterator[Finding]:
    """Services' names and addresses as the hosts file has to have them, and what this host's resolver answers."""

    def each() -> Iterator[Finding]:
        for name, address in sorted(wanted.items()):
            answers = found.get(name, ())
            if address in answers and len(answers) == 1:
                continue
            how = f"resolves to {', '.join(answers)}" if answers else "does not resolve"
            yield wrong(
                "names",
                f"{name} {how}, not to {address}: calls of it do not go through the mesh",
                f"is the marked block in {file}, `files` before `dns` in /etc/nsswitch.conf, and no other line of that name above it? "
                "The agent writes the block while it runs",
            )

    none = "no service's name is this host's to resolve" if not wanted else f"{len(wanted)} services' names resolve"
    yield from or_well("names", each(), none)


@dataclass(frozen=True)
class PeerSeen:
    """An endpoint that an Envoy of this host sends requests to. `words`: why no connection could be made, "" when one was."""

    address: str
    cluster: str
    words: str = ""


def peers(seen: Iterable[PeerSeen], asked: int) -> Iterator[Finding]:
    """`asked` is how many Envoys said what their endpoints are."""
    total = 0
    failed = []
    for peer in seen:
        total += 1
        if peer.words:
            failed.append(peer)
    for peer in failed:
        yield wrong(
            "peers",
            f"{peer.address} ({peer.cluster}): {peer.words}",
            "does a firewall between the hosts let it through? `meshagent status` there says whether its Envoy listens",
        )
    if not asked:
        yield unknown("peers", "no Envoy could be asked for its endpoints")
    elif not failed:
        yield ok("peers", f"all endpoints ({total}) take connections" if total else "no proxy here calls other hosts")
