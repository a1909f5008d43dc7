"""Envoy's version changes and changes back under thousands of requests a second, on real hosts. `make bench` prints the figures."""

from __future__ import annotations

import re

import pytest

from meshagent.demo import upgrade, wrk
from meshagent.demo.hosts import HostMesh

pytestmark = pytest.mark.lab


def test_h3_another_version_and_back_at_thousands_of_requests_a_second(mesh: HostMesh) -> None:
    """No request fails. A long gRPC stream and a held TCP connection live until a drain is over, and are counted."""
    reason = wrk.why_not()
    if reason is not None:
        pytest.skip(reason)
    outcome = upgrade.change_and_back(mesh, print)
    assert outcome.failed == 0, outcome.failures
    assert outcome.rate >= upgrade.RATE / 2
    for host, services in upgrade.SERVICES.items():
        journal = mesh.host(host).run(["journalctl", "-b", "-u", "meshagent-agent", "-o", "cat"], check=True).stdout
        steered = [int(count) for count in re.findall(r"gets all new connections \(listeners: (\d+)\)", journal)]
        assert len(steered) >= 2 * len(services) and all(steered)
    assert all(load.requests > 0 for load in outcome.loads)
    for load, handovers in outcome.long:
        lived, odd = upgrade.drained_for(load, handovers)
        assert odd == []
        assert len(lived) == 4  # at the end of each of two Envoys on the way, there and back
        assert min(lived) >= upgrade.DRAIN
        assert max(lived) <= upgrade.DRAIN + upgrade.END
        assert all(each.cut for each in handovers), handovers
    if outcome.rate < upgrade.RATE:
        # How many a second is the machine's part, once other work is on it; that none failed is not.
        pytest.skip(
            f"all held, but at {outcome.rate:.0f} requests a second: this machine is too busy for {upgrade.RATE:.0f}"
        )
