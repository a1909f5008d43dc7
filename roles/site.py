"""A whole mesh: the control plane on the inventory's group `server`, an agent on each host of its group `agent`.

pyinfra inventories/lab.py roles/site.py
"""

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import operation

from roles.agent import mesh_host
from roles.server import control_plane


@operation()
def together() -> Iterator[str]:
    """Changes nothing. pyinfra lets a host run ahead of others until an operation that they have in common: this one."""
    host.noop("waited for the others")
    yield from ()


if "server" in host.groups:
    control_plane()

together(name="Wait until the control plane stands")

if "agent" in host.groups:
    mesh_host()
