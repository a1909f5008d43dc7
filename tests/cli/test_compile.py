"""`meshctl compile`, by its command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from meshagent.cli.meshctl import meshctl

SHOP = """\
kind: Mesh
meshName: shop
---
kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: web.local}}
  backends: [{virtualService: {virtualServiceName: orders.local}}]
---
kind: VirtualNode
meshName: shop
virtualNodeName: orders
spec:
  listeners:
  - portMapping: {port: 9090, protocol: http}
    tls: {mode: STRICT, certificate: {sds: {secretName: orders}}}
  serviceDiscovery: {dns: {hostname: orders.local}}
---
kind: VirtualService
meshName: shop
virtualServiceName: orders.local
spec: {provider: {virtualRouter: {virtualRouterName: orders}}}
---
kind: VirtualRouter
meshName: shop
virtualRouterName: orders
spec: {listeners: [{portMapping: {port: 80, protocol: http}}]}
---
kind: Route
meshName: shop
virtualRouterName: orders
routeName: all
spec:
  httpRoute:
    match: {prefix: /}
    action: {weightedTargets: [{virtualNode: orders, weight: 9}, {virtualNode: gone, weight: 1}]}
---
kind: VirtualGateway
meshName: shop
virtualGatewayName: front
spec: {listeners: [{portMapping: {port: 80, protocol: http}}]}
---
kind: GatewayRoute
meshName: shop
virtualGatewayName: front
gatewayRouteName: all
spec:
  httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceName: orders.local}}}}
"""
WEB = "mesh/shop/virtualNode/web"


def run(*arguments: str, documents: str = SHOP) -> Result:
    return CliRunner().invoke(meshctl, ["compile", "-", *arguments], input=documents)


def form_of(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    form: dict[str, Any] = json.loads(result.stdout)
    return form


def names(form: dict[str, Any], section: str) -> list[str]:
    return [each["cluster_name" if section == "endpoints" else "name"] for each in form[section]]


def test_what_a_proxy_is_told() -> None:
    form = form_of("--proxy", WEB, "--address", "10.0.0.5")
    assert list(form) == ["listeners", "clusters", "routes", "endpoints"]
    assert names(form, "listeners") == ["lds_egress_127.64.0.1_80", "lds_ingress_10.0.0.5_8080"]
    assert names(form, "routes") == ["rds_egress_shop_orders.local_http_80", "rds_ingress_http_8080"]
    assert {"cds_egress_shop_orders_http_9090", "cds_ingress_shop_web_http_8080"} <= set(names(form, "clusters"))
    assert "cds_egress_shop_orders_http_9090" in names(form, "endpoints")
    manager = form["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["@type"].endswith("HttpConnectionManager")


def test_slot_mode_and_application() -> None:
    form = form_of("--proxy", WEB, "--slot", "3", "--application", "127.0.0.9")
    assert names(form, "listeners") == ["lds_egress_127.67.0.1_80", "lds_ingress_0.0.0.0_8080"]
    assert "127.0.0.9" in json.dumps(form["clusters"])
    form = form_of("--proxy", WEB, "--slot", "3", "--mode", "redirect")
    assert names(form, "listeners") == ["lds_egress_0.0.0.0_15001", "lds_ingress_0.0.0.0_15000"]
    assert "15007" in json.dumps(form["listeners"][0]["address"])


def test_yaml_says_the_same_as_json() -> None:
    assert yaml.safe_load(run("--proxy", WEB).stdout) == form_of("--proxy", WEB)
    assert run("--proxy", WEB).stdout == run("--proxy", WEB).stdout


def test_what_is_not_compiled_is_named_once_with_its_path() -> None:
    result = run("--proxy", WEB)
    lines = [line for line in result.stderr.splitlines() if "weightedTargets[1]" in line]
    assert len(lines) == 1
    assert "mesh/shop/virtualRouter/orders/route/all" in lines[0]
    assert "gone" in lines[0]
    assert "weightedTargets" not in result.stdout


@pytest.mark.parametrize("resource", [WEB, "mesh/shop/virtualNode/orders", "mesh/shop/virtualGateway/front"])
@pytest.mark.parametrize("mode", ["bind", "redirect"])
@pytest.mark.envoy
def test_envoy_accepts_the_static_form_as_it_is(resource: str, mode: str, envoy_binary: Path, tmp_path: Path) -> None:
    form = form_of("--proxy", resource, "--mode", mode, "--static", "--trust-domain", "shop.example")
    assert form["routes"] == form["endpoints"] == []
    extension = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    bootstrap = {
        "static_resources": {"listeners": form["listeners"], "clusters": form["clusters"]},
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": extension}}],
    }
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(bootstrap))
    command = [str(envoy_binary), "--mode", "validate", "-c", str(file), "-l", "error"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_trust_is_kept_in_the_static_form() -> None:
    form = json.dumps(form_of("--proxy", WEB, "--static", "--trust-domain", "shop.example"))
    assert "spiffe://shop.example/mesh/shop/" in form
    assert "sds" not in form


def test_the_only_proxy_needs_no_name() -> None:
    (node,) = [each for each in SHOP.split("---\n") if "virtualNodeName: web" in each]
    assert run(documents=node).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (
            (), 1,
            "meshctl: --proxy must name one virtual node or virtual gateway; there are: "
            "mesh/shop/virtualGateway/front, mesh/shop/virtualNode/orders, mesh/shop/virtualNode/web",
        ),
        (("--proxy", "mesh/shop/virtualNode/gone"), 1, "meshctl: there is no proxy mesh/shop/virtualNode/gone; there are: mesh/"),
        (("--proxy", "mesh/shop/virtualRouter/orders"), 1, "meshctl: there is no proxy mesh/shop/virtualRouter/orders; there are"),
        (("--proxy", "web"), 1, "meshctl: 'web' is not a resource path such as mesh/shop/virtualNode/web"),
        (("--proxy", WEB, "--slot", "64"), 2, "64 is not in the range"),
        (("--proxy", WEB, "--address", "web-1"), 2, "'web-1' is not an IP address such as 10.0.0.5"),
        (("--proxy", WEB, "--trust-domain", "No Domain"), 2, "trust domain 'No Domain': must be"),
    ],
)  # fmt: skip
def test_wrong_command_lines(arguments: tuple[str, ...], status: int, words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status
    assert words in result.stderr
    assert result.stdout == ""


def test_wrong_documents_are_named_with_file_line_and_path(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.replace("port: 8080", "port: 70000"))
    result = CliRunner().invoke(meshctl, ["compile", str(file), "--proxy", WEB])
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{file}:8: {WEB}: spec.listeners[0].portMapping.port: ")
