"""Takes meshagent off hosts, their proxies drained first: what is left is the host as it was. With `--data purge=yes`, identities, the
server's data and configuration go, too; without, what is installed again goes on where it was.

    pyinfra inventories/lab.py roles/uninstall.py --limit h1
"""

from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import server

_INSTALLED = "/opt/meshagent/venv/install.py"

if host.get_fact(File, path=_INSTALLED):
    purge = str(host.data.get("purge", "no")).lower() in ("yes", "true", "1")
    server.shell(
        name="Remove meshagent" + (", with all that it knows" if purge else ""),
        commands=[f"python3 {_INSTALLED} --remove{' --purge' if purge else ''}"],
    )
