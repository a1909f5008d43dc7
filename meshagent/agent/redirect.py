"""Keeps this host's names and turned connections as they should be: the marked block of its hosts file, and the nftables table.

Each pass looks, plans (ways.py) and acts; what somebody else flushed or wrote over is put back within seconds, and told. When the agent
ends, everything stays: names that no longer led anywhere would be worse than an agent that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from meshagent.agent.addresses import Addresses
from meshagent.agent.intercept import TRIAL_FILE, TRIAL_SECONDS, State, Trials
from meshagent.agent.local import Request
from meshagent.agent.settings import NOWHERE, SYSTEMD, PlacementSettings, Settings
from meshagent.agent.ways import PATIENCE, TURNING, Owner, Plan, plan, taken_words
from meshagent.errors import MeshagentError
from meshagent.host import hostsfile, nftables, nftwatch, users
from meshagent.host.files import FileError, read_if_there, remove, write_durably
from meshagent.host.hostsfile import HostsFileError, Taken
from meshagent.host.nftables import Caught, NftError
from meshagent.protocol import host_pb2

log = logging.getLogger(__name__)

RULES_FILE = "redirect.nft"  # in the state directory: what meshagent-redirect.service loads at boot
LOOK_EVERY = 5.0  # the kernel tells of changes, so that this is for what it cannot tell
_PASS_EVERY = 2.0
_DYNAMIC = Path("/run/systemd/dynamic-uid")
_SOON = 0.05
_REPAIR_TOLD = 3600.0
_PUTS = 3


class Placed(Protocol):
    """One placement that runs here. `accepting`: its Envoy takes connections, as far as it says."""

    @property
    def placement(self) -> host_pb2.Placement: ...
    @property
    def accepting(self) -> bool: ...


class Redirect:
    """`changed` is called when `words` or `obstacle` may answer something else. `servers`, as host:port, are never kept from the agent."""

    def __init__(
        self, settings: Settings, changed: Callable[[], None], servers: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._file = settings.state_directory / RULES_FILE
        self._woken = asyncio.Event()
        self._accepted: dict[str, float] = {}
        self._plan = Plan()
        self._table = _Table()
        self._trials = Trials(settings.state_directory)
        self._servers = Addresses(servers)
        self._taken: tuple[Taken, ...] = ()
        self._trouble: Mapping[str, str] = {}  # what could not be done, by what
        self._looked = 0.0
        self._passed = False

    def wake(self) -> None:
        """Something may have changed that a pass should see."""
        self._woken.set()

    def words(self, placement: host_pb2.Placement) -> str:
        """What of the placement's names and turned connections does not work, and what was mended lately; or ""."""
        said = [self._plan.words.get(placement.id, ""), *self._trouble.values()]
        if placement.mode in TURNING:
            said.append(self._table.repaired())
        said.append(taken_words(placement, self._taken, str(self._settings.hosts_file)))
        return "; ".join(each for each in said if each)

    def obstacle(self, placement: host_pb2.Placement) -> str | None:
        """Why nobody should send requests to this placement: they would meet the application where they mean its Envoy; or "". None as
        long as that is not known: an agent before may have left all as it should be."""
        if placement.mode not in TURNING or not placement.probes:
            return ""
        if not self._passed:
            return None
        yet = "connections are not turned to Envoy yet"
        if not self._table.stands:
            return self._trouble.get("rules") or yet
        # What a change takes away is gone from its beginning, what it brings is there from its end.
        if not self._plan.turned(placement):
            return self._plan.words.get(placement.id) or yet
        if not self._table.in_force.turned(placement):
            return self._trouble.get("rules") or yet
        return ""

    async def run(self, placed: Callable[[], Iterable[Placed] | None]) -> None:
        """For ever. `placed` are all placements of this host; None while nobody has said which."""
        loop = asyncio.get_running_loop()
        with nftwatch.watching(self._flushed):
            while True:
                self._woken.clear()
                every = placed()
                if every is not None:
                    before = (self._plan, self._trouble, self._taken, self._table.stands, self._table.repairs)
                    now = loop.time()
                    look = now - self._looked >= LOOK_EVERY
                    self._looked = now if look else self._looked
                    await self._whole_pass(list(every), now, look)
                    self._passed = True
                    if before != (self._plan, self._trouble, self._taken, self._table.stands, self._table.repairs):
                        self._changed()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PASS_EVERY):
                        await self._woken.wait()
                await asyncio.sleep(_SOON)  # what changes in one go is one pass

    async def _whole_pass(self, every: list[Placed], now: float, look: bool) -> None:
        """To its end: cancelled or not, nobody else begins before it is over."""
        work = asyncio.ensure_future(asyncio.to_thread(self._pass, every, now, look))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise

    def _flushed(self) -> None:
        self._looked = 0.0
        self._woken.set()

    def _pass(self, every: list[Placed], now: float, look: bool) -> None:
        placements = [each.placement for each in every]
        # Where nothing is or was to be turned, nft need not even be there.
        concerned = self._file.exists() or any(each.mode in TURNING for each in placements)
        if concerned and look:
            self._try("rules", self._table.look)
        accepting = self._accepting(every, now)
        self._plan = plan(placements, self._settings.placements, self._owner, accepting, self._caught)
        if self._plan.ways:
            live = all(each.accepting for each in every)
            turned = self._try("rules", lambda: self._table.put(self._plan, self._file, live))
            if turned or not self._table.stands:
                # Without the rules, a service's address would be this host's own application's.
                self._put_names(self._plan.names if turned else _bound(placements))
        else:
            self._put_names(self._plan.names)
            if concerned:
                self._try("rules", lambda: self._table.put(self._plan, self._file, False))

    def _put_names(self, names: Mapping[str, str]) -> None:
        path = self._settings.hosts_file
        if path is None or path == NOWHERE:
            return

        def act() -> None:
            self._taken = hostsfile.put(path, names)

        self._try("names", act)

    def _try(self, what: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except (NftError, FileError, HostsFileError) as error:
            if self._trouble.get(what) != str(error):
                log.error("%s", error)
            self._trouble = {**self._trouble, what: str(error)}
            return False
        self._trouble = {name: words for name, words in self._trouble.items() if name != what}
        return True

    def _accepting(self, every: list[Placed], now: float) -> set[str]:
        """The Envoys that take connections or did until a moment ago. Of those that ran before this agent did, the table tells."""
        fresh = [each.placement for each in every if each.placement.id not in self._accepted]
        for placement in fresh:
            turned = nftables.INGRESS_PORT + 2 * placement.slot in self._table.ingress
            self._accepted[placement.id] = now if turned else now - PATIENCE
        for each in every:
            if each.accepting:
                self._accepted[each.placement.id] = now
        here = {each.placement.id for each in every}
        self._accepted = {id_: at for id_, at in self._accepted.items() if id_ in here}
        return {id_ for id_, at in self._accepted.items() if now - at < PATIENCE}

    def _caught(self, placement: host_pb2.Placement, settings: PlacementSettings) -> tuple[Caught | None, str]:
        wanted = settings.intercept
        try:
            trial = self._trials.now(settings)
        except FileError as error:
            return None, f"nothing is intercepted, since nobody could tell afterwards that it was on trial: {error}"
        if trial.state is State.ROLLED_BACK:
            return None, (
                f"interception was rolled back, nobody confirmed it within {TRIAL_SECONDS} s: `meshagent intercept try`, and then "
                "`meshagent intercept confirm`"
            )
        caught = Caught(
            users=wanted.ignore_uid,
            groups=wanted.ignore_gid,
            ports=wanted.egress_ignored_ports,
            addresses=wanted.egress_ignored_ip,
            hosts=self._servers.found(),
            ipv6=wanted.ipv6,
            seconds=self._trials.seconds(trial),
        )
        words = (
            "interception is on trial: `meshagent intercept confirm` keeps it" if trial.state is State.TRYING else ""
        )
        return caught, words

    async def confirm(self, _: Request) -> dict[str, str]:
        """POST /intercept/confirm: the host is still in reach."""
        state = (await asyncio.to_thread(self._trials.confirm)).state
        self.wake()
        return {"state": state.value}

    async def try_again(self, _: Request) -> dict[str, str]:
        """POST /intercept/try: what was rolled back begins anew."""
        await asyncio.to_thread(self._trials.again)
        self.wake()
        return {"state": State.TRYING.value}

    def _owner(self, placement: host_pb2.Placement, settings: PlacementSettings | None) -> Owner:
        user, proxy = settings.application_user if settings is not None else None, self._proxy(placement.slot)
        if user is None:
            return Owner(proxy)
        number = _number(user)
        if number is None:
            return Owner(
                proxy, words=f"application_user {user} is not known on this host: make the user, or name another"
            )
        return Owner(proxy, (number,))

    def _proxy(self, slot: int) -> int | None:
        """The id of the user that the slot's Envoy runs as; None while there is none yet."""
        if self._settings.supervisor != SYSTEMD:
            return os.geteuid()
        found = users.find(slot)
        return found.uid if found is not None else None


def _number(user: str) -> int | None:
    """Of a user by name or number. Users that systemd makes for a service alone (DynamicUser) are known while that runs."""
    if user.isdigit():
        return int(user)
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user).pw_uid
    with contextlib.suppress(OSError, ValueError):
        return int((_DYNAMIC / f"direct:{user}").readlink().name)
    return None


class _Table:
    """The nftables table as it was put and as it was seen last."""

    def __init__(self) -> None:
        self.stands = False  # `in_force` is
        self.in_force = Plan()
        self.ingress: frozenset[int] = frozenset()
        self.repairs = 0
        self._repaired_at = 0.0
        self._seen: str | None = None  # as the kernel spells what was put
        self._off = False  # an Envoy that ended turns off what is caught

    def look(self) -> None:
        found = nftables.observe()
        self.ingress = nftables.redirected_to(found)
        catches = any(way.caught is not None for way in self.in_force.ways)
        self._off = catches and not nftables.switch_on(found)
        if self.stands and not self._is_put(found):
            self.stands = False
            self.repairs += 1
            self._repaired_at = time.time()
            what = "is gone" if found is None else "was changed"
            log.warning("the nftables table %s %s %s: putting it back", nftables.FAMILY, nftables.TABLE, what)

    def put(self, wanted: Plan, file: Path, live: bool) -> None:
        """`file` first: what stands in the hosts file must hold after a power cut, too. `live`: Envoys take connections right now."""
        rules, kept = wanted.rules, wanted.rules_at_boot
        if wanted.ways and read_if_there(file) != kept.encode():
            write_durably(file, kept)
        if not self.stands or wanted.shape != self.in_force.shape or (self._off and live):
            # The kernel changes from one to the other at once: what stood goes on until then.
            try:
                seen = _put(rules)
            except NftError:
                self.stands = self.stands and self._goes_on()
                raise
            self._seen, self.ingress = seen, nftables.redirected_to(seen)
            self.in_force, self.stands, self._off = wanted, True, False
            log.info("nftables: %s", _told(wanted))
        if not wanted.ways:
            remove(file)

    def _is_put(self, found: str | None) -> bool:
        return nftables.rules_of(found) == nftables.rules_of(self._seen)

    def _goes_on(self) -> bool:
        """Whether what was put last is still there."""
        try:
            return self._is_put(nftables.observe())
        except NftError:
            return False

    def repaired(self) -> str:
        if not self.repairs or time.time() - self._repaired_at > _REPAIR_TOLD:
            return ""
        times = "once" if self.repairs == 1 else f"{self.repairs} times"
        at = time.strftime("%H:%M:%S", time.localtime(self._repaired_at))
        table = f"{nftables.FAMILY} {nftables.TABLE}"
        return f"another program flushed or changed the nftables table {table} {times}, last at {at}: it was put back"


def _put(rules: str) -> str | None:
    """The table as it was seen whole: whoever flushes rules twice, as scripts that load a whole ruleset do, is met in between."""
    for _ in range(_PUTS):
        nftables.apply(rules)
        seen = nftables.observe()
        if nftables.is_whole(seen, rules):
            return seen
    raise NftError(
        f"another program changes the nftables table {nftables.FAMILY} {nftables.TABLE} whenever it is put in place"
    )


def forget(settings: Settings) -> None:
    """Names and turned connections go, as if they had never been: for an uninstall, when no agent runs. Raises the first error, after all
    has been tried."""
    errors: list[MeshagentError] = []
    file = settings.state_directory / RULES_FILE

    def away(act: Callable[[], object]) -> None:
        try:
            act()
        except MeshagentError as error:
            errors.append(error)

    # The names first: without the rules, they would lead to this host's own applications.
    if settings.hosts_file is not None and settings.hosts_file != NOWHERE:
        path = settings.hosts_file
        away(lambda: hostsfile.take_away(path))
    if file.exists() or any(each.mode in TURNING for each in settings.placements):
        away(lambda: _remove_rules(file))
    away(lambda: remove(settings.state_directory / TRIAL_FILE))
    if errors:
        raise errors[0]


def _remove_rules(file: Path) -> None:
    """The file says that there were some, until they are gone."""
    nftables.remove()
    remove(file)


def _told(wanted: Plan) -> str:
    if not wanted.ways:
        return "no connections are turned, the table is gone"
    return "; ".join(
        f"slot {way.slot}: calls to {way.egress}, ports {', '.join(map(str, way.ports)) or 'none'} to {way.ingress}"
        for way in wanted.ways
    )


def _bound(placements: Iterable[host_pb2.Placement]) -> Mapping[str, str]:
    """The names that need no rules."""
    return plan([each for each in placements if each.mode not in TURNING], (), lambda *_: Owner(), ()).names
