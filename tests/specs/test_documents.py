"""Both forms of documents, and for everything that is wrong: the file, the line, the path, and what would be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.specs.documents import (
    SpecErrors,
    document,
    merge,
    parse_document,
    parse_spec,
    parse_text,
)
from meshagent.specs.keys import Key, Kind, mesh_key, node_key, route_key, service_key
from meshagent.specs.spec import Source
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases"

NODE = """\
kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
  serviceDiscovery:
    dns: {hostname: web.local}
"""


def errors(text: str, filename: str = "f.yaml") -> list[str]:
    return [str(error) for error in parse_text(text, filename).errors]


def test_several_documents_of_one_file() -> None:
    loaded = parse_text(f"# the shop\nkind: Mesh\nmeshName: shop\n---\n{NODE}---\n---\nmeshName: other\n", "f.yaml")
    assert loaded.errors == ()
    assert [spec.key for spec in loaded.specs] == [mesh_key("shop"), node_key("shop", "web"), mesh_key("other")]
    assert [str(spec.source) for spec in loaded.specs] == ["f.yaml:2", "f.yaml:5", "f.yaml:15"]
    assert loaded.specs[1].body.listeners[0].port_mapping.port == 8080


@pytest.mark.parametrize(
    ("names", "spec", "path"),
    [
        ({"meshName": "m"}, None, "mesh/m"),
        ({"meshName": "m"}, {"egressFilter": {"type": "ALLOW_ALL"}}, "mesh/m"),
        ({"meshName": "m", "virtualNodeName": "n"}, {}, "mesh/m/virtualNode/n"),
        ({"meshName": "m", "virtualServiceName": "s.local"}, {}, "mesh/m/virtualService/s.local"),
        ({"meshName": "m", "virtualRouterName": "r"}, {}, "mesh/m/virtualRouter/r"),
        (
            {"meshName": "m", "virtualRouterName": "r", "routeName": "x"},
            {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}}},
            "mesh/m/virtualRouter/r/route/x",
        ),
        ({"meshName": "m", "virtualGatewayName": "g"}, {"listeners": []}, "mesh/m/virtualGateway/g"),
        (
            {"meshName": "m", "virtualGatewayName": "g", "gatewayRouteName": "x"},
            {"grpcRoute": {"match": {}, "action": {"target": {"virtualService": {"virtualServiceName": "s"}}}}},
            "mesh/m/virtualGateway/g/gatewayRoute/x",
        ),
    ],
)
def test_the_bare_form_tells_its_kind_by_its_names(names: dict[str, str], spec: Any, path: str) -> None:
    bare: dict[str, Any] = {
        **names,
        "clientToken": "t",
        "meshOwner": "123456789012",
        "tags": [{"key": "a", "value": "b"}],
    }
    if spec is not None:
        bare["spec"] = spec
    loaded = parse_text(json.dumps(bare, indent=2), "in.json")
    assert loaded.errors == ()
    assert [spec.key.path for spec in loaded.specs] == [path]
    assert parse_document(bare, Source()).specs == loaded.specs
    again = document(loaded.specs[0])
    assert again["kind"] == loaded.specs[0].key.kind
    assert parse_document(again, Source()).specs == loaded.specs


def test_policies_have_the_names_of_what_they_govern() -> None:
    text = (
        "kind: MeshPolicy\nmeshName: m\nspec: {mutualTls: STRICT}\n---\n"
        "kind: VirtualNodePolicy\nmeshName: m\nvirtualNodeName: n\nspec: {endpoints: leases}\n"
    )
    loaded = parse_text(text, "p.yaml")
    assert [spec.key for spec in loaded.specs] == [
        Key("m", Kind.MESH_POLICY, "m"),
        Key("m", Kind.VIRTUAL_NODE_POLICY, "n"),
    ]
    assert [document(spec)["spec"] for spec in loaded.specs] == [{"mutualTls": "STRICT"}, {"endpoints": "leases"}]


def test_a_json_array_is_as_many_documents_and_so_is_one_after_the_other() -> None:
    array = parse_text('[{"meshName": "a"},\n {"meshName": "b"}]', "f.json")
    stream = parse_text('{"meshName": "a"}\n{"meshName": "b"}', "f.json")
    assert [(spec.key.mesh, spec.source.line) for spec in array.specs] == [("a", 1), ("b", 2)]
    assert array.specs == stream.specs


def test_all_errors_of_all_documents_at_once() -> None:
    text = """\
kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners:
  - portMapping: {port: 70000, protocol: https}
    timout: {}
  - portMapping:
      port: "80"
      protocol: http
  backends:
  - virtualService: {virtualServiceName: 5}
  - {}
---
kind: VirtualNodes
---
kind: Route
meshName: shop
routeName: x
spec:
  httpRoute:
    match:
      prefix: /
      headers:
      - name: a
        match: {regex: "(a"}
    action: {weightedTargets: []}
---
meshName: m
virtualNodeName: a
virtualServiceName: b
spec: {}
---
kind: VirtualService
meshName: m
virtualServiceName: b
spec:
tags: [{kay: 1}]
port: 9
"""
    node = "f.yaml:{}: mesh/shop/virtualNode/web: spec."
    assert errors(text) == [
        node.format(6) + "listeners[0].portMapping.port: must be between 1 and 65535, found 70000",
        node.format(6) + 'listeners[0].portMapping.protocol: must be one of http, tcp, http2, grpc, found "https"',
        node.format(7) + 'listeners[0].timout: unknown field; did you mean "timeout"?',
        node.format(9) + 'listeners[1].portMapping.port: must be a whole number between 1 and 65535, found "80"',
        node.format(12) + "backends[0].virtualService.virtualServiceName: must be a string, found 5: put it in quotes",
        node.format(13) + "backends[1]: exactly one of virtualService must be set, found none",
        'f.yaml:15: VirtualNodes: kind: unknown kind "VirtualNodes"; did you mean "VirtualNode"?',
        "f.yaml:17: Route shop x: virtualRouterName: is required: a Route has meshName and virtualRouterName and routeName",
        "f.yaml:26: Route shop x: spec.httpRoute.match.headers[0].match.regex: "
        "is not a regular expression of RE2: the ( at 0 has no )",
        "f.yaml:27: Route shop x: spec.httpRoute.action.weightedTargets: must have at least 1 item, found 0",
        "f.yaml:31: m a b: virtualServiceName: ambiguous: virtualNodeName and virtualServiceName name two resources; give kind",
        "f.yaml:37: mesh/m/virtualService/b: spec: is required; {} where there is nothing to say",
        "f.yaml:38: mesh/m/virtualService/b: tags[0].key: is required",
        'f.yaml:38: mesh/m/virtualService/b: tags[0].kay: unknown field; did you mean "key"?',
        "f.yaml:39: mesh/m/virtualService/b: port: unknown field; it may be clientToken, kind, meshName, meshOwner, "
        "metadata, spec, status, tags or virtualServiceName",
    ]


def test_lines_of_json() -> None:
    text = '{\n"meshName": "m",\n"virtualNodeName": "n",\n"spec": {"listeners": [{"portMapping":\n{\n"port": 0}}]}}'
    node = "n.json:{}: mesh/m/virtualNode/n: spec.listeners[0].portMapping."
    assert errors(text, "n.json") == [
        # What is missing is missed where it should be.
        node.format(4) + "protocol: is required",
        node.format(6) + "port: must be between 1 and 65535, found 0",
    ]


def test_two_members_of_a_union() -> None:
    text = "meshName: m\nvirtualServiceName: s\nspec:\n  provider:\n    virtualNode: {virtualNodeName: a}\n"
    text += "    virtualRouter: {virtualRouterName: b}\n"
    assert errors(text) == [
        "f.yaml:4: mesh/m/virtualService/s: spec.provider: "
        "exactly one of virtualNode, virtualRouter must be set, found virtualNode and virtualRouter"
    ]


def test_what_is_defined_twice_names_both_places() -> None:
    one, two = parse_text(NODE, "one.yaml"), parse_text(f"---\n{NODE}", "two.yaml")
    merged = merge([one, two])
    assert merged.specs == one.specs
    assert [str(error) for error in merged.errors] == [
        "two.yaml:2: mesh/shop/virtualNode/web: is defined twice, the first time at one.yaml:1: keep one"
    ]


def test_a_document_with_an_error_gives_no_spec_and_the_others_do() -> None:
    loaded = parse_text("meshName: a\nmeshName: b\n---\nmeshName: c\n", "f.yaml")
    assert [spec.key.mesh for spec in loaded.specs] == ["c"]
    assert [str(error) for error in loaded.errors] == [
        "f.yaml:2: mesh/a: meshName: duplicate key, given already on line 1"
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("meshName: a\n8: b\n", 2, "keys must be strings, found 8"),
        ("meshName: a\n? [x]\n: b\n", 2, "keys must be strings"),
        ("meshName: a\x00b\n", 1, "must be text, found U+0000"),
        ('meshName: "a\\0b"\n', 1, "must not contain U+0000"),
        ('{"meshName": "a\\ud800"}', 1, "must not contain U+D800"),
        ('{"meshName": NaN}', 1, "finite"),
        ("meshName: .inf\n", 1, "finite"),
        ('{"meshName": 1e999}', 1, "finite"),
        ("meshName: a\nx: 99999999999999999999\n", 2, "64 bits"),
        (f"meshName: {'9' * 5000}\n", 1, "64 bits"),
        (f'{{"meshName": {"9" * 5000}}}', 1, "64 bits"),
        ("[" * 100_000, 1, "nested deeper than 64"),
        ("- " * 1000, 1, "nested deeper than 64"),
        ('{"a":' * 1000, 1, "nested deeper than 64"),
        ("&a [*a]\n", 1, "stands for what it is in"),
        ("- *a\n", 1, "has no anchor before it"),
        ("meshName: !!python/object/apply:os.system [id]\n", 1, "is not understood here"),
        ("meshName: a\n  b: c\n", 2, "not YAML"),
        ("meshName: @a\n", 1, "not YAML"),
        ('{"meshName": \n"a"', 2, "not JSON"),
        ("just text\n", 1, "must be an object"),
        ("spec: {}\n", 1, "is no App Mesh resource"),
        ("spec: {}\n", 1, "names that the aws command line gave (--mesh-name, ...) belong into the file"),
        ("virtualNode: {meshName: m}\n", 1, 'take what is inside "virtualNode" (aws ... --query virtualNode)'),
        ("kind: Mesh\nmeshName: ''\n", 2, "between 1 and 255 characters"),
        (f"kind: Mesh\nmeshName: {'x' * 256}\n", 2, "between 1 and 255 characters, found 256"),
        ("meshName: m\nmeshOwner: '1'\n", 2, "at least 12 characters, found 1"),
        (f"meshName: m\nspec: {{}}\nx: {'x' * (1 << 20)}\n", 1, "at most 1048576 bytes"),
        ("meshName: m\nspec: []\n", 2, "must be an object, found a list"),
    ],
)
def test_what_no_document_may_be(text: str, line: int, words: str) -> None:
    loaded = parse_text(text, "f")
    assert loaded.specs == ()
    found = [error for error in loaded.errors if words in error.message]
    assert [error.line for error in found] == [line], loaded.errors


def test_aliases_cannot_grow_without_bound() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    assert "aliases expanded" in errors(bomb)[0]


def test_anchors_and_merge_keys_within_bounds() -> None:
    text = """\
kind: VirtualNode
meshName: shop
virtualNodeName: web
spec:
  listeners:
  - &web
    portMapping: &http {port: 8080, protocol: http}
  - <<: *web
    portMapping: {<<: *http, port: 8081}
"""
    (spec,) = parse_text(text, "f.yaml").specs
    assert [listener.port_mapping.port for listener in spec.body.listeners] == [8080, 8081]
    assert errors(text.replace("protocol: http", "protocol: hTTp")) == [
        'f.yaml:7: mesh/shop/virtualNode/web: spec.listeners[0].portMapping.protocol: must be one of http, tcp, http2, grpc, found "hTTp"',
        'f.yaml:7: mesh/shop/virtualNode/web: spec.listeners[1].portMapping.protocol: must be one of http, tcp, http2, grpc, found "hTTp"',
    ]


def test_yaml_means_what_json_would_mean() -> None:
    text = "kind: VirtualNode\nmeshName: no\nvirtualNodeName: 2020-01-01\nspec: {serviceDiscovery: {dns: {hostname: on}}}\n"
    (spec,) = parse_text(text, "f.yaml").specs
    assert (spec.key, spec.body.service_discovery.member.hostname) == (node_key("no", "2020-01-01"), "on")


def test_null_is_as_good_as_not_given() -> None:
    text = NODE + "  backends:\n  logging: ~\n"
    assert parse_text(text, "f.yaml").specs == parse_text(NODE, "f.yaml").specs


def test_json_with_a_trailing_comma_and_a_comment_is_yaml() -> None:
    assert parse_text("{\n# ours\n'meshName': m,\n}\n", "f").specs[0].key == mesh_key("m")


def test_messages_stay_on_one_short_line() -> None:
    long = "\x1b[2J\n" * 10_000
    target = {"virtualNode": "n", "weight": long}
    route = {"match": {"prefix": long}, "action": {"weightedTargets": [target]}}
    spec = {"httpRoute": route, "tcpRoute": {"match": {long: 1}}}
    text = json.dumps({"meshName": "m", "virtualRouterName": "r", "routeName": "x", "spec": spec})
    found = errors(text)
    assert len(found) == 4
    for error in found:
        assert error.isprintable()
        assert len(error) < 700


def test_a_list_with_a_bad_item_is_not_too_short() -> None:
    def of(targets: list[object]) -> list[str]:
        route = {"match": {"prefix": "/"}, "action": {"weightedTargets": targets}}
        names = {"meshName": "m", "virtualRouterName": "r", "routeName": "x"}
        return errors(json.dumps({**names, "spec": {"httpRoute": route}}))

    (bad,) = of([{"virtualNode": "n", "weight": 1000}])
    assert bad.endswith("weightedTargets[0].weight: must be between 0 and 100, found 1000")
    (short,) = of([])
    assert short.endswith("weightedTargets: must have at least 1 item, found 0")


def test_a_spec_alone_as_the_api_brings_it() -> None:
    key = service_key("m", "s")
    spec = parse_spec(key, {"provider": {"virtualNode": {"virtualNodeName": "n"}}}, Source("PUT"))
    assert spec.key == key
    with pytest.raises(SpecErrors) as caught:
        parse_spec(key, {"provider": {}, "x": float("nan"), "y": {1: 2}, "z": object()}, Source("PUT"))
    assert {error.path: error.message for error in caught.value.errors} == {
        "spec.x": "must be a finite number",
        "spec.y": "keys must be strings, found 1: put it in quotes",
        "spec.z": "must be a JSON value, found object",
        "spec.provider": "exactly one of virtualNode, virtualRouter must be set, found none",
    }
    for wrong in (None, [], "text", 3, True):
        with pytest.raises(SpecErrors, match="must be an object"):
            parse_spec(key, wrong, Source("PUT"))
    with pytest.raises(SpecErrors, match="at most 1048576 bytes"):
        parse_spec(route_key("m", "r", "x"), {"x": "y" * (1 << 20)}, Source())


def test_numbers_beyond_what_envoy_can_count() -> None:
    listener = {
        "portMapping": {"port": 1, "protocol": "http"},
        "connectionPool": {"http": {"maxConnections": 1 << 31}},
        "timeout": {"http": {"idle": {"value": 1 << 40, "unit": "s"}}},
    }
    with pytest.raises(SpecErrors) as caught:
        parse_spec(node_key("m", "n"), {"listeners": [listener]}, Source())
    assert {error.path: error.message for error in caught.value.errors} == {
        "spec.listeners[0].connectionPool.http.maxConnections": "must be between 1 and 2147483647, found 2147483648",
        "spec.listeners[0].timeout.http.idle": "must be at most 9223372035 s",
    }


# --- nothing raises -------------------------------------------------------------------------------------------------------

_words = st.sampled_from(
    ["kind", "Mesh", "VirtualNode", "Route", "meshName", "virtualNodeName", "routeName", "spec", "listeners", "tags", "match",
     "regex", "(", "http", "&a", "*a", "<<", "!!int", "|", ">", "- ", ": ", "\n", "  ", "{", "}", "[", "]", ",", '"', "'",
     "#", "---\n", "...\n", "%YAML 1.2\n", "~", "1", "1e9", ".nan", "0x", "\t", "\x00", "\ud800", "\ufeff", "\u2028", "?", "\\", "\\u"]
)  # fmt: skip


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), st.lists(_words, max_size=25).map("".join)))
def test_no_text_raises(text: str) -> None:
    loaded = parse_text(text, "f")
    for error in loaded.errors:
        assert error.message
        assert str(error).encode()


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["kind", "meshName", "virtualNodeName", "virtualRouterName", "routeName", "spec", "listeners",
                             "portMapping", "port", "protocol", "tags", "httpRoute", "match", "regex", "x"]),
            inner, max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300)
@given(_json, st.sampled_from(list(Kind)))
def test_no_object_raises(value: Any, kind: Kind) -> None:
    fields = value if isinstance(value, dict) else {"spec": value}
    for document_ in (fields, {"kind": kind.value, "meshName": "m", "virtualNodeName": "n", **fields}):
        loaded = parse_document(document_, Source("x"))
        assert bool(loaded.specs) != bool(loaded.errors)
        for spec in loaded.specs:
            assert parse_document(document(spec), Source()).specs == (spec,)
    parse_text(json.dumps(fields), "f")


# --- App Mesh's own ---------------------------------------------------------------------------------------------------------


# Without the published definitions the list is empty, and pytest says that the test is skipped.
@pytest.mark.parametrize(
    "file", sorted(CASES.glob("*/*.calls.json")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_published_definitions_are_taken_as_they_are(file: Path) -> None:
    for call in json.loads(file.read_text())["calls"]:
        if call["op"].startswith(("Create", "Update")):
            loaded = parse_text(json.dumps(call["params"], indent=1), file.name)
            assert loaded.errors == ()
            (spec,) = loaded.specs
            assert spec.key.kind == call["op"][6:]
            assert spec.body.wire() == call["params"].get("spec", {})
            assert parse_document(document(spec), Source()).specs == (spec,)
