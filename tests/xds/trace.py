"""Runs a conversation written as text against an AdsStream: see tests/xds/traces for what such texts look like.

delta | sotw [pipelined]                    the first line
offer [LINEAGE/]REVISION: TYPE NAME@VERSION ...; ...    a snapshot
> TYPE [subscribe NAME ...] [unsubscribe NAME ...] [have NAME@VERSION ...] [names NAME ...] [version NAME@VERSION
...]
       [ack NONCE | nack NONCE: WORDS]      a request, in any combination
< TYPE NONCE [+NAME@VERSION ...] [-NAME ...] [stamp STAMP]   each response to the line before, in order
synced REVISION | not synced | rejected [TYPE NAME@VERSION ...] | acked TYPE [NAME@VERSION ...]    what is then true
reconnect [LINEAGE/REVISION]                another stream to the same client, which says that it holds this
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from meshagent.xds.messages import Pacing, Protocol, Request, Response
from meshagent.xds.snapshot import SHORT_NAMES, Resource, Snapshot, Stamp
from meshagent.xds.stream import AdsStream
from meshagent.xds.subscription import set_version

TRACES = Path(__file__).parent / "traces"
TYPES = {short: type_url for type_url, short in SHORT_NAMES.items()}
LINEAGE = "line"

_WORDS = ("subscribe", "unsubscribe", "have", "names", "version", "ack")


def resource(type_url: str, text: str) -> Resource:
    name, _, version = text.partition("@")
    return Resource(type_url, name, version, text.encode())


def snapshot(text: str, revision: int = 1, lineage: str = LINEAGE) -> Snapshot:
    resources = []
    for part in text.split(";"):
        if part.strip():
            kind, *names = part.split()
            resources += [resource(TYPES[kind], name) for name in names]
    return Snapshot.build(resources, Stamp(lineage, revision))


def request(text: str) -> Request:
    text, _, words = text.partition(" nack ")
    nonce, _, error = words.partition(": ")
    kind, *rest = text.split()
    found: dict[str, list[str]] = {}
    for word in rest:
        if word in _WORDS:
            current = found.setdefault(word, [])
        else:
            current.append(word)
    versions = [resource(TYPES[kind], each) for each in found.get("version", ())]
    return Request(
        TYPES[kind],
        subscribe=tuple(found.get("subscribe", ())),
        unsubscribe=tuple(found.get("unsubscribe", ())),
        initial_versions=dict(each.split("@") for each in found.get("have", ())),
        nonce=nonce or next(iter(found.get("ack", ())), ""),
        error=error or None,
        names=tuple(found["names"]) if "names" in found else None,
        version=set_version(versions) if versions else "",
    )


def render(response: Response, protocol: Protocol) -> str:
    parts = [SHORT_NAMES[response.type_url], response.nonce]
    parts += [f"+{each.name}@{each.version}" for each in response.resources]
    parts += [f"-{name}" for name in response.removed]
    if response.system_version and protocol is Protocol.DELTA:
        parts += ["stamp", response.system_version]
    return " ".join(parts)


class Run:
    """One trace, line by line; a difference is told with the line's number and both sides."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines()
        self.lines = [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
        protocol, *pacing = self.lines.pop(0)[1].split()
        self.protocol = Protocol(protocol)
        self.pacing = Pacing.PIPELINED if pacing else Pacing.ACKNOWLEDGED
        self.stream = AdsStream(self.protocol, self.pacing)
        self.said: list[str] = []

    def run(self) -> None:
        for number, line in self.lines:
            expected, found = self.step(line)
            assert found == expected, f"{self.path.name}:{number}: {line!r}\n  expected {expected}\n  found    {found}"
        assert not self.said, f"{self.path.name}: at its end, unexpected {self.said}"

    def step(self, line: str) -> tuple[object, object]:
        verb, _, rest = line.partition(" ")
        if verb == "<":
            return rest, self.said.pop(0) if self.said else "nothing"
        if verb in (">", "offer", "reconnect"):
            unheard = list(self.said)
            self.act(verb, rest)
            return [], unheard
        return self.check(line)

    def act(self, verb: str, rest: str) -> None:
        if verb == ">":
            self.hear(self.stream.receive(request(rest)))
        elif verb == "offer":
            stamp, _, resources = rest.partition(":")
            lineage, _, revision = stamp.rpartition("/")
            self.hear(self.stream.offer(snapshot(resources, int(revision), lineage or LINEAGE)))
        else:
            target, rejected = self.stream.target, self.stream.rejected
            self.stream = AdsStream(
                self.protocol, self.pacing, rejected=rejected, held=Stamp.parse(rest) if rest else None
            )
            if target is not None:
                self.hear(self.stream.offer(target))

    def check(self, line: str) -> tuple[object, object]:
        verb, *rest = line.split()
        if verb == "rejected":
            return " ".join(rest), _listed(
                f"{SHORT_NAMES[r.type_url]} {r.name}@{r.version}" for r in self.stream.rejected
            )
        if verb == "acked":
            acked = self.stream.acked[TYPES[rest[0]]]
            return " ".join(rest[1:]), _listed(f"{name}@{version}" for name, version in sorted(acked.items()))
        if verb == "synced":
            return (True, int(rest[0])), (self.stream.synced, self.stream.stamp.revision)
        assert line == "not synced", f"{self.path.name}: what is {line!r}?"
        return False, self.stream.synced

    def hear(self, responses: list[Response]) -> None:
        self.said += [render(response, self.protocol) for response in responses]


def _listed(parts: Iterable[str]) -> str:
    return " ".join(parts)
