"""DNS for the server: keeps the answers of a set of names fresh, by DNS alone, never through /etc/hosts.

Answers are kept for their TTL within bounds; when a name cannot be resolved the last known answer stays. A name that
fails is logged once, not at every try. Who wants the answers, and why, is not known here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from meshagent.discovery.leases import Lookup

_log = logging.getLogger(__name__)

# At most this many questions at once, whatever the number of names.
PARALLEL = 16
QUERY_SECONDS = 5.0


_RECORDS = {"4": "A", "6": "AAAA"}


@dataclass(frozen=True)
class Pace:
    """Seconds. An answer is asked again after its TTL, but no sooner than `floor` and no later than `ceiling`; a failure after `first`,
    then twice as long each time up to `ceiling`."""

    floor: float = 5.0
    ceiling: float = 60.0
    first: float = 2.0


@dataclass(frozen=True)
class Answer:
    addresses: tuple[str, ...]
    ttl: float


class Unanswered(Exception):
    """No answer that counts; the words say why."""


async def ask(resolver: dns.asyncresolver.Resolver, question: Lookup) -> Answer:
    """The addresses of the first family that has any; an IP address in the place of a name is its own answer, for ever. Unanswered when no
    family has any, or DNS did not answer."""
    if literal := _literal(question.hostname):
        if str(literal.version) in question.families:
            return Answer((str(literal),), math.inf)
        raise Unanswered(f"it is an IPv{literal.version} address, and another family is wanted")
    words = ""
    for family in question.families:
        try:
            found = await resolver.resolve(question.hostname, _RECORDS[family], search=False, lifetime=QUERY_SECONDS)
        except dns.exception.DNSException as error:
            words = str(error) or type(error).__name__
            if not isinstance(error, dns.resolver.NoAnswer):
                # NXDOMAIN is true of every family; a server that did not answer would hide the preferred one.
                break
            continue
        addresses = sorted({record.address for record in found})
        if addresses:
            return Answer(tuple(addresses), float(found.rrset.ttl if found.rrset is not None else 0))
    raise Unanswered(words or "no address")


def _literal(hostname: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(hostname)
    except ValueError:
        return None


def resolver_for(nameservers: Sequence[str] = ()) -> dns.asyncresolver.Resolver:
    """`nameservers` are HOST or HOST:PORT; without any, those of /etc/resolv.conf. Where that names none, every question fails."""
    if not nameservers:
        try:
            return dns.asyncresolver.Resolver()
        except dns.resolver.NoResolverConfiguration as error:
            _log.warning("no DNS server is configured on this machine: %s", error)
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [
        dns.nameserver.Do53Nameserver(host, port) for host, port in map(split_nameserver, nameservers)
    ]
    return resolver


def split_nameserver(text: str) -> tuple[str, int]:
    """From 10.0.0.2, 10.0.0.2:5353, fd00::2 or [fd00::2]:5353; ValueError says what is wrong."""
    host, separator, port = text.rpartition(":")
    if not separator or (":" in host and not host.endswith("]")):
        host, port = text, "53"
    try:
        # An address and no name: a name would need a DNS server first.
        address = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        address = ""
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"DNS server {text!r}: must be an address such as 10.0.0.2 or 10.0.0.2:5353")
    return address, int(port)


class Resolving:
    """Calls `answered` whenever a name's addresses differ from before. One task a name; `want` says which names there are."""

    def __init__(
        self,
        resolver: dns.asyncresolver.Resolver,
        answered: Callable[[Lookup, tuple[str, ...]], None],
        pace: Pace | None = None,
    ) -> None:
        self._resolver, self._answered, self._pace = resolver, answered, pace or Pace()
        self._wanted: frozenset[Lookup] = frozenset()
        self._changed = asyncio.Event()
        self._parallel = asyncio.Semaphore(PARALLEL)

    def want(self, questions: Collection[Lookup]) -> None:
        wanted = frozenset(questions)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        tasks: dict[Lookup, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._changed.clear()
                    for question in tasks.keys() - self._wanted:
                        tasks.pop(question).cancel()
                    for question in self._wanted - tasks.keys():
                        tasks[question] = group.create_task(self._keep(question), name=f"dns: {question.hostname}")
                    await self._changed.wait()
        finally:
            tasks.clear()

    async def _keep(self, question: Lookup) -> None:
        known: tuple[str, ...] = ()
        failures = 0
        while True:
            began = time.monotonic()
            try:
                async with self._parallel:
                    answer = await ask(self._resolver, question)
            except (Unanswered, OSError) as error:
                failures += 1
                if failures == 1:
                    kept = f"its last answer stays: {', '.join(known)}" if known else "it has no addresses"
                    _log.warning("%s cannot be resolved, %s: %s", question.hostname, kept, error)
                pause = min(self._pace.first * 2 ** min(failures - 1, 10), self._pace.ceiling)
            else:
                if failures:
                    _log.info("%s is resolved again", question.hostname)
                failures = 0
                pause = min(max(answer.ttl, self._pace.floor), self._pace.ceiling)
                if answer.addresses != known:
                    known = answer.addresses
                    self._answered(question, known)
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                # dnspython waits by asyncio.wait_for, which in Python 3.11 loses a cancellation that comes with the answer.
                raise asyncio.CancelledError
            # Jitter, so that names that were asked together are not asked together for ever.
            await asyncio.sleep(max(pause * random.uniform(0.8, 1.0) - (time.monotonic() - began), 0.05))  # noqa: S311
