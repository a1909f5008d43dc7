"""An inventory to begin your own with: copy it and put your hosts in. docs/install.md says what hosts need.

Hosts are named as the mesh shall name them; each (name, data) pair has what is its own, a group's data what its hosts share.
"""

_SSH = {"ssh_user": "admin", "_sudo": True}

# One host, with no proxies of its own here; a host may be in both groups.
server = (
    [
        (
            "control-1",
            {
                "ssh_hostname": "control-1.example.com",
                # By what the mesh's hosts reach it: every name that they may use, and the one that stays when the machine is replaced.
                "advertise": ["mesh.example.com", "10.0.0.10"],
                # "server_options": ["--certificate-life", "12h", "--trust-domain", "example.com"],
            },
        ),
    ],
    _SSH,
)

agent = (
    [
        (
            "web-1",
            {
                "ssh_hostname": "web-1.example.com",
                "address": "10.0.1.11",  # on which the other hosts' proxies reach it
                "labels": {"zone": "eu-west-1a", "role": "web"},
                "placements": ["mesh/shop/virtualNode/web"],
            },
        ),
        (
            "catalog-1",
            {
                "ssh_hostname": "catalog-1.example.com",
                "address": "10.0.1.21",
                "labels": {"zone": "eu-west-1b", "role": "catalog"},
                "placements": [
                    # As in agent.yaml, where more is to be said than the resource.
                    {"resource": "mesh/shop/virtualNode/catalog", "probe": {"protocol": "http", "path": "/ping"}},
                ],
                # Any other key of agent.yaml.
                "agent": {"envoy": {"concurrency": 2}},
            },
        ),
    ],
    _SSH,
)
