"""The judgement of regular expressions agrees with the RE2 inside Envoy: what is refused here, Envoy refuses too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from meshagent.specs.regexes import flaw_of

GOOD = [
    r"a+b*?c{2,3}", r"^/v\d+(/.*)?$", r"(?i)x|y", r"(?P<n>a)(?<m>b)", r"(?U)a+", r"(?-s:.)", r"\pN\p{Greek}\PL", r"a\z", r"\C",
    r"\Q(((\E", r"a\Q\E*", r"[[:alpha:]_]", r"[^]a]", r"[]a]", r"[a-]", r"\x41\x{e9}", r"\12", r"\0", r"{,2}", r"a{", r"^*",
    r"()", r"(|a)", r"a||b", r"\_\-\/", r"[\d\-\]]", r"[a\]-]", r"(?i)(?s)a", r"a(?i)*", r"é+", "a b", r"x{1000}", r"[[:word:]-z]",
]  # fmt: skip
BAD = [
    "(a", "a)", "[a", "[]", "*a", "a**", "a*+", "a|*", "(*a)", "(?:+)", "a{2}{3}", "a{3,2}", "a{1001}", "a{1,1001}", "[z-a]",
    "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", "(?>a)", "(?#a)", "(?P=n)", r"(a)\1", r"\8", r"\Z", r"\G", r"\h", r"\u0041", "a\\",
    "(?x)a", "(?P<n", "(?", r"[\y]", r"\é",
]  # fmt: skip


@pytest.mark.parametrize("pattern", GOOD)
def test_nothing_is_said_against_what_re2_takes(pattern: str) -> None:
    assert flaw_of(pattern) == ""


@pytest.mark.parametrize("pattern", BAD)
def test_what_re2_refuses_is_named(pattern: str) -> None:
    assert flaw_of(pattern)


def accepts(envoy: Path, directory: Path, patterns: list[str]) -> bool:
    routes = [
        {
            "match": {"prefix": "/", "headers": [{"name": "x", "string_match": {"safe_regex": {"regex": pattern}}}]},
            "direct_response": {"status": 200},
        }
        for pattern in patterns
    ]
    connections = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "x", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {"filters": [{"name": "http", "typed_config": connections}]}
    file = directory / "envoy.json"
    listener = {"name": "x", "address": address, "filter_chains": [chain]}
    # Envoy's own limit for the size of a compiled expression is another matter.
    layer = {"name": "x", "static_layer": {"re2.max_program_size.error_level": 100_000}}
    bootstrap = {"static_resources": {"listeners": [listener]}, "layered_runtime": {"layers": [layer]}}
    file.write_text(json.dumps(bootstrap))
    command = [str(envoy), "--mode", "validate", "-c", str(file), "--log-level", "off"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.envoy
def test_envoy_agrees(envoy_binary: Path, tmp_path: Path) -> None:
    assert accepts(envoy_binary, tmp_path, GOOD)
    assert [pattern for pattern in BAD if accepts(envoy_binary, tmp_path, [pattern])] == []
