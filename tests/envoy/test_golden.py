"""Each golden case compiles to what lies in golden/ (MESHAGENT_UPDATE_GOLDEN=1 writes it anew), is closed, and the real Envoy takes it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from meshagent.envoy.readable import readable_snapshot
from meshagent.envoy.static import static_bootstrap
from tests.envoy.certificates import write_certificates
from tests.envoy.closed import missing_names
from tests.envoy.golden_cases import Case, golden_cases

CASES = golden_cases()
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@by_name
def test_compiles_to_its_golden_file(case: Case) -> None:
    compiled = case.compile()
    form = {**readable_snapshot(compiled.snapshot), "notices": [str(each) for each in compiled.notices]}
    found = yaml.safe_dump(form, sort_keys=False, width=140)
    if os.environ.get("MESHAGENT_UPDATE_GOLDEN"):
        case.golden.write_text(found)
    assert found == case.golden.read_text()


@by_name
def test_is_closed(case: Case) -> None:
    assert missing_names(case.compile().snapshot) == set()


@by_name
def test_equal_meshes_give_equal_versions(case: Case) -> None:
    assert case.compile().snapshot == case.compile().snapshot


@pytest.mark.envoy
@by_name
def test_the_real_envoy_takes_its_static_form(case: Case, envoy_binary: Path, tmp_path: Path) -> None:
    write_certificates(tmp_path)
    config = tmp_path / "static.json"
    config.write_text(json.dumps(static_bootstrap(case.compile().snapshot)))
    done = subprocess.run(
        [envoy_binary, "--mode", "validate", "-c", config, "-l", "warning"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Words of Envoy about anything are a reason to look: deprecated fields, files that it can't read.
    assert done.stderr == ""


@pytest.mark.envoy
def test_the_real_envoy_refuses_a_missing_certificate_file(envoy_binary: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "tls_by_spec")
    write_certificates(tmp_path)
    (tmp_path / "certs" / "chain.pem").unlink()
    config = tmp_path / "static.json"
    config.write_text(json.dumps(static_bootstrap(case.compile().snapshot)))
    done = subprocess.run(
        [envoy_binary, "--mode", "validate", "-c", config],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "certs/chain.pem" in done.stderr
