"""The control plane on a host of the inventory's group `server`.

Host data: `advertise`, the names or addresses by which the mesh's hosts reach it (default: where SSH reaches it); `server_options`, more
options of `meshagent server`; `api_port` and `xds_port`.
"""

from __future__ import annotations

import io

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.facts.files import File
from pyinfra.operations import files, server, systemd

from roles import software

DATA = "/var/lib/meshagent-server"
MESHCTL = "HOME=/root /usr/local/bin/meshctl"
_OPTIONS = "/etc/meshagent/server.env"
_CONTEXT = "/root/.config/meshctl/context.yaml"


@deploy("Control plane")
def control_plane() -> None:
    changed = software.installed("server")
    environment = files.put(
        name="Write the server's options",
        src=io.StringIO(f'MESHAGENT_SERVER_OPTIONS="{options()}"\n'),
        dest=_OPTIONS,
        mode="644",
        create_remote_dir=True,
    )
    systemd.service(
        name="Run the server, at every boot",
        service="meshagent-server.service",
        running=True,
        enabled=True,
        restarted=changed or environment.will_change or software.daemon_outdated("server", _OPTIONS),
    )
    if host.get_fact(File, path=_CONTEXT) is None:
        server.shell(
            name="Tell root's meshctl of the server",
            commands=[
                f"{MESHCTL} context set --server https://127.0.0.1:{api_port()} "
                f"--ca {DATA}/admin/ca.pem --access-key {DATA}/admin/access-key.json"
            ],
        )


def options() -> str:
    reached = host.data.get("advertise") or [host.data.get("ssh_hostname") or host.name]
    words = ["--api-address", f"0.0.0.0:{api_port()}", "--xds-address", f"0.0.0.0:{host.data.get('xds_port', 8444)}"]
    words += [word for name in reached for word in ("--advertise", name)]
    return " ".join([*words, *host.data.get("server_options", [])])


def api_port() -> int:
    return int(host.data.get("api_port", 8443))
