"""The Vagrantfile's machines, reached as `vagrant ssh` reaches them: h4 is the server's, all others run the mesh."""

from pathlib import Path

_NETWORK = "192.168.56"
_NODES = {
    "h1": ["web"],
    "h2": ["catalog", "quotes", "ledger"],
    "h3": ["catalog", "quotes", "ledger"],
}


def _host(name, **data):
    address = f"{_NETWORK}.{10 + int(name[1:])}"
    key = next(
        Path(".vagrant/machines").glob(f"{name}/*/private_key"), Path("~/.vagrant.d/insecure_private_key").expanduser()
    )
    # The machines are new whenever they are made, and on this computer alone: their keys are not known, nor kept.
    ssh = {"ssh_hostname": address, "ssh_user": "vagrant", "ssh_key": str(key), "ssh_strict_host_key_checking": "off"}
    return name, {**ssh, "_sudo": True, "address": address, **data}


server = [_host("h4", advertise=[f"{_NETWORK}.14"])]
agent = [_host(name, placements=[f"mesh/shop/virtualNode/{node}" for node in nodes]) for name, nodes in _NODES.items()]
