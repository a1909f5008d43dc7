"""meshctl's side of the server's API: signed requests over TLS, and one line of words for whatever fails.

Connecting is tried a few times with growing pauses; a request that was sent is never sent again, since nobody knows what became of it.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import click
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from meshagent.api import sigv4
from meshagent.cli.context import connection
from meshagent.cli.rendering import clean
from meshagent.errors import MeshagentError

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
CONNECT_ATTEMPTS = 4
_RETRIES = urllib3.Retry(
    total=None,
    connect=CONNECT_ATTEMPTS - 1,
    read=0,
    redirect=0,
    status=0,
    other=0,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    backoff_max=2.0,
)
_REGION = "us-east-1"
_DEEPEST = 10
_HOST = re.compile(r"[a-z0-9._:-]+")


class ClientError(MeshagentError):
    """The server could not be asked, or its answer not be read."""


class ServerRefused(ClientError):
    """The server said no. `errors` are the faults of single documents, as the API gives them."""

    def __init__(self, message: str, status: int, code: str, errors: tuple[Mapping[str, Any], ...]) -> None:
        super().__init__("\n".join([message, *(f"  {fault_line(error)}" for error in errors)]))
        self.status, self.code, self.errors = status, code, errors


def warn(problems: Iterable[Mapping[str, Any]]) -> None:
    """What is amiss in a mesh, on standard error."""
    for problem in problems:
        click.echo(clean(f"warning: {fault_line(problem)}"), err=True)


def fault_line(fault: Mapping[str, Any]) -> str:
    """file:line: resource: path: message, as far as each is known."""
    place = f"{fault['file']}:{fault['line']}" if fault.get("line") else str(fault.get("file") or "")
    return ": ".join(filter(None, (place, fault.get("resource"), fault.get("path"), fault.get("message"))))


class Client:
    """One server. `ca` and `access_key` are files; ClientError names the one that is not right."""

    def __init__(self, server: str, ca: Path, access_key: Path) -> None:
        self._key = read_access_key(access_key)
        self._key_file = access_key
        self._ca = ca
        self._host, self._port = _address(server)
        self.server = f"https://{_authority(self._host, self._port)}"
        # Only this file's roots: a public authority's word must not do.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(ca)
        except FileNotFoundError as error:
            raise ClientError(f"CA file {ca}: there is no such file") from error
        except (OSError, ssl.SSLError) as error:
            raise ClientError(f"CA file {ca}: must hold certificates in PEM ({error.strerror or error})") from error
        self._pool = urllib3.HTTPSConnectionPool(
            self._host,
            self._port,
            ssl_context=context,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            maxsize=4,
        )

    def request(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """The answer's JSON; None for an empty one. `path` is percent-encoded already and may have a query of its own. Raises ServerRefused
        for an answer that says no, ClientError for none."""
        path, _, own_query = path.partition("?")
        full_query = "&".join(filter(None, (own_query, urlencode(query or {}, safe="", quote_via=quote))))
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"Host": _authority(self._host, self._port), "Accept": "application/json"}
        if content:
            headers["Content-Type"] = "application/json"
        unsigned = sigv4.Request(method, path, full_query, list(headers.items()), content)
        headers |= sigv4.sign(unsigned, self._key, _REGION, sigv4.SERVICE, time.time())
        try:
            response = self._pool.urlopen(
                method,
                f"{path}?{full_query}" if full_query else path,
                body=content,
                headers=headers,
                redirect=False,
                retries=_RETRIES,
            )
        except HTTPError as error:
            raise ClientError(self._words(error, method)) from error
        return self._answer(response.status, response.data)

    def close(self) -> None:
        self._pool.close()

    def _answer(self, status: int, content: bytes) -> Any:
        answer: Any = None
        if content:
            try:
                answer = json.loads(content)
            except ValueError:
                raise ClientError(
                    f"{self.server} answered {status} with something that is not JSON: is it a meshagent server?"
                ) from None
        if 200 <= status < 300:
            return answer
        fields = answer if isinstance(answer, dict) else {}
        message = str(fields.get("message") or f"{self.server} answered with HTTP status {status}")
        if status == 403:
            message = f"{message} (access key file {self._key_file})"
        errors = fields.get("errors")
        faults = tuple(error for error in errors if isinstance(error, dict)) if isinstance(errors, list) else ()
        raise ServerRefused(message, status, str(fields.get("code") or ""), faults)

    def _words(self, error: HTTPError, method: str) -> str:
        reason: BaseException = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        match reason:
            case SSLError():
                return self._tls_words(reason)
            case NameResolutionError():
                return f"{self.server}: the name {self._host} does not resolve"
            case NewConnectionError():
                return f"{self.server} cannot be reached: {_last_words(reason)}; is the server running there?"
            case ConnectTimeoutError():
                return f"{self.server} did not take the connection within {CONNECT_SECONDS:g} s"
            case ReadTimeoutError():
                return f"{self.server} did not answer within {READ_SECONDS:g} s{_unknown(method)}"
        hint = "; is this the API's address, and not the one for agents?" if isinstance(reason, ProtocolError) else ""
        return f"{self.server}: the connection broke: {_last_words(reason)}{_unknown(method)}{hint}"

    def _tls_words(self, error: SSLError) -> str:
        cause = _verification(error)
        if cause is None:
            return f"{self.server} does not speak TLS as it should: {_last_words(error)}"
        if "mismatch" in cause.verify_message or "not valid for" in cause.verify_message:
            return f"{self.server}: its certificate is not for {self._host}; start the server with --advertise {self._host}"
        return f"{self.server}: its certificate is not of the authority in {self._ca}: {cause.verify_message}"


def connected() -> Client:
    """The client for the command that runs now, by its options, the environment or the context file."""
    said = connection(click.get_current_context())
    return Client(said.server, said.ca, said.access_key)


def read_access_key(path: Path) -> sigv4.AccessKey:
    form = 'must be JSON such as {"accessKeyId": "MAK...", "secretAccessKey": "..."}'
    try:
        fields = json.loads(path.read_bytes())
        name, secret = fields["accessKeyId"], fields["secretAccessKey"]
    except OSError as error:
        raise ClientError(f"access key file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise ClientError(f"access key file {path}: {form}") from None
    if not isinstance(name, str) or not isinstance(secret, str) or not name or not secret:
        raise ClientError(f"access key file {path}: {form}")
    return sigv4.AccessKey(name, secret)


def _address(server: str) -> tuple[str, int]:
    """Host and port of https://HOST[:PORT]; the scheme may be left out."""
    parts = urlsplit(server if "://" in server else f"https://{server}")
    try:
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port = None, 0
    if (
        parts.scheme != "https"
        or not host
        or not _HOST.fullmatch(host)
        or parts.path not in ("", "/")
        or parts.query
        or parts.username
    ):
        raise ClientError(f"server {server!r}: must be a URL such as https://mesh.example.com:9443")
    return host, port


def _authority(host: str, port: int) -> str:
    named = f"[{host}]" if ":" in host else host
    return named if port == 443 else f"{named}:{port}"


def _unknown(method: str) -> str:
    return "" if method == "GET" else "; whether the request was carried out is not known"


def _verification(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What OpenSSL had against the certificate, somewhere among the causes and arguments of an error."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, ssl.SSLCertVerificationError):
            return found
        if found is not None and found not in seen:
            seen.append(found)
            waiting += [found.__cause__, found.__context__, *(a for a in found.args if isinstance(a, BaseException))]
    return None


def _last_words(error: BaseException) -> str:
    """The innermost error's own words: "Connection refused" rather than three layers around it."""
    for _ in range(_DEEPEST):
        arguments = (argument for argument in error.args if isinstance(argument, BaseException))
        inner = error.__cause__ or error.__context__ or next(arguments, None)
        if inner is None:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
