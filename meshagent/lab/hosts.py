"""One host of a lab: its disk, its power, and commands in it.

Its process 1 is found by its cgroup at every call: a host that rebooted in between is the same Host. Knows nothing of the other hosts but
their names and addresses.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path

from meshagent.lab import commands, machine
from meshagent.lab.cgroups import HostGroup
from meshagent.lab.layout import LabError, Layout

BOOT_LIMIT = 60.0
RUN_LIMIT = 60.0
_HALT_LIMIT = 45.0
_START_LIMIT = 10.0
_POLL = 0.1
_UP = ("running", "degraded")
_BOOT_ID = "proc/sys/kernel/random/boot_id"
_PROPAGATION = Path("/run/systemd/nspawn/propagate")


@dataclass(frozen=True)
class Status:
    """`state` is systemd's own word (running, degraded, starting, stopping, ...) or `off`."""

    name: str
    address: str
    state: str
    pid: int | None
    boot_id: str
    cut_off_from: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """For JSON and tables."""
        return {**asdict(self), "cut_off_from": list(self.cut_off_from)}


class Host:
    """`directory` holds the host's disk and the console of its last boot."""

    def __init__(self, layout: Layout, name: str, directory: Path) -> None:
        self.name = layout.named(name)
        self._layout = layout
        self._directory = directory
        self._group = HostGroup(layout.name, name)

    @property
    def address(self) -> IPv4Address:
        return self._layout.address(self.name)

    @property
    def pid(self) -> int | None:
        """The host's process 1, as this machine counts; None when the host is off."""
        return self._group.leader()

    @property
    def boot_id(self) -> str:
        """Empty when the host is off."""
        pid = self.pid
        try:
            return "" if pid is None else Path(f"/proc/{pid}/root/{_BOOT_ID}").read_text().strip()
        except OSError:
            return ""

    @property
    def state(self) -> str:
        if self.pid is None:
            return "starting" if self._group.is_powered() else "off"
        try:
            return self.run(["systemctl", "is-system-running"], limit=5.0).stdout.strip() or "starting"
        except LabError:
            return "starting"

    def run(
        self, command: str | Sequence[str], limit: float = RUN_LIMIT, text: str | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """A command as root in the host, without a network between; one string goes through a shell there. With `check`, another
        status than 0 is an error."""
        words = self.command(command)
        try:
            done = subprocess.run(
                words,
                input=text if text is not None else "",
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self}: {_said(command)}: no end within {limit:.0f} s") from error
        if check and done.returncode:
            raise LabError(
                f"{self}: {_said(command)}: status {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        return done

    def command(self, command: str | Sequence[str]) -> commands.Command:
        """What runs the command in the host, for whoever wants to start it otherwise than `run` does."""
        pid = self.pid
        if pid is None:
            raise LabError(f"{self} is off: meshagent lab up --name {self._layout.name} starts it")
        return commands.inside(pid, ("sh", "-c", command) if isinstance(command, str) else command)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file in the host, with the directories that it needs."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.run(["sh", "-c", script, "write", path, f"{mode:o}"], text=text, check=True)

    def read(self, path: str) -> str:
        return self.run(["cat", path], check=True).stdout

    def copy(self, source: Path, path: str, mode: int = 0o644) -> None:
        """Copies a file of this machine, of any size, into the host."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        with source.open("rb") as content:
            done = subprocess.run(
                self.command(["sh", "-c", script, "copy", path, f"{mode:o}"]),
                stdin=content,
                capture_output=True,
                timeout=RUN_LIMIT,
                check=False,
            )
        if done.returncode:
            raise LabError(f"{self}: cannot copy {source} to {path}: {done.stderr.decode(errors='replace').strip()}")

    def failed_units(self) -> list[str]:
        listed = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
        return [line.split()[0] for line in listed.splitlines() if line.strip()]

    def prepare_disk(self, root: Path, authorized_key: str) -> None:
        """Makes the disk if it is new, and mounts it."""
        disk = self._directory / "root"
        for part in ("upper", "work", "root"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        if not machine.mounts_under(disk):
            machine.run(commands.mount_disk(root, self._directory))
        ready = self._directory / "ready"
        if not ready.exists():
            self._make_ours(disk, authorized_key)
            ready.touch()
        self._name_neighbours(disk)

    def power_on(self, legacy: bool = False) -> None:
        """Starts the host, unless it runs; does not wait. It reboots by itself from then on, when it is told to inside.

        `legacy`: with cgroup v1, as older systems boot; the machine's memory controller, which must be version 1's, limits its units."""
        if self._group.is_powered():
            return
        self._check(legacy)
        self._group.make()
        start = commands.power_on(
            self._group.roots, self._group.path, commands.boot(self._layout, self.name, self._directory, legacy)
        )
        with (self._directory / "console.log").open("wb") as console:
            subprocess.run(
                start,
                env=commands.environment(legacy),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                check=False,
                timeout=_START_LIMIT,
            )
        deadline = time.monotonic() + _START_LIMIT
        while not self._group.is_powered():
            if time.monotonic() > deadline:
                raise LabError(f"{self} did not start: {self._console()}")
            time.sleep(0.01)

    def cut_power(self) -> None:
        """What pulling the plug does, but that what was written reaches the disk: the machine's kernel goes on. It stays off."""
        self._group.end(time.monotonic() + _HALT_LIMIT)

    def power_off(self, limit: float = _HALT_LIMIT) -> None:
        """An orderly shutdown; it stays off."""
        self.run(["systemctl", "poweroff"], check=True)
        deadline = time.monotonic() + limit
        while self._group.is_powered():
            if time.monotonic() > deadline:
                raise LabError(f"{self} did not shut down within {limit:.0f} s")
            time.sleep(_POLL)

    def reboot(self, limit: float = BOOT_LIMIT, hard: bool = False, legacy: bool = False) -> None:
        """Returns when the host runs again, on the same disk, under another boot id. `hard` cuts the power instead of shutting down; only
        then `legacy` counts, as for `power_on`."""
        before = self.boot_id
        if hard:
            self._check(legacy)
            self.cut_power()
            self.power_on(legacy)
        else:
            self.run(["systemctl", "reboot"], check=True)
        self.wait(limit, other_than=before)

    def wait(self, limit: float = BOOT_LIMIT, other_than: str = "") -> str:
        """Until systemd has started everything: `running`, or `degraded` where units failed. `other_than`: a boot that does not count."""
        deadline = time.monotonic() + limit
        while True:
            boot_id = self.boot_id
            state = self.state if boot_id and boot_id != other_than else "off"
            if state in _UP and self.boot_id == boot_id:
                return state
            now = time.monotonic()
            if now > deadline or not self._group.is_powered():
                reason = f"was not up within {limit:.0f} s" if now > deadline else "went off"
                raise LabError(f"{self} {reason} ({state}): {self._console()}")
            time.sleep(_POLL)

    def discard(self, deadline: float) -> None:
        """Ends the host and unmounts its disk; the disk itself is left."""
        self._group.end(deadline)
        machine.unmount_under(self._directory, deadline)
        forget(self._layout.machine(self.name), deadline)

    def __str__(self) -> str:
        return f"host {self.name} of lab {self._layout.name}"

    def _make_ours(self, disk: Path, authorized_key: str) -> None:
        """What no two hosts share: names, machine id, keys."""
        (disk / "etc/hostname").write_text(f"{self.name}\n")
        (disk / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
        (disk / "etc/hosts").write_text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        make_key(disk / "etc/ssh/ssh_host_ed25519_key", f"root@{self.name}")
        (disk / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        (disk / "root/.ssh/authorized_keys").write_text(authorized_key)
        (disk / "root/.ssh/authorized_keys").chmod(0o600)

    def _name_neighbours(self, disk: Path) -> None:
        """Every host of the lab by its name, in /etc/hosts; lines of others stay as they are."""
        path = disk / "etc/hosts"
        there = path.read_text()
        known = {tuple(line.split()) for line in there.splitlines()}
        wanted = [(str(self._layout.address(host)), host) for host in self._layout.hosts]
        missing = [f"{address}\t{host}\n" for address, host in wanted if (address, host) not in known]
        if missing:
            path.write_text(there + "".join(missing))

    def _check(self, legacy: bool) -> None:
        if legacy and not self._group.has_memory_controller:
            raise LabError(f"{self} cannot boot with cgroup v1: this machine's memory controller is not version 1's")

    def _console(self) -> str:
        try:
            lines = (self._directory / "console.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it has no console"
        last = [line for line in ("".join(c for c in line if c.isprintable()) for line in lines) if line.strip()]
        return f"its console ends with {last[-1] if last else 'nothing'!r}; all of it: {self._directory}/console.log"


def make_key(path: Path, comment: str) -> None:
    """An SSH key pair, anew."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    machine.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)))


def forget(machine_name: str, deadline: float) -> None:
    """What systemd-nspawn keeps of a machine under /run."""
    directory = _PROPAGATION / machine_name
    machine.unmount_under(directory, deadline)
    if directory.is_dir():
        directory.rmdir()


def _said(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else " ".join(command)
