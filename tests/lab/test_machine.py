"""What of the machine a lab asks for, and what it makes of what the machine says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshagent.cli.meshagent import meshagent
from meshagent.lab import cgroups, machine, rootfs
from meshagent.lab.layout import LabError


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["check"], ["up"], ["down"], ["list"], ["exec", "h1", "true"], ["reboot", "h1"]):
        refused = CliRunner().invoke(meshagent, ["lab", *words])
        assert refused.exit_code == 1
        assert "meshagent lab needs root" in refused.output


def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "systemd-nspawn" else f"/bin/{program}")
    assert machine.why_not() == (
        "meshagent lab needs systemd-nspawn: apt-get install systemd-container (or: meshagent lab check --install)"
    )


def test_the_hierarchies_that_count_are_found_with_and_without_version_1() -> None:
    alone = "24 23 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw"
    beside = (
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert cgroups.hierarchies(alone) == [Path("/sys/fs/cgroup")]
    places = [Path(f"/sys/fs/cgroup/{name}") for name in ("unified", "systemd", "memory")]
    assert cgroups.hierarchies(beside) == places
    with pytest.raises(LabError, match="cgroup v2"):
        cgroups.hierarchies("")


def test_another_list_of_packages_is_another_root_file_system() -> None:
    assert rootfs.key(rootfs.packages_of(["redis"])) != rootfs.key(rootfs.packages_of([]))
    assert rootfs.key(rootfs.packages_of(["python3"])) == rootfs.key(rootfs.packages_of([]))


def test_debian_comes_from_where_the_machine_has_it() -> None:
    lines = (
        "http://mirror.example/security/ bookworm-security Packages\n"
        "http://mirror.example/debian/ bookworm DEP-11\n"
        "http://mirror.example/debian/ bookworm Packages\n"
    )
    assert rootfs.mirror_of(lines, "bookworm") == "http://mirror.example/debian"
    assert rootfs.mirror_of("http://mirror.example/ubuntu/ noble Packages", "bookworm") == ""
    assert rootfs.build_command(Path("/d"), ["dbus"], "")[-2:] == [rootfs.SUITE, "/d"]


def test_a_root_file_system_holds_nothing_that_two_hosts_must_not_share(tmp_path: Path) -> None:
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    (tmp_path / "etc/machine-id").write_text("0123")
    rootfs.configure(tmp_path)
    assert not (tmp_path / "etc/ssh/ssh_host_ed25519_key").exists()
    assert (tmp_path / "etc/machine-id").read_text() == ""
    rootfs.configure(tmp_path)  # again: nothing breaks
