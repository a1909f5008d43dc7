"""A whole lab: made, looked at, cut up, and taken away.

Everything is written down before it is made (record), found by its name afterwards, and removed by whoever comes next: a lab whose `up`
was killed is completed by the next `up` or removed by `down`, and one that belongs to a process goes when the next lab comes up and that
process has ended. Hosts run on their own: no process of ours stays behind to look after them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from meshagent.host.files import write_durably
from meshagent.lab import cgroups, commands, machine, record, rootfs
from meshagent.lab.hosts import BOOT_LIMIT, Host, Status, forget, make_key
from meshagent.lab.layout import (
    PREFIX,
    Cut,
    LabError,
    Layout,
    check_name,
    cuts_between,
    free_network,
    healed,
    layout,
    parse_network,
)
from meshagent.lab.record import Record

DEFAULT_NAME = "lab"
DEFAULT_HOSTS = 3
_DOWN_LIMIT = 60.0
_LOCK = ".lock"
_KEY = "id_ed25519"


@dataclass(frozen=True)
class Places:
    """Where labs are kept, where root file systems are kept for all of them, and where Debian comes from."""

    state: Path = Path("/var/lib/meshagent-lab")
    cache: Path = Path("/var/cache/meshagent-lab")
    mirror: str = ""  # the machine's own


# Numbers this process's labs.
_OF_PROCESS = itertools.count()


def _short(number: int) -> str:
    """In base 36: a process's number, of at most 22 bits, takes five letters of a name's eight."""
    rest, digit = divmod(number, 36)
    return (_short(rest) if rest else "") + "0123456789abcdefghijklmnopqrstuvwxyz"[digit]


def _silent(_: str) -> None:
    """Says nothing."""


class Lab:
    """A lab by its name, there or not. As a context manager it is up inside, belongs to this process, and is gone afterwards."""

    def __init__(self, name: str = DEFAULT_NAME, places: Places | None = None, say: machine.Say = _silent) -> None:
        self.name = check_name(name)
        self.places = places or Places()
        self._say = say
        self.directory = self.places.state / name
        self._wanted: tuple[int, str | None] = (DEFAULT_HOSTS, None)
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_process(
        cls, hosts: int = DEFAULT_HOSTS, places: Places | None = None, network: str | None = None, name: str = ""
    ) -> Lab:
        """A lab for `with`, by default under a name that no other has, of this process or another one."""
        lab = cls(name or f"p{_short(os.getpid())}n{_short(next(_OF_PROCESS))}", places)
        lab._wanted = (hosts, network)
        return lab

    def __enter__(self) -> Lab:
        from meshagent.lab import keeper

        machine.check()
        self._keeper = keeper.start(os.getpid(), self.places)
        try:
            self.up(*self._wanted, owned=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
            self._keeper = None

    def up(
        self,
        hosts: int | None = None,
        network: str | None = None,
        packages: Iterable[str] = (),
        limit: float = BOOT_LIMIT,
        owned: bool = False,
    ) -> None:
        """Returns when every host runs. There already: starts what is off, adds hosts if more are wanted, changes nothing else."""
        machine.check()
        machine.make_room()
        sweep(self.places, self._say)
        existing = record.read(self.directory)
        root = Path(existing.root) if existing else None
        if root is None or not root.is_dir():
            root = rootfs.ensure(self.places.cache, packages, self.places.mirror, self._say)
        with self._locked():
            self._plan(hosts, network, root, owned)
            self._make()
        self._await(limit)

    def down(self) -> list[str]:
        """Removes everything that is the lab's or bears its name, disks included. Says what there was."""
        machine.check()
        with self._locked():
            return self._take_away()

    @property
    def exists(self) -> bool:
        return record.read(self.directory) is not None

    @property
    def layout(self) -> Layout:
        return self._record().layout

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(self.host(name) for name in self.layout.hosts)

    def host(self, name: str) -> Host:
        return self._host(self.layout, name)

    @property
    def cuts(self) -> frozenset[Cut]:
        return self._record().cuts

    def status(self) -> list[Status]:
        cuts = self.cuts
        return [
            Status(
                host.name,
                str(host.address),
                host.state,
                host.pid,
                host.boot_id,
                tuple(sorted(a if b == host.name else b for a, b in cuts if host.name in (a, b))),
            )
            for host in self.hosts
        ]

    def partition(self, hosts: Iterable[str], others: Iterable[str] = ()) -> frozenset[Cut]:
        """Cuts each of `hosts` off from each of `others` (by default from all others), both ways, connections that are open included. The
        machine still reaches all of them. Returns all that is cut now."""
        with self._locked():
            known = self._record()
            return self._cut(known, known.cuts | cuts_between(known.layout, hosts, others))

    def heal(self, hosts: Iterable[str] = ()) -> frozenset[Cut]:
        """Undoes all cuts, or those of these hosts. Returns what is still cut."""
        with self._locked():
            known = self._record()
            return self._cut(known, healed(known.cuts, [known.layout.named(host) for host in hosts]))

    def ssh(self, host: str) -> list[str]:
        """The ssh command to a host; words after it run there."""
        return ["ssh", "-F", str(self.ssh_config), self.host(host).name]

    @property
    def ssh_config(self) -> Path:
        """For ssh, scp and deployment tools: every host by its name."""
        return self.directory / "ssh_config"

    def _record(self) -> Record:
        known = record.read(self.directory)
        if known is None:
            raise LabError(f"there is no lab {self.name}: meshagent lab up --name {self.name} makes one")
        return known

    def _host(self, plan: Layout, name: str) -> Host:
        return Host(plan, name, self.directory / "hosts" / name)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with machine.lock(self.places.state / _LOCK):
            yield

    def _plan(self, hosts: int | None, network: str | None, root: Path, owned: bool) -> None:
        """Writes down what will be made, before it is."""
        known = record.read(self.directory)
        if known is None:
            chosen = parse_network(network) if network else free_network(self._taken())
            plan = layout(self.name, chosen, hosts or DEFAULT_HOSTS)
        else:
            plan = known.layout
            if network and parse_network(network) != plan.network:
                raise LabError(f"lab {self.name} has the network {plan.network}: take it down to give it {network}")
            plan = layout(self.name, plan.network, max(plan.count, hosts or 0))
            root = Path(known.root) if Path(known.root).is_dir() else root
        owner = record.owner(os.getpid()) if owned else known.owner if known else None
        record.write(self.directory, Record(plan, str(root), known.cuts if known else frozenset(), owner))

    def _taken(self) -> list[IPv4Network]:
        others = [known.layout.network for _, known in record.all_in(self.places.state) if known]
        return machine.networks_in_use() + others

    def _make(self) -> None:
        known = self._record()
        plan = known.layout
        key = self.directory / _KEY
        if not key.with_name(f"{_KEY}.pub").exists():
            make_key(key, f"lab {self.name}")
        self._say(f"lab {self.name}: network {plan.network}, {plan.count} hosts")
        machine.run_all(commands.network_up(plan, machine.links(), machine.namespaces()))
        machine.run(("nft", "-f", "-"), text=commands.firewall(plan, known.cuts))
        authorized = key.with_name(f"{_KEY}.pub").read_text()
        for name in plan.hosts:
            host = self._host(plan, name)
            host.prepare_disk(Path(known.root), authorized)
            host.power_on()
        self._write_ssh_files(plan)

    def _write_ssh_files(self, plan: Layout) -> None:
        keys = {
            name: (self.directory / f"hosts/{name}/root/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
            for name in plan.hosts
        }
        known_hosts = self.directory / "known_hosts"
        write_durably(known_hosts, "".join(f"{plan.address(n)},{n} {' '.join(k)}\n" for n, k in keys.items()))
        common = (
            f"Host *\n  User root\n  IdentityFile {self.directory / _KEY}\n  IdentitiesOnly yes\n  UserKnownHostsFile {known_hosts}\n"
            "  StrictHostKeyChecking yes\n  ConnectTimeout 10\n  LogLevel ERROR\n"
        )
        names = "".join(f"Host {name}\n  HostName {plan.address(name)}\n" for name in plan.hosts)
        write_durably(self.ssh_config, names + common)

    def _await(self, limit: float) -> None:
        def boot(host: Host) -> None:
            state = host.wait(limit)
            units = f" ({', '.join(host.failed_units())} failed)" if state == "degraded" else ""
            self._say(f"{host.name}  {host.address}  {state}{units}")

        with ThreadPoolExecutor(max_workers=8) as pool:
            for booted in [pool.submit(boot, host) for host in self.hosts]:
                booted.result()

    def _cut(self, known: Record, cuts: frozenset[Cut]) -> frozenset[Cut]:
        record.write(self.directory, replace(known, cuts=cuts))
        machine.run(("nft", "-f", "-"), text=commands.firewall(known.layout, cuts))
        return cuts

    def _take_away(self) -> list[str]:
        """Everything by its name, so that a record that is lost or half true is no hindrance; the record itself goes last."""
        deadline = time.monotonic() + _DOWN_LIMIT
        plan = Layout(self.name, IPv4Network("10.0.0.0/24"), 0)  # only its names are asked for
        removed = [f"host {name}" for name in cgroups.hosts_left(self.name)]
        for name in cgroups.hosts_left(self.name):
            cgroups.HostGroup(self.name, name).end(deadline)
        machine.unmount_under(self.directory, deadline)
        for namespace in sorted(n for n in machine.namespaces() if n.startswith(f"{PREFIX}-{self.name}-")):
            forget(namespace, deadline)
        for command in commands.network_down(plan, machine.links(), machine.namespaces()):
            machine.run(command)
            removed.append(" ".join(command[1:2] + command[3:]))
        machine.run(("nft", "-f", "-"), text=commands.firewall(plan, ()))
        if self.directory.exists():
            shutil.rmtree(self.directory)
            removed.append(str(self.directory))
        return removed


def labs(places: Places | None = None) -> list[str]:
    return [name for name, _ in record.all_in((places or Places()).state)]


def sweep(places: Places, say: machine.Say = _silent) -> list[str]:
    """Takes away every lab that belonged to a process that has ended."""
    gone = [name for name, known in record.all_in(places.state) if known and known.abandoned]
    for name in gone:
        say(f"lab {name} belonged to a process that has ended: taking it down")
        Lab(name, places).down()
    return gone
