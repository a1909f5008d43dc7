"""`meshctl validate`, and what all of meshctl's commands share: one line for what is refused, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshagent.cli.lazy import Target
from meshagent.cli.meshctl import COMMANDS, meshctl
from meshagent.errors import MeshagentError

GOOD = "kind: Mesh\nmeshName: m\n"
LONELY = (
    "kind: VirtualService\nmeshName: m\nvirtualServiceName: s\nspec: {provider: {virtualNode: {virtualNodeName: n}}}\n"
)
BAD = "kind: Mesh\nmeshName: m\nspec: {egressFilter: {type: SOME}}\n"
MISSING = 'mesh/m/virtualService/s: provider.virtualNode.virtualNodeName: the virtual node "n" is not defined'


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(meshctl, [str(argument) for argument in arguments], input=stdin)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_valid_documents(tmp_path: Path) -> None:
    result = run("validate", write(tmp_path / "m.yaml", GOOD))
    assert (result.exit_code, result.output) == (0, "1 resource valid, 0 errors, 0 problems\n")


def test_directories_are_read_down_to_the_bottom(tmp_path: Path) -> None:
    write(tmp_path / "b.yml", BAD)
    write(tmp_path / "a" / "deep" / "s.json", json.dumps({"meshName": "m", "virtualServiceName": "s", "spec": {}}))
    write(tmp_path / "README.md", "not a document")
    result = run("validate", tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f'{tmp_path}/b.yml:3: mesh/m: spec.egressFilter.type: must be one of ALLOW_ALL, DROP_ALL, found "SOME"',
        "warning: mesh/m: is not defined, but resources of it are",
        f"{tmp_path}/a/deep/s.json:1: warning: mesh/m/virtualService/s: provider: is not given: nothing serves this name",
        "1 resource valid, 1 error, 2 problems",
    ]


def test_problems_only_warn_unless_strict() -> None:
    text = f"{GOOD}---\n{LONELY}".encode()
    result = run("validate", "-", stdin=text)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, f"<stdin>:4: warning: {MISSING}")
    assert run("validate", "--strict", "-", stdin=text).exit_code == 1


def test_json_output() -> None:
    result = run("validate", "-o", "json", "-", stdin=f"{GOOD}---\n{LONELY}---\n{BAD}".encode())
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["valid"] == ["mesh/m", "mesh/m/virtualService/s"]
    assert [(error["file"], error["line"], error["path"]) for error in answer["errors"]] == [
        ("<stdin>", 11, "spec.egressFilter.type")
    ]
    assert [(problem["resource"], problem["source"]) for problem in answer["problems"]] == [
        ("mesh/m/virtualService/s", "<stdin>:4")
    ]


def test_a_resource_in_two_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.yaml", GOOD), write(tmp_path / "two.yaml", f"# again\n{GOOD}")
    result = run("validate", one, two)
    assert result.output.splitlines()[0] == f"{two}:2: mesh/m: is defined twice, the first time at {one}:1: keep one"


def test_binary_and_oversize_files(tmp_path: Path) -> None:
    binary = write(tmp_path / "b.yaml", b"meshName: m\n\xff\xfe\n")
    assert run("validate", binary).output.startswith(f"{binary}:2: must be UTF-8 text, found the byte 0xff\n")
    large = write(tmp_path / "l.yaml", b"#" * ((16 << 20) + 1))
    assert run("validate", large).output.startswith(f"{large}:1: a file must be at most 16777216 bytes")


@pytest.mark.parametrize("name", ["absent.yaml", "empty"])
def test_a_path_without_documents(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run("validate", tmp_path / name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"meshctl: {tmp_path / name}: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_command_line() -> None:
    assert run("validate").exit_code == 2
    assert run("invalidate", "x").exit_code == 2


def test_a_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: object) -> None:
        raise MeshagentError("mesh/m: no")

    monkeypatch.setattr("meshagent.cli.validate.load_paths", refuse)
    result = run("validate", "x")
    assert (result.exit_code, result.stderr) == (1, "meshctl: mesh/m: no\n")


def test_a_missing_library_is_named_when_its_command_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "apply", Target("absent_library:apply", "server"))
    assert "pip install 'meshagent[server]'" in run("--help").output
    result = run("apply", "x", "--flag")
    assert (result.exit_code, result.stderr) == (
        1,
        "meshctl: apply needs absent_library: pip install 'meshagent[server]'\n",
    )


def test_every_command_of_the_table_can_be_called() -> None:
    for name in COMMANDS:
        assert run(name, "--help").exit_code == 0, name


def test_only_the_command_that_is_called_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from meshagent.cli.meshctl import meshctl; meshctl(sys.argv[1:], standalone_mode=False);"
        "print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'starlette', 'cryptography', 'envoy', 'rich')])"
    )
    command = [sys.executable, "-c", program, "validate", str(write(tmp_path / "m.yaml", GOOD))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
