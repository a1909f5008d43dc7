"""AWS Signature Version 4: one canonical form of a request, for those who sign and those who verify.

Works on requests as they go over the wire: the path and the query still percent-encoded. For every service but S3 the
canonical path is encoded a second time, after its dot segments and doubled slashes are gone. Time, keys and requests come
in as arguments.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from meshagent.errors import MeshagentError

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "appmesh"
MAX_SKEW = 300.0

_TERMINATOR = "aws4_request"
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_FORM = f"Authorization must be {ALGORITHM} Credential=ID/DATE/REGION/{SERVICE}/{_TERMINATOR}, SignedHeaders=..., Signature=..."


class SignatureRefused(MeshagentError):
    """`code` and `status` are App Mesh's for this fault."""

    code = "SignatureDoesNotMatch"
    status = 403


class MissingSignature(SignatureRefused):
    code = "MissingAuthenticationToken"


class IncompleteSignature(SignatureRefused):
    code = "IncompleteSignature"
    status = 400


class UnknownKey(SignatureRefused):
    code = "UnrecognizedClientException"


class WrongSignature(SignatureRefused):
    """The signature, or the body's hash in it, is another than the request's."""


class SignatureExpired(SignatureRefused):
    """The clocks of client and server are too far apart, or the request is an old one come again."""


@dataclass(frozen=True)
class AccessKey:
    id: str
    secret: str = field(repr=False)

    def __repr__(self) -> str:  # a secret does not belong into logs
        return f"AccessKey(id={self.id!r})"


@dataclass(frozen=True)
class Request:
    """`path` and `query` (without the ?) as on the wire; `headers` in any case, repeated where they are."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""


@dataclass(frozen=True)
class _Credential:
    """What the Authorization header says; `scope` is DATE/REGION/SERVICE/aws4_request."""

    access_key: str
    scope: str
    signed_headers: tuple[str, ...]
    signature: str


def sign(request: Request, key: AccessKey, region: str, service: str, now: float) -> dict[str, str]:
    """The headers to add to the request, which must have its Host header already; all of its headers are signed."""
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime(_DATE_FORMAT)
    headers = _folded([*request.headers, ("x-amz-date", stamp)])
    names = sorted(headers)
    scope = f"{stamp[:8]}/{region}/{service}/{_TERMINATOR}"
    canonical = canonical_request(request, headers, names, _sha256(request.body))
    signature = _signature(canonical, stamp, scope, key.secret)
    return {
        "X-Amz-Date": stamp,
        "Authorization": f"{ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}",
    }


def verify(request: Request, lookup_secret: Callable[[str], str | None], now: float, max_skew: float = MAX_SKEW) -> str:
    """The id of the access key that signed the request. Raises a SignatureRefused."""
    headers = _folded(request.headers)
    credential = _credential(request, headers)
    stamp = headers.get("x-amz-date", "")
    _check_time(stamp, credential.scope, now, max_skew)
    payload = _payload_hash(headers, request.body)
    _check_signed_headers(credential.signed_headers, headers)
    secret = lookup_secret(credential.access_key)
    if secret is None:
        raise unknown_key()
    canonical = canonical_request(request, headers, credential.signed_headers, payload)
    if not hmac.compare_digest(_signature(canonical, stamp, credential.scope, secret), credential.signature):
        raise WrongSignature(
            "the request's signature is not the one that its contents and this access key give: check the secret access key"
        )
    return credential.access_key


def claimed_key(request: Request) -> str:
    """The id of the access key that the request says it is signed with, "" where it says none. Nothing is verified; its body is not
    looked at."""
    try:
        return _credential(request, _folded(request.headers)).access_key
    except SignatureRefused:
        return ""


def unknown_key() -> UnknownKey:
    return UnknownKey("the access key that the request is signed with is not known to this server")


def region_of(request: Request) -> str:
    """The region that a verified request's credential names."""
    return _credential(request, _folded(request.headers)).scope.split("/")[1]


def canonical_request(request: Request, headers: Mapping[str, str], signed: Iterable[str], payload_sha256: str) -> str:
    """`headers` by their lower-case names, repeated ones folded; `signed` the names to sign, in order."""
    names = list(signed)
    return "\n".join(
        (
            request.method.upper(),
            canonical_path(request.path),
            canonical_query(request.query),
            *(f"{name}:{headers.get(name, '')}" for name in names),
            "",
            ";".join(names),
            payload_sha256,
        )
    )


def canonical_path(path: str) -> str:
    """The path without dot segments and doubled slashes, encoded once more."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    trailing = "/" if path.endswith("/") and kept else ""
    return quote(f"/{'/'.join(kept)}{trailing}", safe="/~")


def canonical_query(query: str) -> str:
    """Names and values encoded anew and sorted by name, then value; a name without = has an empty value."""
    pairs = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        pairs.append((_recoded(name), _recoded(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _recoded(text: str) -> str:
    return quote_from_bytes(unquote_to_bytes(text.replace("+", " ")), safe="-_.~")


def _folded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower-case names; values with inner white space collapsed, those of repeated headers joined by commas."""
    folded: dict[str, list[str]] = {}
    for name, value in headers:
        folded.setdefault(name.lower(), []).append(" ".join(value.split()))
    return {name: ",".join(values) for name, values in folded.items()}


def _signature(canonical: str, stamp: str, scope: str, secret: str) -> str:
    to_sign = "\n".join((ALGORITHM, stamp, scope, _sha256(canonical.encode("utf-8", "surrogateescape"))))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _credential(request: Request, headers: Mapping[str, str]) -> _Credential:
    authorization = headers.get("authorization", "")
    if not authorization:
        if any(part.lower().startswith("x-amz-signature=") for part in request.query.split("&")):
            raise IncompleteSignature(
                "signatures in the query are not taken here: sign the Authorization header instead"
            )
        raise MissingSignature("the request is not signed: sign it with an access key (Signature Version 4)")
    if not authorization.isascii():  # nothing of it could be compared or hashed
        raise IncompleteSignature(_FORM)
    algorithm, _, rest = authorization.partition(" ")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    access_key, _, scope = fields.get("Credential", "").partition("/")
    signed, signature = fields.get("SignedHeaders", ""), fields.get("Signature", "")
    parts = scope.split("/")
    if algorithm != ALGORITHM or not access_key or not signed or not signature or len(parts) != 4:
        raise IncompleteSignature(_FORM)
    if parts[2:] != [SERVICE, _TERMINATOR]:
        raise IncompleteSignature(
            f"the credential must be scoped to {SERVICE}/{_TERMINATOR}, found {'/'.join(parts[2:])}"
        )
    return _Credential(access_key, scope, tuple(signed.split(";")), signature)


def _check_time(stamp: str, scope: str, now: float, max_skew: float) -> None:
    try:
        signed_at = datetime.datetime.strptime(stamp, _DATE_FORMAT).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        raise IncompleteSignature("X-Amz-Date must be the time of signing, such as 20260930T120000Z") from None
    if scope[:8] != stamp[:8]:
        raise WrongSignature(f"the credential's date {scope[:8]!r} is not X-Amz-Date's {stamp[:8]!r}")
    if abs(now - signed_at) > max_skew:
        ours = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime(_DATE_FORMAT)
        raise SignatureExpired(
            f"Signature expired: it was made at {stamp}, the server's clock says {ours}; they must be within {max_skew:g} s"
        )


def _payload_hash(headers: Mapping[str, str], body: bytes) -> str:
    actual = _sha256(body)
    declared = headers.get("x-amz-content-sha256", actual)
    if not hmac.compare_digest(declared.encode(), actual.encode()):
        raise WrongSignature(
            "X-Amz-Content-Sha256 must be the SHA-256 of the body: unsigned and chunked payloads are not taken"
        )
    return actual


def _check_signed_headers(signed: Sequence[str], headers: Mapping[str, str]) -> None:
    must = {"host", *(name for name in headers if name.startswith("x-amz-"))}
    unsigned = sorted(must - set(signed))
    if unsigned:
        raise IncompleteSignature(f"these headers must be signed: {', '.join(unsigned)}")
    absent = sorted(set(signed) - set(headers))
    if absent:
        raise IncompleteSignature(f"these headers are signed and not there: {', '.join(absent)}")
