"""The commands that make and unmake a lab's network, disks and hosts, as values: what is there already decides which are missing.

Pure. Nothing is run here; each command can be read in a test, and a list of them may be cut short anywhere by a kill: made again from
what is then there, it completes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from meshagent.lab.layout import Cut, Layout

Command = tuple[str, ...]

# systemd-nspawn with --keep-unit ends with this when its host asked for a reboot.
REBOOT_STATUS = 133

# Argument 1: the cgroup hierarchies' mount points; 2: the host's cgroup below each; 3: the command's words follow. A host that reboots is
# started again as a machine would be; one that is powered off ends the loop. The loop has a cgroup beside the host's, never above
# it: cgroup v2 wants processes in leaves only. `echo 0` moves the shell that writes it.
POWER_LOOP = f"""
hierarchies=$1 cgroup=$2; shift 2
join() {{ for at in $hierarchies; do echo 0 > "$at/$cgroup/$1/cgroup.procs" || exit 1; done; }}
join power
while :; do
  ( join machine; exec "$@" )
  [ $? = {REBOOT_STATUS} ] || exit
done
"""

LEGACY_INIT = "mount -o remount,rw,bind /sys/fs/cgroup/memory && exec /sbin/init"

# A host of its own needs nothing of ours.
_CLEAN_ENVIRONMENT = (
    "HOME=/root",
    "USER=root",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


def network_up(layout: Layout, links: Collection[str], namespaces: Collection[str]) -> list[Command]:
    """What is missing of the bridge, the namespaces and the cables. `replace` and `up` repair what a kill left half made."""
    bridge = layout.bridge
    wanted: list[Command] = []
    if bridge not in links:
        wanted.append(("ip", "link", "add", bridge, "type", "bridge"))
    wanted.append(
        ("ip", "address", "replace", f"{layout.machine_address}/{layout.network.prefixlen}", "dev", bridge),
    )
    wanted.append(("ip", "link", "set", bridge, "up"))
    for host in layout.hosts:
        inside, cable = layout.namespace(host), layout.veth(host)
        if inside not in namespaces:
            wanted.append(("ip", "netns", "add", inside))
        if cable not in links:
            wanted.append(("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside))
        address = f"{layout.address(host)}/{layout.network.prefixlen}"
        wanted += [
            ("ip", "link", "set", cable, "master", bridge, "up"),
            ("ip", "-n", inside, "address", "replace", address, "dev", "eth0"),
            ("ip", "-n", inside, "link", "set", "lo", "up"),
            ("ip", "-n", inside, "link", "set", "eth0", "up"),
        ]
    return wanted


def network_down(layout: Layout, links: Collection[str], namespaces: Collection[str]) -> list[Command]:
    """All that is there and bears the lab's names, of hosts that the record does not count, too."""
    cables = sorted(link for link in links if link.startswith(layout.veth("h")))
    inside = sorted(name for name in namespaces if name.startswith(layout.namespace("h")))
    return [
        *(("ip", "link", "delete", cable) for cable in cables),
        *(("ip", "netns", "delete", name) for name in inside),
        *([("ip", "link", "delete", layout.bridge)] if layout.bridge in links else []),
    ]


def mount_disk(root: Path, directory: Path) -> Command:
    """The host's own disk over the shared root file system."""
    layers = f"lowerdir={root},upperdir={directory}/upper,workdir={directory}/work"
    return ("mount", "-t", "overlay", "meshagent-lab", "-o", layers, f"{directory}/root")


def boot(layout: Layout, host: str, directory: Path, legacy: bool = False) -> Command:
    """`legacy`: the same init finds the memory controller of cgroup v1 writable, which systemd-nspawn mounts for reading alone."""
    return (
        "systemd-nspawn",
        "--quiet",
        *(() if legacy else ("--boot",)),
        f"--directory={directory}/root",
        f"--network-namespace-path=/run/netns/{layout.namespace(host)}",
        "--capability=CAP_NET_ADMIN",  # its network is its own: its units may have rules and addresses there
        "--system-call-filter=pidfd_getfd",  # which a machine has, and a container of nspawn's has not
        "--register=no",
        "--keep-unit",
        f"--machine={layout.machine(host)}",
        f"--hostname={host}",
        "--link-journal=no",
        "--console=read-only",
        "--resolv-conf=off",
        "--timezone=off",
        *(("sh", "-c", LEGACY_INIT) if legacy else ()),
    )


def environment(legacy: bool) -> dict[str, str]:
    """Of systemd-nspawn: which version of cgroups its host is given."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0" if legacy else "1"}


def power_on(hierarchies: Iterable[Path], cgroup: str, command: Command) -> Command:
    """Returns at once; what it started is nobody's child."""
    return (
        "setsid",
        "--fork",
        "sh",
        "-c",
        POWER_LOOP,
        "power",
        " ".join(str(at) for at in hierarchies),
        cgroup,
        *command,
    )


def inside(leader: int, command: Iterable[str]) -> Command:
    """A command in the host whose first process is `leader`, as root, in / and with a clean environment."""
    return ("nsenter", "-t", str(leader), "-a", "--", "env", "-i", "-C", "/", *_CLEAN_ENVIRONMENT, *command)


def firewall(layout: Layout, cuts: Iterable[Cut]) -> str:
    """One nft transaction that leaves exactly these cuts, on the bridge, where no host sees or flushes them.

    The machine's own words to hosts (ssh) are not forwarded and pass always."""
    drops = [
        f'    iifname "{layout.veth(one)}" oifname "{layout.veth(other)}" drop'
        for a, b in sorted(cuts)
        for one, other in ((a, b), (b, a))
    ]
    erase = f"table bridge {layout.table}\ndelete table bridge {layout.table}\n"
    if not drops:
        return erase
    opening = (
        f"table bridge {layout.table} {{\n  chain cuts {{\n    type filter hook forward priority 0; policy accept;"
    )
    return erase + "\n".join([opening, *drops, "  }", "}"]) + "\n"
