"""The agent's configuration: what is wrong is said all at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshagent.agent.configuration import parse
from meshagent.agent.settings import PlacementSettings, ProbeSettings, SettingsError

WHOLE = """
state_directory: /var/lib/m
runtime_directory: /run/m
join_token_file: /etc/m/token
host: {name: web-1, address: 10.0.0.5, first_slot: 8, labels: {zone: eu-west-1a, rack: 7}}
placements:
- resource: mesh/shop/virtualNode/web
  mode: redirect
  application: 127.0.0.2
  probe: {protocol: http, path: /ping, interval: 500ms, timeout: 2s, healthy: 1, unhealthy: 3}
- resource: mesh/shop/virtualGateway/edge
envoy: {version: 1.39.3, directory: /opt/envoys, concurrency: 2, log_level: warning, drain: 2s}
log_level: debug
"""


def test_everything_that_can_be_said_is_read() -> None:
    settings = parse(WHOLE, "agent.yaml")
    assert settings.placements == (
        PlacementSettings(
            "mesh/shop/virtualNode/web", "redirect", "127.0.0.2", ProbeSettings("http", "/ping", 0.5, 2.0, 1, 3)
        ),
        PlacementSettings("mesh/shop/virtualGateway/edge"),
    )
    assert (settings.host.name, settings.host.address, settings.host.first_slot) == ("web-1", "10.0.0.5", 8)
    assert settings.host.labels == {"zone": "eu-west-1a", "rack": "7"}
    assert (settings.envoys, settings.envoy.drain, settings.envoy.version) == (Path("/opt/envoys"), 2.0, "1.39.3")
    assert settings.join_token_file == Path("/etc/m/token")


def test_what_is_not_said_has_its_default() -> None:
    settings = parse("placements: []", "agent.yaml")
    assert settings.state_directory == Path("/var/lib/meshagent")
    assert settings.envoys == Path("/var/lib/meshagent/envoys")
    assert settings.host.name is None
    assert settings.join_token is None


def test_all_faults_are_told_at_once_with_line_and_path() -> None:
    text = """
state_directory: var/lib
placments: []
placements:
- resource: shop/web
  probe:
    interval: 5
    healthy: 0
- mode: sideways
host:
  address: 0.0.0.0
  first_slot: 64
envoy: [1.40.0]
log_level: info
log_level: debug
"""
    with pytest.raises(SettingsError) as caught:
        parse(text, "a.yaml")
    assert str(caught.value).splitlines() == [
        "a.yaml:2: state_directory: must be an absolute path, found var/lib",
        "a.yaml:3: placments: unknown key; did you mean placements?",
        "a.yaml:5: placements[0].resource: must be mesh/MESH/virtualNode/NAME or mesh/MESH/virtualGateway/NAME, found 'shop/web'",
        "a.yaml:7: placements[0].probe.interval: must be a duration such as 1s or 500ms, from 10ms to 1h, found '5'",
        "a.yaml:8: placements[0].probe.healthy: must be a number from 1 to 100, found '0'",
        "a.yaml:9: placements[1].mode: must be one of bind, redirect, intercept, found 'sideways'",
        "a.yaml:9: placements[1]: resource is missing",
        "a.yaml:11: host.address: must be one host's address, found 0.0.0.0",
        "a.yaml:12: host.first_slot: must be a number from 0 to 63, found '64'",
        "a.yaml:13: envoy: must be a mapping with version, url, sha256, directory, concurrency, log_level, drain, sds_socket",
        "a.yaml:15: log_level: given twice",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.yaml: empty"),
        ("a: [", "a.yaml:1: not YAML"),
        ("- 1", "a.yaml:1: the document: must be a mapping"),
        ("host: {name: web-1}", "placements is missing"),
        ("placements: []\njoin_token: mj1.x\njoin_token_file: /t", "not both"),
        ("placements: []\nlog_level:", "a.yaml:2: log_level: must be text"),
        ("placements: []\nenvoy: {version: 1.41.0, url: 'https://x/e'}", "url and sha256 belong together"),
        ("placements: []\nenvoy: {sha256: abc}", "must be 64 hexadecimal digits"),
        ("placements: []\nsupervisor: runit", "must be one of systemd, process"),
        ("placements: []\nenvoy: {version: 9.9}", "must be a version of Envoy such as"),
        (f"placements: []\nruntime_directory: /{'r' * 80}", "at most 75 bytes"),
        ("placements: []\nhost: {name: 'a b'}", "must be letters"),
        ("placements: []\nhost: {labels: [a]}", "must be a mapping such as {zone: eu-west-1a"),
        ("placements: []\nhost: {labels: {zone: 'a,b'}}", "host.labels.zone: label zone: 'a,b' must be 1 to 63"),
        ("placements: web", "must be a list"),
        ("\0", "not YAML"),
        ("? {a: b}\n: c", "unknown key"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=r"a\.yaml") as caught:
        parse(text, "a.yaml")
    assert words in str(caught.value)


def test_the_documented_example_is_accepted() -> None:
    text = (Path(__file__).parents[2] / "docs" / "agent-configuration.md").read_text()
    example = "\n".join(
        line[4:] for line in text.split("What lies")[0].splitlines() if line.startswith("    ") or not line
    )
    assert parse(example, "docs").placements[0].probe.path == "/ping"


@pytest.mark.parametrize(("text", "value"), [("127.0.0.1:9903", ("127.0.0.1", 9903)), ("'[::1]:9903'", ("::1", 9903))])
def test_the_status_address_is_on_loopback(text: str, value: tuple[str, int]) -> None:
    assert parse(f"placements: []\nstatus_address: {text}\n", "f").status_address == value


@pytest.mark.parametrize("text", ["0.0.0.0:9903", "127.0.0.1", "10.0.0.5:9903", "127.0.0.1:0", "127.0.0.1:70000"])
def test_a_status_address_for_others_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="must be a loopback address and a port"):
        parse(f"placements: []\nstatus_address: {text}\n", "f")


def test_a_unit_and_a_command_are_probed_by_this_configuration_alone() -> None:
    text = "placements:\n- resource: mesh/shop/virtualNode/web\n  probe: {unit: web@1.service, command: [/bin/check, -q]}\n"
    probe = parse(text, "f").placements[0].probe
    assert (probe.unit, probe.command) == ("web@1.service", ("/bin/check", "-q"))
    assert (probe.interval, probe.timeout) == (10.0, 5.0), "a process each time: seldom"


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("{unit: web}", "must be a service of systemd such as web.service"),
        ("{unit: 'a b.service'}", "must be a service of systemd"),
        ("{command: /bin/check}", "must be a list of a program and its arguments"),
        ("{command: []}", "must be a list"),
        ("{command: [check]}", "must begin with the absolute path of a program, found 'check'; no shell reads it"),
        ("{command: [[a]]}", "must be a list"),
    ],
)
def test_what_is_no_unit_and_no_command(probe: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse(f"placements:\n- resource: mesh/shop/virtualNode/web\n  probe: {probe}\n", "f")
