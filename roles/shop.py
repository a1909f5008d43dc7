"""Something to see, on hosts that roles/site.py has made a mesh: a small shop's documents, and its applications as systemd units.

    pyinfra inventories/lab.py roles/site.py roles/shop.py

Runs on each host the applications of the mesh `shop` that the inventory places there: web and catalog (http), quotes (grpc), ledger (tcp).
"""

import hashlib
import io
from pathlib import Path

from pyinfra import host
from pyinfra.facts.files import Sha256File
from pyinfra.operations import files, server, systemd

from roles import software
from roles.agent import resources
from roles.server import MESHCTL

_DOCUMENTS = "roles/files/shop.yaml"
_PLACE = "/opt/shop"
_PROGRAM = f"{_PLACE}/app.py"
_APP = f"/usr/bin/python3 {_PROGRAM}"
_GRPC = "/opt/meshagent/venv/bin/python -P -m meshagent.demo.services grpc"
_APPLICATIONS = {
    "web": f"{_APP} http 127.0.0.1 8080",
    "catalog": f"{_APP} http 127.0.0.1 8080",
    "quotes": f"{_GRPC} 127.0.0.1 9090",
    "ledger": f"{_APP} tcp 127.0.0.1 9000",
}
_UNIT = """[Unit]
Description=The shop's {name}
# Stopped after the agent, and so after the proxies have drained, when the host goes down.
Before=meshagent-agent.service

[Service]
ExecStart={command} {name}-{host}
Restart=always
RestartSec=200ms
DynamicUser=yes
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""

if "server" in host.groups:
    wanted = hashlib.sha256(Path(_DOCUMENTS).read_bytes()).hexdigest()
    if host.get_fact(Sha256File, path=f"{_PLACE}/applied.yaml") != wanted:
        files.put(name="Send the shop's documents", src=_DOCUMENTS, dest=f"{_PLACE}/shop.yaml", create_remote_dir=True)
        server.shell(
            name="Apply the shop's documents",
            commands=[f"cd {_PLACE} && {MESHCTL} apply shop.yaml && mv shop.yaml applied.yaml"],
        )

here = [resource.removeprefix("mesh/shop/virtualNode/") for resource in resources()] if "agent" in host.groups else []
if here:
    program = files.put(name="Send the applications", src="roles/files/app.py", dest=_PROGRAM, create_remote_dir=True)
for name in host.loop(here):
    service = f"shop-{name}.service"
    unit = files.put(
        name="Write the unit of an application",
        src=io.StringIO(_UNIT.format(name=name, command=_APPLICATIONS[name], host=host.name)),
        dest=f"/etc/systemd/system/{service}",
    )
    systemd.service(
        name="Run an application",
        service=service,
        running=True,
        enabled=True,
        restarted=unit.will_change or program.will_change or software.outdated(service, _PROGRAM),
        daemon_reload=unit.will_change,
    )
