"""The loop that keeps names and rules, on real rules in a network of the test's own and a hosts file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import pwd
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshagent.agent import redirect
from meshagent.agent.redirect import RULES_FILE, Redirect, forget
from meshagent.agent.settings import PlacementSettings, Settings
from meshagent.host import nftables
from meshagent.host.files import FileError
from meshagent.protocol import host_pb2
from tests.agent.test_ways import placed
from tests.host.namespaces import needs_nft, needs_root, nft, own_network

pytestmark = [needs_root, needs_nft]

BEFORE = b"127.0.0.1 localhost\n10.0.0.9 db"


@dataclass
class Fake:
    """A proxy as the loop sees it."""

    placement: host_pb2.Placement
    accepting: bool = True


class Host:
    def __init__(self, directory: Path, *fakes: Fake) -> None:
        self.hosts_file = directory / "hosts"
        self.hosts_file.write_bytes(BEFORE)
        self.settings = Settings(
            state_directory=directory,
            runtime_directory=directory,
            placements=tuple(PlacementSettings(fake.placement.resource, "redirect") for fake in fakes),
            hosts_file=self.hosts_file,
        )
        self.fakes: list[Fake] | None = list(fakes)
        self.changes = 0
        self.redirect = Redirect(self.settings, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[Redirect]:
        self.redirect = Redirect(self.settings, self._changed)
        task = asyncio.create_task(self.redirect.run(lambda: self.fakes))
        try:
            yield self.redirect
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def host(tmp_path: Path, network: None, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(redirect, "PATIENCE", 0.5)
    return Host(tmp_path, Fake(placed("web", 0)))


async def until(true: Callable[[], Any], what: str, seconds: float = 10.0) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def table() -> str:
    return nft("list", "ruleset")


async def test_names_and_rules_come_and_go_together(host: Host) -> None:
    assert host.fakes is not None
    web = host.fakes[0].placement
    async with host.agent() as agent:
        assert agent.obstacle(web) is None, "nobody has looked yet"
        await until(
            lambda: "15000" in table() and b"127.64.1.1\tof-web.local\n" in host.hosts_file.read_bytes(), "all is there"
        )
        await until(lambda: agent.obstacle(web) == "", "said to be there")
        assert agent.words(web) == ""
        assert (host.settings.state_directory / RULES_FILE).read_text().count("redirect to") == 1, (
            "at boot, calls alone"
        )
        host.fakes = []
        await until(lambda: table() == "" and host.hosts_file.read_bytes() == BEFORE, "all is gone")
        await until(lambda: not (host.settings.state_directory / RULES_FILE).exists(), "and at boot, too")


async def test_h8_rules_that_are_flushed_as_they_are_put_in_place_are_put_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody has seen them: what was seen then is not what is to stand."""
    assert host.fakes is not None
    web, apply, puts = host.fakes[0].placement, nftables.apply, 0

    def flushed_at_once(text: str) -> None:
        nonlocal puts
        apply(text)
        puts += 1
        if puts < 3:
            nft("flush", "ruleset")

    monkeypatch.setattr(nftables, "apply", flushed_at_once)
    async with host.agent() as agent:
        await until(lambda: agent.obstacle(web) == "", "all is there")
        assert "redirect to :15000" in table() and "redirect to :15001" in table()
        await until(lambda: b"of-web.local" in host.hosts_file.read_bytes(), "the names")


async def test_while_rules_are_replaced_those_that_stand_are_told_to(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.fakes is not None
    web, store = host.fakes[0], Fake(placed("store", 1, ports=(81,)))
    apply, going, go = nftables.apply, threading.Event(), threading.Event()

    def held(text: str) -> None:
        going.set()
        assert go.wait(10)
        apply(text)

    async with host.agent() as agent:
        await until(lambda: agent.obstacle(web.placement) == "", "the first rules")
        monkeypatch.setattr(nftables, "apply", held)
        host.fakes.append(store)
        agent.wake()
        await until(going.is_set, "its rules")
        assert agent.obstacle(web.placement) == ""
        assert "not turned to Envoy yet" in (agent.obstacle(store.placement) or "")
        go.set()
        await until(lambda: agent.obstacle(store.placement) == "", "told")
        assert "15002" in table()
        going.clear(), go.clear()
        web.accepting = False
        await until(going.is_set, "rules without it")
        assert agent.obstacle(web.placement), "from the beginning of the change"
        assert agent.obstacle(store.placement) == ""
        go.set()


async def test_rules_that_could_not_be_replaced_make_nobody_ready(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file for the next boot comes first, and there is no room for it: those in force are the former ones."""
    assert host.fakes is not None
    web, store = host.fakes[0], Fake(placed("store", 1, ports=(81,)))
    async with host.agent() as agent:
        await until(lambda: agent.obstacle(web.placement) == "", "the first rules")
        with monkeypatch.context() as patched:
            patched.setattr(redirect, "write_durably", full)
            host.fakes.append(store)
            agent.wake()
            await until(lambda: "No space left on device" in (agent.obstacle(store.placement) or ""), "told")
            assert "15002" not in table() and agent.obstacle(web.placement) == ""
        await until(lambda: agent.obstacle(store.placement) == "", "room")
        assert "15002" in table()


async def test_rules_that_nft_refuses_leave_those_that_stand_and_who_is_turned_by_them(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.fakes is not None
    web, store = host.fakes[0], Fake(placed("store", 1, ports=(81,)))

    def refused(_: str) -> None:
        raise nftables.NftError("nft: no")

    async with host.agent() as agent:
        await until(lambda: agent.obstacle(web.placement) == "", "the first rules")
        with monkeypatch.context() as patched:
            patched.setattr(nftables, "apply", refused)
            host.fakes.append(store)
            agent.wake()
            await until(lambda: "nft: no" in (agent.obstacle(store.placement) or ""), "told")
            assert agent.obstacle(web.placement) == ""
            assert b"of-web.local" in host.hosts_file.read_bytes()
            nft("flush", "ruleset")
            await until(lambda: "nft: no" in (agent.obstacle(web.placement) or ""), "told of that, too")
        await until(lambda: agent.obstacle(web.placement) == agent.obstacle(store.placement) == "", "mended")


def full(path: Path, *_: object) -> None:
    raise FileError("write", path, OSError(errno.ENOSPC, "No space left on device"))


async def test_nothing_is_touched_before_anybody_said_what_runs_here(host: Host) -> None:
    (host.settings.state_directory / RULES_FILE).write_text("")
    nft("add", "table", "inet", "meshagent")
    before, host.fakes = host.fakes, None
    async with host.agent() as agent:
        agent.wake()
        await asyncio.sleep(0)
        host.fakes = before
        agent.wake()
        await until(lambda: "15001" in table(), "the rules of what runs here")


@pytest.mark.parametrize(
    "words",
    [
        ("flush", "ruleset"),
        ("delete", "table", "inet", "meshagent"),
        ("flush", "chain", "inet", "meshagent", "outbound"),
    ],
)
async def test_h8_rules_that_somebody_flushes_are_back_within_10_seconds_and_it_is_told(
    host: Host, words: tuple[str, ...]
) -> None:
    assert host.fakes is not None
    web = host.fakes[0].placement
    async with host.agent() as agent:
        await until(lambda: agent.obstacle(web) == "", "all is there")
        whole = table()
        nft(*words)
        assert table() != whole
        assert await until(lambda: table() == whole, "put back") < 10
        await until(lambda: "was put back" in agent.words(web) and agent.obstacle(web) == "", "told")
        assert "flushed or changed the nftables table inet meshagent once" in agent.words(web)


async def test_h8_names_that_somebody_wrote_over_are_back(host: Host) -> None:
    async with host.agent():
        await until(lambda: b"of-web.local" in host.hosts_file.read_bytes(), "the block")
        host.hosts_file.write_bytes(BEFORE)
        assert await until(lambda: b"of-web.local" in host.hosts_file.read_bytes(), "the block again") < 10


async def test_h2_an_envoy_that_takes_no_connections_loses_those_that_come_in_but_not_the_calls(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redirect, "PATIENCE", 2.0)
    assert host.fakes is not None
    web = host.fakes[0]
    async with host.agent() as agent:
        await until(lambda: "15000" in table(), "turned")
        web.accepting = False
        assert await until(lambda: "15000" not in table(), "given back to the application") > 0.3
        assert "15001" in table()
        assert "not turned to Envoy" in (agent.obstacle(web.placement) or "")
        web.accepting = True
        agent.wake()
        await until(lambda: "15000" in table(), "turned again")


async def test_in_a_strict_mesh_nobody_gets_past_envoy(host: Host) -> None:
    host.fakes = [Fake(placed("web", 0, strict=True), accepting=False)]
    async with host.agent():
        await until(lambda: "15000" in table(), "turned although nobody takes connections")
    assert "15000" in (host.settings.state_directory / RULES_FILE).read_text()


async def test_h1_an_agent_that_starts_anew_takes_nothing_from_an_envoy_that_runs(host: Host) -> None:
    assert host.fakes is not None
    async with host.agent():
        await until(lambda: "15000" in table(), "turned")
    assert "15000" in table()
    host.fakes[0].accepting = False  # not heard of yet
    async with host.agent() as agent:
        await until(lambda: agent._table.stands, "the first pass")
        assert "15000" in table()
        host.fakes[0].accepting = True
        agent.wake()
        await until(lambda: agent.obstacle(host.fakes[0].placement) == "" if host.fakes else False, "as before")
        assert "15000" in table()


async def test_h7_without_nft_names_do_not_lead_astray(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.fakes is not None
    web = host.fakes[0].placement
    monkeypatch.setattr(nftables, "_PROGRAMS", ())
    async with host.agent() as agent:
        await until(lambda: "install the package nftables" in (agent.obstacle(web) or ""), "told")
        assert "install the package nftables" in agent.words(web)
        assert host.hosts_file.read_bytes() == BEFORE
        monkeypatch.undo()
        await until(lambda: agent.obstacle(web) == "" and b"of-web" in host.hosts_file.read_bytes(), "installed")


async def test_h7_an_uninstall_leaves_what_was_there_before(host: Host) -> None:
    nft("add", "table", "inet", "somebody")
    before = table()
    async with host.agent() as agent:
        await until(lambda: host.fakes and agent.obstacle(host.fakes[0].placement) == "", "all is there")
        await until(lambda: table() != before and host.hosts_file.read_bytes() != BEFORE, "rules and names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nftables, "_PROGRAMS", ())
        with pytest.raises(nftables.NftError):
            forget(host.settings)
    assert host.hosts_file.read_bytes() == BEFORE, "what can be done is done"
    forget(host.settings)
    assert (table(), host.hosts_file.read_bytes()) == (before, BEFORE)
    assert not (host.settings.state_directory / RULES_FILE).exists()
    forget(host.settings)


async def test_an_applications_user_is_looked_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = placed("store", 1, ports=(81,))
    host.fakes = [Fake(placed("web", 0)), Fake(store)]
    user = pwd.getpwall()[1]

    def with_user(name: str) -> None:
        placements = (PlacementSettings(store.resource, "redirect", application_user=name),)
        host.settings = dataclasses.replace(host.settings, placements=placements)

    with_user(user.pw_name)
    async with host.agent() as agent:
        await until(lambda: "meta skuid" in table(), "told apart")
        assert f'skuid "{user.pw_name}"' in table() or f"skuid {user.pw_uid}" in table()
        assert agent.words(store) == ""
    monkeypatch.setattr(redirect, "_DYNAMIC", host.settings.state_directory)
    (host.settings.state_directory / "direct:a-unit").symlink_to("62264")
    with_user("a-unit")
    async with host.agent() as agent:
        await until(lambda: "meta skuid 62264" in table(), "the user that systemd made for a unit")
    with_user("nobody-of-this-name")
    async with host.agent() as agent:
        await until(lambda: "nobody-of-this-name is not known on this host" in agent.words(store), "told")


async def test_a_name_that_stands_there_already_is_told(host: Host) -> None:
    assert host.fakes is not None
    host.hosts_file.write_bytes(b"10.10.10.10 of-web.local\n")
    async with host.agent() as agent:
        await until(
            lambda: "of-web.local is 10.10.10.10" in agent.words(host.fakes[0].placement) if host.fakes else 0, "told"
        )
    assert host.hosts_file.read_bytes() == b"10.10.10.10 of-web.local\n"
