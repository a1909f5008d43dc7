"""Signature Version 4, against botocore's own signer: whatever it signs must verify, and nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.api import sigv4
from meshagent.api.sigv4 import AccessKey, Request

KEY = AccessKey("MAKEXAMPLEEXAMPLE234", "s3cr3t/with+odd=chars")
NOW = 1_790_000_000.0

AWKWARD = [
    "a/b",
    "%",
    "100%25",
    "with space",
    "naïve-メッシュ",
    "~tilde_.-",
    "a+b",
    "..",
    "a//b",
    "*",
    "'quote'",
    "(x)",
    "a&b=c",
]


def lookup(key_id: str) -> str | None:
    return KEY.secret if key_id == KEY.id else None


def signed_by_botocore(method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Request:
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        SigV4Auth(Credentials(KEY.id, KEY.secret), "appmesh", "eu-west-1").add_auth(request)
    parts = urlsplit(url)
    found = [("Host", parts.netloc), *((name, str(value)) for name, value in request.headers.items())]
    return Request(method, parts.path, parts.query, found, body)


@pytest.mark.parametrize("name", AWKWARD)
def test_names_in_the_path_as_botocore_signs_them(name: str) -> None:
    url = f"https://localhost:9443/v20190125/meshes/{quote(name, safe='')}/virtualNodes/x"
    assert sigv4.verify(signed_by_botocore("GET", url), lookup, NOW) == KEY.id


@pytest.mark.parametrize(
    "query", ["", "limit=10", "nextToken=", "nextToken=&limit=3", "tag=b&tag=a&tag=", "b=%20%2B%25&a=%C3%A9", "x=a%2Fb"]
)
def test_queries_as_botocore_signs_them(query: str) -> None:
    url = f"https://localhost/v20190125/meshes?{query}"
    assert sigv4.verify(signed_by_botocore("GET", url), lookup, NOW) == KEY.id


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=20, alphabet=st.characters(codec="utf-8")), st.binary(max_size=40))
def test_any_name_and_body(name: str, body: bytes) -> None:
    url = f"http://127.0.0.1:8080/v20190125/meshes/{quote(name, safe='~')}?tag={quote(name, safe='~')}"
    request = signed_by_botocore("PUT", url, body, {"Content-Type": "application/json", "X-Amz-Target": "a  b"})
    assert sigv4.verify(request, lookup, NOW) == KEY.id


def test_our_signature_is_botocore_s() -> None:
    theirs = signed_by_botocore("PUT", "https://mesh.example:9443/v20190125/meshes?a=b", b'{"meshName": "shop"}')
    ours = sigv4.sign(replace(theirs, headers=[("host", "mesh.example:9443")]), KEY, "eu-west-1", "appmesh", NOW)
    assert dict(theirs.headers)["Authorization"] == ours["Authorization"]
    assert dict(theirs.headers)["X-Amz-Date"] == ours["X-Amz-Date"]


def signed(
    method: str = "GET", path: str = "/v1/status", query: str = "", body: bytes = b"", at: float = NOW
) -> Request:
    request = Request(method, path, query, [("Host", "localhost:1")], body)
    added = sigv4.sign(request, KEY, "any", "appmesh", at)
    return replace(request, headers=[*request.headers, *added.items()])


def test_round_trip() -> None:
    assert sigv4.verify(signed(body=b"x"), lookup, NOW) == KEY.id


def with_header(name: str, change: Callable[[str], str]) -> Callable[[Request], Request]:
    def apply(request: Request) -> Request:
        return replace(request, headers=[(n, change(v) if n.lower() == name else v) for n, v in request.headers])

    return apply


def added_header(name: str, value: str) -> Callable[[Request], Request]:
    return lambda request: replace(request, headers=[*request.headers, (name, value)])


TAMPERED: list[tuple[str, Callable[[Request], Request], type[sigv4.SignatureRefused], str]] = [
    ("method", lambda r: replace(r, method="DELETE"), sigv4.WrongSignature, "secret access key"),
    ("path", lambda r: replace(r, path="/v1/hosts"), sigv4.WrongSignature, "secret access key"),
    ("query", lambda r: replace(r, query="all=1"), sigv4.WrongSignature, "secret access key"),
    ("body", lambda r: replace(r, body=b"other"), sigv4.WrongSignature, "secret access key"),
    ("host", with_header("host", lambda v: "elsewhere"), sigv4.WrongSignature, "secret access key"),
    (
        "signature",
        with_header("authorization", lambda v: v[:-1] + ("0" if v[-1] != "0" else "1")),
        sigv4.WrongSignature,
        "secret",
    ),
    ("key", with_header("authorization", lambda v: v.replace(KEY.id, "MAKOTHER")), sigv4.UnknownKey, "not known"),
    (
        "service",
        with_header("authorization", lambda v: v.replace("/appmesh/", "/s3/")),
        sigv4.IncompleteSignature,
        "appmesh",
    ),
    ("scheme", with_header("authorization", lambda v: "Bearer abc"), sigv4.IncompleteSignature, "Credential="),
    ("empty", with_header("authorization", lambda v: ""), sigv4.MissingSignature, "not signed"),
    ("non-ascii", with_header("authorization", lambda v: v[:-1] + "é"), sigv4.IncompleteSignature, "Credential="),
    ("date", with_header("x-amz-date", lambda v: "yesterday"), sigv4.IncompleteSignature, "X-Amz-Date"),
    ("day", with_header("x-amz-date", lambda v: "20200101T000000Z"), sigv4.WrongSignature, "X-Amz-Date"),
    ("amz header", added_header("X-Amz-Target", "a"), sigv4.IncompleteSignature, "must be signed: x-amz-target"),
    (
        "host unsigned",
        with_header("authorization", lambda v: v.replace("host;", "")),
        sigv4.IncompleteSignature,
        "must be signed: host",
    ),
    (
        "header dropped",
        with_header("authorization", lambda v: v.replace("host;", "date;host;")),
        sigv4.IncompleteSignature,
        "not there: date",
    ),
    ("declared hash", added_header("X-Amz-Content-Sha256", "0" * 64), sigv4.WrongSignature, "SHA-256 of the body"),
    (
        "unsigned payload",
        added_header("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"),
        sigv4.WrongSignature,
        "SHA-256 of the body",
    ),
]


@pytest.mark.parametrize(
    ("change", "error", "words"), [case[1:] for case in TAMPERED], ids=[case[0] for case in TAMPERED]
)
def test_tampered(change: Any, error: type[sigv4.SignatureRefused], words: str) -> None:
    with pytest.raises(error, match=words):
        sigv4.verify(change(signed()), lookup, NOW)


@pytest.mark.parametrize("late", [-301, 301])
def test_clock_skew(late: float) -> None:
    with pytest.raises(sigv4.SignatureExpired, match="within 300 s"):
        sigv4.verify(signed(at=NOW + late), lookup, NOW)
    assert sigv4.verify(signed(at=NOW + late * 0.99), lookup, NOW) == KEY.id


def test_unsigned_and_presigned() -> None:
    bare = Request("GET", "/v1/status", "", [("Host", "localhost")])
    with pytest.raises(sigv4.MissingSignature) as caught:
        sigv4.verify(bare, lookup, NOW)
    assert (caught.value.status, caught.value.code) == (403, "MissingAuthenticationToken")
    with pytest.raises(sigv4.IncompleteSignature, match="query"):
        sigv4.verify(replace(bare, query="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00"), lookup, NOW)


def test_secrets_are_not_in_reprs() -> None:
    assert KEY.secret not in repr(KEY)
