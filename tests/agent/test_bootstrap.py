"""The bootstrap is what a real Envoy accepts, of both versions that are pinned."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from meshagent.agent import bootstrap, launch
from meshagent.agent.launch import LaunchError, Program
from meshagent.envoy import names
from meshagent.host.supervisor import EnvoySpec, intent, write_state
from tests.conftest import ENVOYS

NODE = bootstrap.Node("0123456789ab", "mesh/shop/virtualNode/web")


@pytest.fixture
def spec(run_dir: Path, envoy_binary: Path) -> EnvoySpec:
    directory = run_dir / "proxies" / NODE.id
    directory.mkdir(parents=True)
    program = Program("1.40.0", envoy_binary.parent.parent, run_dir / "run", sds_socket=run_dir / "sds.sock")
    return launch.spec_for(program, NODE, directory, 1)


def test_it_names_the_node_its_sockets_and_nothing_that_needs_a_server(run_dir: Path) -> None:
    program = Program("1.40.0", run_dir, run_dir)
    spec = launch.spec_for(program, NODE, run_dir / "p", 1)
    document = bootstrap.document(NODE, spec, 20000)
    assert (document["node"]["id"], document["node"]["cluster"]) == (NODE.id, NODE.cluster)
    assert document["admin"]["address"]["pipe"]["path"] == f"{run_dir}/0123456789ab-1/admin.sock"
    assert [cluster["name"] for cluster in document["static_resources"]["clusters"]] == ["relay"]
    assert document["dynamic_resources"]["cds_config"]["initial_fetch_timeout"] == "0s"
    assert [listener["bind_to_port"] for listener in document["static_resources"]["listeners"]] == [False]
    assert "10000" in json.dumps(document["overload_manager"])


def test_a_provider_of_secrets_is_named_as_specs_name_it(spec: EnvoySpec) -> None:
    clusters = bootstrap.document(NODE, spec, 20000)["static_resources"]["clusters"]
    assert [cluster["name"] for cluster in clusters] == ["relay", names.SDS_CLUSTER]


@pytest.mark.envoy
@pytest.mark.parametrize("version", ["1.39.3", "1.40.0"])
def test_the_real_envoy_accepts_it(spec: EnvoySpec, version: str) -> None:
    binary = ENVOYS / version / "envoy"
    if not binary.exists():
        pytest.skip(f"needs Envoy {version} at {binary}: run `make setup`")
    spec.bootstrap.write_text(bootstrap.text(NODE, spec, 20000))
    launch.validate(binary, spec.bootstrap, spec.directory)


@pytest.mark.envoy
def test_one_that_envoy_does_not_accept_is_never_written(spec: EnvoySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "document", lambda *_: {"admin": {"no_such_field": 1}})
    with pytest.raises(LaunchError, match="no_such_field"):
        launch.prepare_bootstrap(spec, NODE, 20000)
    assert not spec.bootstrap.exists()


@pytest.mark.envoy
def test_one_that_was_accepted_is_not_asked_about_again(spec: EnvoySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.prepare_bootstrap(spec, NODE, 20000)
    write_state(spec.directory, intent(spec, "boot"))

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(launch, "validate", refuse)
    launch.prepare_bootstrap(spec, NODE, 20000)
    assert json.loads(spec.bootstrap.read_text())["node"]["id"] == NODE.id
    with pytest.raises(AssertionError, match="asked again"):
        launch.prepare_bootstrap(spec, NODE, 4000)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to other users")
def test_one_that_envoys_user_could_write_to_is_written_anew(spec: EnvoySpec) -> None:
    launch.prepare_bootstrap(spec, NODE, 20000, owner=54321, check=False)
    write_state(spec.directory, intent(spec, "boot"))
    os.chown(spec.bootstrap, 54321, -1)  # as releases before this one left it
    launch.prepare_bootstrap(spec, NODE, 20000, owner=54321, check=False)
    status = spec.bootstrap.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o644)
