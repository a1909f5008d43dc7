"""The hosts of a lab: h4 is the server's, all others run the mesh. `meshagent lab up --hosts 4` makes them.

MESHAGENT_LAB names another lab than `lab`, MESHAGENT_LAB_DIRECTORY the place where labs are kept.
"""

import os
from pathlib import Path

from meshagent.lab import Lab, Places

_SERVER = "h4"
_NODES = {
    "h1": ["web"],
    "h2": ["catalog", "quotes", "ledger"],
    "h3": ["catalog", "quotes", "ledger"],
}
_lab = Lab(
    os.environ.get("MESHAGENT_LAB", "lab"),
    Places(Path(os.environ.get("MESHAGENT_LAB_DIRECTORY", Places.state))),
)


def _host(name, **data):
    ssh = {
        "ssh_hostname": str(_lab.host(name).address),
        "ssh_user": "root",
        "ssh_key": str(_lab.directory / "id_ed25519"),
        "ssh_known_hosts_file": str(_lab.directory / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    }
    return name, {**ssh, **data}


def _mesh_host(name):
    return _host(
        name,
        address=str(_lab.host(name).address),
        labels={"role": "callers" if name == "h1" else "services"},
        placements=[f"mesh/shop/virtualNode/{node}" for node in _NODES.get(name, [])],
    )


server = [_host(_SERVER, server_options=["--lease-seconds", "5"])]
agent = [_mesh_host(name) for name in _lab.layout.hosts if name != _SERVER]
