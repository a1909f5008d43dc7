"""What would be run, read as values."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from meshagent.lab import commands
from meshagent.lab.layout import layout

TWO = layout("lab", IPv4Network("10.200.7.0/24"), 2)


def test_a_network_that_is_half_there_is_completed_not_made_again() -> None:
    whole = commands.network_up(TWO, (), ())
    assert ("ip", "link", "add", "mlab-lab", "type", "bridge") in whole
    assert ("ip", "netns", "add", "mlab-lab-h2") in whole
    rest = commands.network_up(TWO, {"mlab-lab", "lab-h1"}, {"mlab-lab-h1"})
    added = [command for command in rest if "add" in command]
    assert added == [
        ("ip", "netns", "add", "mlab-lab-h2"),
        ("ip", "link", "add", "lab-h2", "type", "veth", "peer", "name", "eth0", "netns", "mlab-lab-h2"),
    ]


def test_taking_down_touches_what_bears_the_labs_name_alone() -> None:
    links = {"eth0", "lab-h1", "lab-h7", "lab2-h1", "mlab-lab", "mlab-lab2"}
    namespaces = {"mlab-lab-h1", "mlab-lab2-h1", "lab-h1"}
    assert commands.network_down(TWO, links, namespaces) == [
        ("ip", "link", "delete", "lab-h1"),
        ("ip", "link", "delete", "lab-h7"),
        ("ip", "netns", "delete", "mlab-lab-h1"),
        ("ip", "link", "delete", "mlab-lab"),
    ]


def test_cuts_drop_both_ways_and_none_leaves_no_table() -> None:
    text = commands.firewall(TWO, {("h1", "h2")})
    assert 'iifname "lab-h1" oifname "lab-h2" drop' in text
    assert 'iifname "lab-h2" oifname "lab-h1" drop' in text
    assert commands.firewall(TWO, ()).splitlines() == ["table bridge mlab_lab", "delete table bridge mlab_lab"]


def test_a_command_in_a_host_sees_nothing_of_our_environment() -> None:
    words = commands.inside(7, ["true"])
    assert words[:4] == ("nsenter", "-t", "7", "-a")
    assert words[words.index("env") + 1] == "-i"
    assert words[-1] == "true"


def test_hosts_boot_in_their_own_namespace_and_are_registered_nowhere() -> None:
    words = commands.boot(TWO, "h2", Path("/labs/lab/hosts/h2"))
    assert "--network-namespace-path=/run/netns/mlab-lab-h2" in words
    assert "--register=no" in words
    assert "--directory=/labs/lab/hosts/h2/root" in words
    assert "--boot" in words


def test_a_host_of_cgroup_v1_has_the_same_init_behind_a_mount() -> None:
    now, legacy = (commands.boot(TWO, "h2", Path("/labs/lab/hosts/h2"), legacy=each) for each in (False, True))
    assert set(now) - set(legacy) == {"--boot"}
    assert legacy[-3:] == ("sh", "-c", commands.LEGACY_INIT)
    assert commands.environment(legacy=True)["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] == "0"
