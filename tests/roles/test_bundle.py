"""What goes into a bundle, without building one (tests/hosts installs a real one)."""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from meshagent.host import envoys
from roles import bundle

ROOT = Path(__file__).parents[2]


def pinned(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.match(r"([a-z0-9-]+)==(\S+)", line)))


@pytest.mark.parametrize("role", bundle.ROLES)
def test_hosts_get_the_versions_that_were_tested(role: str) -> None:
    tested, shipped = pinned("requirements.lock"), pinned(f"requirements-{role}.lock")
    differing = {name: version for name, version in shipped.items() if tested.get(name, version) != version}
    assert not differing, "make lock"
    assert set(shipped) - set(tested) <= {"pip", "systemd-python"}


def test_hosts_with_an_agent_get_no_control_plane_and_none_gets_gevent() -> None:
    agent = pinned("requirements-agent.lock")
    assert not {"pydantic", "starlette", "uvicorn", "dnspython"} & set(agent)
    assert "gevent" not in agent | pinned("requirements-server.lock")


def test_a_requirement_is_pinned_by_the_very_file(tmp_path: Path) -> None:
    wheel = tmp_path / "systemd_python-235-cp311-cp311-linux_x86_64.whl"
    wheel.write_bytes(b"compiled here")
    digest = hashlib.sha256(b"compiled here").hexdigest()
    assert bundle.requirement(wheel) == f"systemd_python==235 --hash=sha256:{digest}\n"


def test_the_inputs_decide_whether_it_is_built_again() -> None:
    assert bundle.digest_of_inputs(["1.40.0"]) == bundle.digest_of_inputs(["1.40.0"])
    assert bundle.digest_of_inputs(["1.40.0"]) != bundle.digest_of_inputs([*envoys.WHEELS])


def test_half_a_bundle_is_none(tmp_path: Path) -> None:
    assert bundle.manifest_of(tmp_path) is None
    (tmp_path / "manifest.json").write_text("{}")
    assert bundle.manifest_of(tmp_path) is None


def test_it_says_nothing_of_who_made_it() -> None:
    info = bundle.anonymous(tarfile.TarInfo("x"))
    assert (info.uid, info.gid, info.mtime, info.uname) == (0, 0, 0, "root")
