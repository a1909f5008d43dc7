"""An uninstall's steps: their order, and that one that fails stops no other. Real hosts: tests/hosts/test_install_by_hand.py."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshagent.agent import identity, uninstall
from meshagent.agent.configuration import parse
from meshagent.agent.settings import Settings
from meshagent.agent.uninstall import UninstallError
from meshagent.cli.meshagent import meshagent

CONFIG = Path("/etc/meshagent/agent.yaml")


@pytest.fixture
def settings() -> Settings:
    return parse("placements: []", "agent.yaml")


def words(settings: Settings, purge: bool) -> list[str]:
    return [said for said, _ in uninstall.steps(settings, CONFIG, purge)]


def test_proxies_drain_while_the_agent_is_there_and_their_users_go_last(settings: Settings) -> None:
    order = words(settings, purge=False)
    assert order.index("every proxy was drained and stopped") < order.index("the agent was stopped")
    assert order.index("no Envoy runs") < order.index("names and turned connections are gone")
    assert order[-1] == "the proxies' users are gone"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to other users")
def test_what_stays_is_roots_before_the_users_go_and_an_agent_that_comes_back_gives_it_away_again(
    tmp_path: Path,
) -> None:
    tls = tmp_path / "proxies" / "0123456789ab" / "tls"
    (tls / "g-1").mkdir(parents=True)
    (tls / "g-1" / "key.pem").touch()
    (tls / "current").symlink_to("g-1")
    # What an Envoy's user may have left there: none of it is followed, and none of it is in the way.
    (elsewhere := tmp_path / "elsewhere").mkdir(mode=0o700)
    (elsewhere / "secret").touch()
    (tls / "g-9").symlink_to(elsewhere)
    (tls / "g-8").symlink_to("nowhere")
    (tls / "g-7").touch()
    for each in (tls, tls / "g-1"):  # as releases before this one left it
        each.chmod(0o700)
        os.chown(each, 54320, -1)

    def owners() -> set[int]:
        for each in (tls, tls / "g-1"):
            assert (each.stat().st_uid, stat.S_IMODE(each.stat().st_mode)) == (0, 0o755), (
                "nobody else puts anything there"
            )
        return {
            path.lstat().st_uid for path in (tls / "g-1" / "key.pem", tls / "current", tls / "sds-certificate.yaml")
        }

    identity.write_sds(tls, 54321)
    settings = parse(f"{{state_directory: {tmp_path}, placements: []}}", "agent.yaml")
    steps = dict(uninstall.steps(settings, CONFIG, False))
    order = list(steps)
    assert order.index("the proxies' keys are root's") + 1 == order.index("the proxies' users are gone")
    assert owners() == {54321}
    steps["the proxies' keys are root's"]()
    assert owners() == {0}
    identity.write_sds(tls, 54322)
    assert owners() == {54322}
    assert [(each.stat().st_uid, each.stat().st_mode & 0o77) for each in (elsewhere, elsewhere / "secret")] == [
        (0, 0),
        (0, 0o44),
    ]


def test_state_and_configuration_go_only_when_purged(settings: Settings) -> None:
    added = words(settings, purge=True)[len(words(settings, purge=False)) :]
    assert added == ["/var/lib/meshagent is gone", "the configuration is gone"]


def test_a_step_that_fails_stops_no_other_and_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fail() -> None:
        raise UninstallError("nft is busy")

    def some(*_: object) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "rules are gone", fail
        yield "users are gone", lambda: None

    monkeypatch.setattr(uninstall, "steps", some)
    with pytest.raises(
        UninstallError, match="rules are gone: not done: nft is busy\nonce the reason is gone, run it again"
    ):
        uninstall.uninstall(settings, CONFIG, False, done.append)
    assert done == ["users are gone"]


def test_the_configuration_goes_and_others_files_stay(tmp_path: Path) -> None:
    directory = tmp_path / "meshagent"
    directory.mkdir()
    for name in ("agent.yaml", "join-token", "join-placements", "server.env"):
        (directory / name).touch()
    settings = parse(f"join_token_file: {directory}/join-token\nplacements: []", "agent.yaml")
    uninstall.remove_configuration(settings, directory / "agent.yaml")
    assert [path.name for path in directory.iterdir()] == ["server.env"]
    (directory / "server.env").unlink()
    uninstall.remove_configuration(settings, directory / "agent.yaml")
    assert not directory.exists()


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = CliRunner().invoke(meshagent, ["uninstall"])
    assert refused.exit_code == 1
    assert "only root may uninstall" in refused.output


@pytest.mark.parametrize("systemd", [True, False])
def test_systemd_is_told_where_it_runs(systemd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uninstall, "is_systemd_host", lambda: systemd)
    (program := tmp_path / "systemctl").write_text("#!/bin/sh\necho cannot be told >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UninstallError, match="stop it: cannot be told") if systemd else contextlib.nullcontext():
        uninstall.systemctl("stop", "it")
