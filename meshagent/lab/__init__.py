"""The lab: real systemd hosts on this machine, for tests, roles and people.

Each host is a systemd of its own in a network namespace on a bridge, with a disk that outlives its reboots, sshd and a journal. The one
class to know is Lab; docs/lab.md says how it is used. Knows nothing of meshes.
"""

from meshagent.lab.hosts import Host
from meshagent.lab.lab import Lab, Places, labs, sweep
from meshagent.lab.layout import LabError

__all__ = ["Host", "Lab", "LabError", "Places", "labs", "sweep"]
