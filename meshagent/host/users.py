"""The users that the mesh's proxies run as: one for each slot, so that no proxy reads another one's keys or speaks on its listeners.

Made by systemd-sysusers, which takes the system's own locks on /etc/passwd and changes nothing that is there already. A user without a
shell, a home or a password; their group marks traffic as the mesh's own.
"""

from __future__ import annotations

import grp
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from meshagent.errors import MeshagentError

GROUP = "meshagent-proxy"
SLOTS = range(64)
_PREFIX = "meshagent-p"
_SECONDS = 30.0


class UserError(MeshagentError):
    """A proxy's user that cannot be made or removed."""


@dataclass(frozen=True)
class User:
    name: str
    uid: int
    gid: int


def name(slot: int) -> str:
    """Raises ValueError for what is no slot."""
    if slot not in SLOTS:
        raise ValueError(f"a slot is from 0 to {SLOTS.stop - 1}, not {slot}")
    return f"{_PREFIX}{slot}"


def find(slot: int) -> User | None:
    try:
        entry = pwd.getpwnam(name(slot))
    except KeyError:
        return None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def ensure(slot: int) -> User:
    """The slot's user, made if it is not there yet. Needs root then."""
    there = find(slot)
    if there is None:
        _run(["systemd-sysusers", "--inline", *lines(slot)], f"make the user {name(slot)}")
        there = find(slot)
    if there is None:
        raise UserError(f"systemd-sysusers made no user {name(slot)}: look at /etc/passwd and /etc/nsswitch.conf")
    return there


def lines(slot: int) -> list[str]:
    """As in sysusers.d(5)."""
    return [f"g {GROUP} -", f'u {name(slot)} -:{GROUP} "meshagent proxy in slot {slot}" / /usr/sbin/nologin']


def existing() -> Iterator[User]:
    return (user for user in map(find, SLOTS) if user is not None)


def remove_all() -> list[str]:
    """Removes every proxy's user and their group; returns their names. None of their processes may run any more."""
    removed = []
    for user in existing():
        _run(["userdel", user.name], f"remove the user {user.name}")
        removed.append(user.name)
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        return removed
    _run(["groupdel", GROUP], f"remove the group {GROUP}")
    return [*removed, GROUP]


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except OSError as error:
        raise UserError(f"cannot {what}: {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"cannot {what}: {command[0]} took more than {_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise UserError(f"cannot {what}: {done.stderr.strip() or f'{command[0]} ended with {done.returncode}'}")
