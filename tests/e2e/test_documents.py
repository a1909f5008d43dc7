"""The README's tour, and the commands of docs/meshctl.md that need no systemd, run as they stand there: one bash, real Envoys, a network
and processes of their own, so that the ports are free and nothing is left. In their place: the directory, and names that the guide made up.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, run_by
from tests.e2e.test_drains import ALL_TO_V1

pytestmark = [pytest.mark.envoy, pytest.mark.e2e]

LIMIT = 300.0
DOCUMENTS = ROOT / "meshagent/demo/documents"
ALONE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *([] if os.geteuid() == 0 else ["-r"])]
ACTIVATE = "make setup && . .venv/bin/activate && "
BEGIN = """
set -e
ip link set lo up
await() { for i in $(seq 600); do if eval "$1" > /dev/null 2>&1; then return 0; fi; sleep 0.1; done; echo "in vain: $1"; exit 1; }
"""
SERVES = "await 'curl -sfk https://127.0.0.1:8443/v1/bundle'"
HEALTHY = """await '[ $(meshctl status -o json | grep -c "\\"health\\": \\"healthy\\"") = 3 ]'"""
ANSWERS = "await 'curl -sf http://$(awk \"/catalog/ {print \\$1}\" DIRECTORY/host-a/state/proxies/*/hosts):8080/'"


def script(blocks: list[Block], replaced: dict[str, str]) -> str:
    text = "\n".join(f"echo '== {block}'\n{block.text}" for block in blocks)
    for written, here in replaced.items():
        text = text.replace(written, here)
    return text


def made_up(directory: Path) -> None:
    """What the guide takes to be there: the operator's files, and documents in shop/."""
    admin = directory / "server/admin"
    (directory / "lab").mkdir()
    for name in ("ca.pem", "access-key.json"):
        for place in (directory, directory / "lab"):
            (place / name).symlink_to(admin / name)
    (directory / "shop").mkdir()
    documents = (DOCUMENTS / "shop.yaml").read_text().split("\n---\n")
    routes = [one for one in documents if "routeName: split" in one]
    (directory / "shop/web.yaml").write_text("\n---\n".join(one for one in documents if one not in routes))
    (directory / "shop/split.yaml").write_text("\n---\n".join(routes))
    (directory / "all-to-v1.yaml").write_text(ALL_TO_V1)


def sections(output: str) -> dict[str, str]:
    """What each block printed."""
    found = re.split(r"^== (\S+)\n", output, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_the_tour_and_the_guide_do_what_they_say(run_dir: Path, envoy_binary: Path) -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("needs a network namespace: root, or user namespaces")
    tour = run_by(__file__, "README.md")
    guide = run_by(__file__, "docs/meshctl.md")
    assert len(tour) == 7 and len(guide) >= 8
    if not shutil.which("jq"):
        guide = [block for block in guide if "jq" not in block.text]
    there = {
        ACTIVATE: "",
        "/tmp/mesh": str(run_dir),
        "$PWD/.cache/envoys": str(envoy_binary.parent.parent),
    }
    start, context, definition, hosts, status, calls, end = ([block] for block in tour)
    made_up(run_dir)
    steps = [
        BEGIN,
        script([*start], there),
        SERVES,
        script([*context, *definition, *hosts], there),
        HEALTHY,
        ANSWERS.replace("DIRECTORY", str(run_dir)),
        script([*status, *calls], there),
        f"cd {run_dir}",
        script(guide, {"web-7": "host-c"}),
        # The guide has deleted the route, and host-c.
        "meshctl apply all-to-v1.yaml > applied",
        """await 'curl -s http://$catalog/ | grep host-b'""",
        f"cd {ROOT}",
        "kill %1; wait %1 || true",
        script(end, there),
    ]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(run_dir),
        "MESHCTL_CONTEXT_FILE": str(run_dir / "context.yaml"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*ALONE, "bash", "-c", "\n".join(steps)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    said = sections(done.stdout)
    assert "3 proxies, 3 connected, 3 in sync" in said[str(status[0])]
    assert "spiffe://mesh.local/mesh/shop/virtualNode/web" in said[str(calls[0])]
    assert said[str(calls[0])].count("host-b") >= 2 and said[str(calls[0])].count("host-c") >= 1
    assert "host-b" in said[str(end[0])] and "1 proxy stopped" in said[str(end[0])]
    assert all(said[str(block)].strip() for block in guide), "each says something"
