"""Real systemd hosts for the tests of this room, made when the first of them asks for them and taken down after the last.

h1, h2 and h3 are hosts of the mesh; h4 is the server's. Most tests ask for `mesh`: the shop on these hosts, whole when the test begins,
whatever the one before did to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshagent.demo import hosts
from meshagent.demo.hosts import HostMesh
from meshagent.lab import Lab, machine

HOSTS = ("h1", "h2", "h3")
SERVER = hosts.SERVER
PROXIES = 7


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    """Four bare hosts, until `deployed` puts the mesh on them. A test that must have hosts without it makes a lab of its own."""
    reason = machine.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab.of_process(hosts=len(HOSTS) + 1) as lab:
        yield lab


@pytest.fixture(scope="package")
def deployed(lab: Lab) -> HostMesh:
    """The mesh, put on the hosts by the roles, over SSH. Once for all tests."""
    reason = hosts.why_not()
    if reason is not None:
        pytest.skip(reason)
    mesh = HostMesh(lab)
    mesh.deploy()
    mesh.in_sync(proxies=PROXIES)
    return mesh


@pytest.fixture
def mesh(deployed: HostMesh) -> HostMesh:
    """The mesh, whole: nothing is cut or stopped, and every proxy is live and in sync."""
    deployed.restore()
    return deployed
