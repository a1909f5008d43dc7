"""How a host joins: a token in, an identity out.

The token names the servers and the root's fingerprint. The root is fetched from whoever answers and believed only when its fingerprint
is the token's; then the token and a certificate request go over TLS verified by that root. The key is on the disk before anything is
sent, so that a lost reply is asked for again with the same key, which the server allows.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import random
import ssl
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshagent.agent import identity
from meshagent.agent.membership import JOINED, Joined, Membership, fingerprint
from meshagent.errors import MeshagentError
from meshagent.host.files import make_directory, read_if_there, write_durably
from meshagent.identity import tokens, x509
from meshagent.telemetry import logs

log = logging.getLogger(__name__)

TIMEOUT = 5.0
BACKOFF_FIRST, BACKOFF_LONGEST = 0.2, 10.0
_ANSWER_LIMIT = 1 << 20
_PENDING_KEY = "pending-key.pem"


class JoinError(MeshagentError):
    """No server could be asked, this time."""


class JoinRefused(MeshagentError):
    """A server said no: trying again with the same token is of no use."""


async def join(
    directory: Path,
    token_text: str,
    host: str,
    *,
    attempts: int | None = None,
    chance: Callable[[], float] = random.random,
) -> Membership:
    """Asks every server of the token in turn, with growing pauses, for ever or for so many rounds (then JoinError).

    JoinRefused when a server says no, IdentityError when the token itself is no good."""
    token = tokens.decode(token_text)
    key = await asyncio.to_thread(_pending_key, directory, token_text)
    told = ""
    rounds = 0
    while True:
        for address in token.addresses:
            try:
                answer = await asyncio.to_thread(_ask, address, token, token_text.strip(), host, x509.new_request(key))
            except JoinError as error:
                if str(error) != told:
                    log.warning("%s", error)
                told = str(error)
                continue
            made = await asyncio.to_thread(_remember, directory, key, host, token_text, answer)
            log.info("joined %s as %s by %s", made.joined.trust_domain, host, address)
            return made
        rounds += 1
        if attempts is not None and rounds >= attempts:
            raise JoinError(told)
        pause = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(rounds - 1, 10))
        await asyncio.sleep(pause * (0.5 + 0.5 * chance()))


def _pending_key(directory: Path, token_text: str) -> bytes:
    """The key to join with: that of an earlier attempt with the same token, if there was one."""
    make_directory(directory)
    path = directory / _PENDING_KEY
    mark = f"# {fingerprint(token_text)}\n".encode()
    stored = read_if_there(path)
    if stored and stored.startswith(mark):
        return stored.removeprefix(mark)
    key = x509.new_key()
    write_durably(path, mark + key)
    return key


def _remember(directory: Path, key: bytes, host: str, token_text: str, answer: dict[str, Any]) -> Membership:
    """First the words, then the identity: only both make a membership, and until then the pending key lies there for another try."""
    try:
        joined = Joined(
            host=host,
            servers=tuple(str(server) for server in answer["servers"]),
            server_name=str(answer["serverName"]),
            trust_domain=str(answer["trustDomain"]),
            token=fingerprint(token_text),
        )
        chain, bundle = str(answer["chain"]).encode(), str(answer["bundle"]).encode()
    except (KeyError, TypeError) as error:
        raise JoinRefused(f"the server's answer to the join lacks {error}: is it of another version?") from error
    if not joined.servers:
        raise JoinRefused("the server's answer to the join names no servers")
    x509.verified_leaf(chain, bundle, x509.read_leaf(chain).issued, key)
    write_durably(directory / JOINED, json.dumps(asdict(joined), indent=1) + "\n")
    held = identity.install(directory, key, chain, bundle)
    (directory / _PENDING_KEY).unlink(missing_ok=True)
    return Membership(joined, held)


def _ask(address: str, token: tokens.JoinToken, token_text: str, host: str, request: bytes) -> dict[str, Any]:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # believed by the fingerprint in the token, not by this connection
    status, answer = _call(address, unverified, "GET", "/v1/bundle", None)
    if status != 200 or not isinstance(answer.get("bundle"), str):
        raise JoinError(f"{address}: no trust bundle: {_words(status, answer)}")
    try:
        root = x509.pinned_root(answer["bundle"].encode(), token.root_sha256)
    except MeshagentError as error:
        raise JoinError(f"{address}: {error}") from error
    verified = ssl.create_default_context(cadata=root.decode())
    body = {"token": token_text, "host": host, "csr": request.decode()}
    status, answer = _call(address, verified, "POST", "/v1/join", body)
    if status >= 500 or status == 429:
        raise JoinError(f"{address}: {_words(status, answer)}")
    if status != 200:
        raise JoinRefused(f"{address} refused the join of {host}: {_words(status, answer)}")
    return answer


def _words(status: int, answer: dict[str, Any]) -> str:
    return str(answer.get("message") or f"HTTP status {status}")


def _call(address: str, context: ssl.SSLContext, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    host, _, port = address.rpartition(":")
    try:
        connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=TIMEOUT, context=context)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"} if content else {})
            response = connection.getresponse()
            text = response.read(_ANSWER_LIMIT)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise JoinError(f"{address}: its certificate is not this mesh's: {error.verify_message}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise JoinError(f"{address}: {getattr(error, 'strerror', None) or error or type(error).__name__}") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    return response.status, answer if isinstance(answer, dict) else {}


def main() -> None:
    """For agent.rejoin: what to do comes as JSON, and why it failed goes out."""
    wanted = json.load(sys.stdin)
    logs.configure()
    try:
        asyncio.run(join(Path(wanted["directory"]), wanted["token"], wanted["host"], attempts=wanted["attempts"]))
    except MeshagentError as error:
        print(error)


if __name__ == "__main__":
    main()
