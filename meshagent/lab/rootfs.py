"""The root file system that all hosts share: Debian, built once by debootstrap and kept in a cache.

A directory of the cache is complete or not there: it is built under another name and renamed. The build runs in a process and mount
namespace that ends with us, however we end, so that nothing goes on building or stays mounted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from meshagent.lab import machine
from meshagent.lab.layout import LabError

SUITE = "bookworm"
PYTHON = (3, 11)  # the suite's
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libsystemd0", "openssh-server", "sudo"),
    *("iproute2", "iputils-ping", "nftables", "procps", "ca-certificates", "curl"),
    "python3",
)
# What would start by itself and is of no use in a lab, or reaches for the internet.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "console-getty.service", "getty@tty1.service", "systemd-pstore.service"),
)
_FILES = {
    "etc/ssh/sshd_config.d/lab.conf": "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
    "etc/fstab": "",
}
_REMOVED = ("etc/hostname", "etc/ssh/ssh_host_*", "var/cache/apt/archives/*.deb", "var/lib/dbus/machine-id")
_BUILD_LIMIT = 900.0
_LAST_WORDS = 6  # lines of debootstrap's that an error repeats


def packages_of(extra: Iterable[str]) -> list[str]:
    return sorted({*PACKAGES, *extra})


def key(packages: Iterable[str]) -> str:
    """Another for every list of packages and every change of what is done to them."""
    recipe = repr((SUITE, sorted(packages), _MASKED, sorted(_FILES.items()), _REMOVED))
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def mirror_of(targets: str, suite: str = SUITE) -> str:
    """Where this machine's apt has the suite from, by lines of `URI RELEASE CREATOR`; empty when it has it from nowhere."""
    for line in sorted(targets.splitlines()):
        uri, _, rest = line.partition(" ")
        if rest == f"{suite} Packages":
            return uri.rstrip("/")
    return ""


def mirror_here() -> str:
    """The machine's own mirror of the suite; empty (debootstrap's default) on a machine that is no Debian of that suite."""
    try:
        return mirror_of(machine.run(("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(CREATED_BY)")))
    except LabError:
        return ""


def build_command(directory: Path, packages: Iterable[str], mirror: str) -> list[str]:
    """An empty mirror is debootstrap's own default."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--propagation", "private"),
        *("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(directory)),
        *([mirror] if mirror else []),
    ]


def ensure(cache: Path, extra: Iterable[str], mirror: str, say: machine.Say) -> Path:
    """The root file system with these packages beside the usual ones; built if it is not in the cache. One builder at a time."""
    packages = packages_of(extra)
    wanted = cache / f"root-{key(packages)}"
    if wanted.is_dir():
        return wanted
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    with machine.lock(cache / ".lock", limit=_BUILD_LIMIT):
        if wanted.is_dir():  # somebody else built it while we waited
            return wanted
        for unfinished in cache.glob("building-*"):
            shutil.rmtree(unfinished)
        say("building the hosts' root file system, once: about a minute")
        building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            _build(building, packages, mirror, cache / "debootstrap.log")
            building.chmod(0o755)
            os.sync()
            building.rename(wanted)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    return wanted


def _build(directory: Path, packages: Iterable[str], mirror: str, log: Path) -> None:
    mirror = mirror or mirror_here()
    command = build_command(directory, packages, mirror)
    whole = f"debootstrap of {SUITE}{f' from {mirror}' if mirror else ''}"
    try:
        with log.open("wb") as words:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, timeout=_BUILD_LIMIT, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{whole} took more than {_BUILD_LIMIT:.0f} s: see {log}") from error
    if done.returncode:
        last = " / ".join(log.read_text(errors="replace").splitlines()[-_LAST_WORDS:])
        raise LabError(f"{whole} failed ({last}): another mirror can be named with --mirror; all of it is in {log}")
    configure(directory)


def configure(root: Path) -> None:
    """What makes a Debian tree the disk of no host in particular: nothing of it may be shared that must differ."""
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
