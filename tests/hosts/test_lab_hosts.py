"""What every test of this room stands on: systemd runs, hosts reach each other, and the tools are there."""

from __future__ import annotations

import pytest

from meshagent.lab import Lab

pytestmark = pytest.mark.lab


def test_hosts_run_systemd_and_reach_each_other(lab: Lab) -> None:
    for host in lab.hosts:
        assert host.state == "running", host.failed_units()
    for name in ("h1", "h2", "h3"):
        assert lab.host("h4").run(["ping", "-c", "1", "-W", "2", name]).returncode == 0


def test_hosts_have_what_the_roles_count_on(lab: Lab) -> None:
    lab.host("h1").run(
        "python3 -c 'import sys; assert sys.version_info >= (3, 11)' && nft list ruleset && command -v systemd-sysusers",
        check=True,
    )


def test_the_units_of_a_host_may_have_rules_in_its_network(lab: Lab) -> None:
    lab.host("h1").run(
        "systemd-run --quiet --pipe --wait nft add table inet of_a_unit && nft delete table inet of_a_unit", check=True
    )
