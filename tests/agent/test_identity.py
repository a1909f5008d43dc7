"""Identities on disk: swapped whole, renewed in time, kept when nobody signs."""

from __future__ import annotations

import asyncio
import stat
import time
from pathlib import Path

import pytest

from meshagent.agent import identity
from meshagent.agent.identity import Identity, Keeper
from meshagent.errors import MeshagentError
from meshagent.host import files
from meshagent.identity import rotation, x509
from tests.agent.authority import Authority

WEB = "mesh/shop/virtualNode/web"


class Signer:
    """Signs, or does not, and counts."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.asked = 0
        self.away = False
        self.refused = asyncio.Event()

    async def __call__(self, request: bytes) -> tuple[bytes, bytes]:
        self.asked += 1
        if self.away:
            self.refused.set()
            raise MeshagentError("no server in reach")
        return self.authority.sign(request, WEB), self.authority.bundle


def issue(directory: Path, authority: Authority) -> Identity:
    key = x509.new_key()
    return identity.install(directory, key, authority.sign(x509.new_request(key), WEB), authority.bundle)


def test_k8_what_is_installed_is_read_and_private(tmp_path: Path) -> None:
    made = issue(tmp_path / "tls", Authority())
    assert identity.read(tmp_path / "tls") == made
    assert stat.S_IMODE((tmp_path / "tls" / "current" / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert b"PRIVATE" not in repr(made).encode()


def test_a_new_identity_is_a_generation_and_two_are_kept(tmp_path: Path) -> None:
    authority = Authority()
    serials = [issue(tmp_path, authority).leaf.serial for _ in range(4)]
    assert (tmp_path / "current").readlink() == Path("g-4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "g-3", "g-4"]
    held = identity.read(tmp_path)
    assert held is not None and held.leaf.serial == serials[-1]


def test_k5_an_identity_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    old = issue(tmp_path, authority)
    real = files.os.fsync
    syncs = 0

    def fill_up(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs > 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fill_up)
    with pytest.raises(MeshagentError, match="No space left"):
        issue(tmp_path, authority)
    monkeypatch.undo()
    assert identity.read(tmp_path) == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "g-1"]
    assert issue(tmp_path, authority) == identity.read(tmp_path)


def test_without_its_note_an_identity_is_read_from_the_chain(tmp_path: Path) -> None:
    made = issue(tmp_path, Authority())
    (tmp_path / "current" / "leaf.json").unlink()
    assert identity.read(tmp_path) == made


def test_half_an_identity_is_none(tmp_path: Path) -> None:
    issue(tmp_path, Authority())
    (tmp_path / "current" / "bundle.pem").unlink()
    assert identity.read(tmp_path) is None
    (tmp_path / "current" / "bundle.pem").write_bytes(b"x")
    (tmp_path / "current" / "chain.pem").write_bytes(b"not a certificate")
    assert identity.read(tmp_path) is None


def test_what_a_proxys_user_puts_among_its_keys_keeps_nobody_from_a_new_identity(tmp_path: Path) -> None:
    issue(tmp_path, Authority())
    (tmp_path / "g-²").mkdir()
    (tmp_path / "current" / "key.pem").unlink()
    (tmp_path / "current" / "key.pem").mkdir()
    assert identity.read(tmp_path) is None
    assert issue(tmp_path, Authority()) == identity.read(tmp_path)


def test_sds_files_are_left_alone_when_they_are_right(tmp_path: Path) -> None:
    identity.write_sds(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert set(before) == {"sds-certificate.yaml", "sds-validation.yaml"}
    identity.write_sds(tmp_path)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before


async def installed(keeper: Keeper, reports: asyncio.Queue[Identity]) -> Identity:
    async with asyncio.timeout(10):
        return await reports.get()


async def test_an_identity_is_made_and_renewed_before_it_ends(tmp_path: Path) -> None:
    signer = Signer(Authority(life=4.0))
    reports: asyncio.Queue[Identity] = asyncio.Queue()
    keeper = Keeper("web", tmp_path, signer, reports.put_nowait, chance=lambda: 1.0)
    task = asyncio.create_task(keeper.run())
    try:
        first = await installed(keeper, reports)
        second = await installed(keeper, reports)
    finally:
        task.cancel()
    assert first.key != second.key
    assert identity.read(tmp_path) == second
    assert second.leaf.issued < first.leaf.end


async def test_k4_a_clock_that_was_ahead_and_is_set_back_lets_no_identity_end(tmp_path: Path) -> None:
    signer = Signer(Authority(life=6.0))
    reports: asyncio.Queue[Identity] = asyncio.Queue()
    ahead = 9 * 3600.0
    keeper = Keeper("web", tmp_path, signer, reports.put_nowait, clock=lambda: time.time() + ahead, chance=lambda: 1.0)
    task = asyncio.create_task(keeper.run())
    try:
        first = await installed(keeper, reports)
        ahead = 0.0
        second = await installed(keeper, reports)
    finally:
        task.cancel()
    assert second.leaf.issued < first.leaf.end


async def test_k4_a_clock_that_stays_ahead_makes_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "SHORTEST_INTERVAL", 0.05)
    authority = Authority()
    issue(tmp_path, authority)
    signer = Signer(authority)
    reports: asyncio.Queue[Identity] = asyncio.Queue()
    keeper = Keeper("web", tmp_path, signer, reports.put_nowait, clock=lambda: time.time() + 86400.0)
    task = asyncio.create_task(keeper.run())
    try:
        await installed(keeper, reports)
        keeper.trust(authority.bundle + Authority().bundle)
        await installed(keeper, reports)
        await asyncio.sleep(0.3)
    finally:
        task.cancel()
    assert signer.asked == 1, "of what lay there, the clock is all that is known"


async def test_a_nudge_ends_the_wait_after_a_failure(tmp_path: Path) -> None:
    signer = Signer(Authority())
    signer.away = True
    reports: asyncio.Queue[Identity] = asyncio.Queue()
    keeper = Keeper("web", tmp_path, signer, reports.put_nowait, chance=lambda: 1.0)
    task = asyncio.create_task(keeper.run())
    try:
        async with asyncio.timeout(10):
            await signer.refused.wait()
            signer.away = False
            keeper.nudge()
            await reports.get()
    finally:
        task.cancel()


async def test_new_roots_are_taken_and_a_chain_that_does_not_lead_to_them_is_renewed(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    before = issue(tmp_path, old)
    signer = Signer(old)
    reports: asyncio.Queue[Identity] = asyncio.Queue()
    keeper = Keeper("web", tmp_path, signer, reports.put_nowait)
    task = asyncio.create_task(keeper.run())
    try:
        keeper.trust(old.bundle + new.bundle)
        both = await installed(keeper, reports)
        assert (both.key, both.chain, both.bundle) == (before.key, before.chain, old.bundle + new.bundle)
        assert signer.asked == 0
        signer.authority = new
        keeper.trust(new.bundle)
        turned = await installed(keeper, reports)
        assert turned.bundle == new.bundle
        x509.verified_leaf(turned.chain, new.bundle, turned.leaf.issued, turned.key)
    finally:
        task.cancel()


async def test_a_chain_for_another_key_is_not_installed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority()
    other = x509.new_request(x509.new_key())
    twice = asyncio.Event()
    asked = 0

    async def sign(request: bytes) -> tuple[bytes, bytes]:
        nonlocal asked
        asked += 1
        if asked == 2:
            twice.set()
        return authority.sign(other, WEB), authority.bundle

    task = asyncio.create_task(Keeper("web", tmp_path, sign, lambda made: None).run())
    try:
        async with asyncio.timeout(10):
            await twice.wait()
    finally:
        task.cancel()
    assert "another key" in caplog.text
    assert identity.read(tmp_path) is None
