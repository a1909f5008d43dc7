"""install.py, the bundle's own installer: what it refuses, and that links and files are whole at any moment."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from roles import install

HERE = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "machine": platform.machine()}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of next to nothing, and a host that is this directory."""
    for name in ("CURRENT", "RELEASES", "UNITS", "ENVOYS"):
        monkeypatch.setattr(install, name, tmp_path / name.lower())
    monkeypatch.setattr(install, "LINKS", {})
    monkeypatch.setattr(install, "HERE", tmp_path)
    manifest = {
        **HERE,
        "id": "1-abc",
        "envoys": {"1.40.0": "envoys/envoy-1.40.0.whl"},
        "files": {"agent.txt": "0" * 64},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "agent.txt").write_text("some")
    return tmp_path


def release(bundle: Path, *roles: str) -> Path:
    made = bundle / "releases/1-abc"
    units = made / "lib/python3.11/site-packages/meshagent/host/units"
    units.mkdir(parents=True)
    for unit in ("meshagent-agent.service", "meshagent-envoy@.service", "meshagent-server.service"):
        (units / unit).write_text(f"[Unit]\nDescription={unit}\n")
    for role in roles:
        install.marker(made, role).touch()
    return made


def test_a_bare_host_lacks_everything(bundle: Path) -> None:
    lacking = install.missing(["agent", "server"])
    assert lacking[:2] == ["release 1-abc for agent", "release 1-abc for server"]
    assert "Envoy 1.40.0" in lacking


def test_what_is_installed_lacks_nothing_and_a_changed_unit_is_found(bundle: Path) -> None:
    made = release(bundle, "agent")
    install.swap(bundle / "current", made)
    (bundle / "envoys/1.40.0").mkdir(parents=True)
    (bundle / "envoys/1.40.0/envoy").touch()
    (bundle / "units").mkdir()
    for source, target in install.units(made, ["agent"]):
        install.replace(target, source.read_bytes())
    assert install.missing(["agent"]) == []
    (bundle / "units/meshagent-agent.service").write_text("changed by hand")
    assert install.missing(["agent"]) == ["unit meshagent-agent.service"]


def test_each_role_has_its_units(bundle: Path) -> None:
    made = release(bundle)
    assert [target.name for _, target in install.units(made, ["server"])] == ["meshagent-server.service"]
    assert "meshagent-server.service" not in [target.name for _, target in install.units(made, ["agent"])]


def test_another_python_or_machine_is_refused_in_words(bundle: Path) -> None:
    with pytest.raises(install.Refused, match=r"the bundle is for Python 3\.99"):
        install.check_host({**HERE, "python": "3.99"})
    with pytest.raises(install.Refused, match="on vax: make one on a machine like this host"):
        install.check_host({**HERE, "machine": "vax"})


def test_a_file_that_was_damaged_on_the_way_is_named(bundle: Path) -> None:
    with pytest.raises(install.Refused, match=r"agent\.txt has SHA-256 .* copy the bundle again"):
        install.check_files(install.read_manifest())


def test_a_link_is_replaced_and_a_file_of_others_is_not(tmp_path: Path) -> None:
    install.swap(tmp_path / "link", Path("/one"))
    install.swap(tmp_path / "link", Path("/two"))
    assert (tmp_path / "link").readlink() == Path("/two")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(install.Refused, match="is not meshagent's link: move it away"):
        install.swap(tmp_path / "file", Path("/two"))


def test_the_release_before_is_kept_and_older_ones_are_not(bundle: Path) -> None:
    import os

    for age, name in enumerate(("now", "before", "old", "older")):
        made = bundle / "releases" / name
        made.mkdir(parents=True)
        os.utime(made, (1e9 - age, 1e9 - age))
    install.forget_old(bundle / "releases/now")
    assert sorted(path.name for path in (bundle / "releases").iterdir()) == ["before", "now"]
