"""Keys, requests and certificates, made and checked in a process that ends with the work: `python -m meshagent.agent.certificates`.

What they need (OpenSSL and more) is ten megabytes, used twice a day; the daemon does not carry it. A process that has it anyway, as one
that joins or looks for faults, works by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from meshagent.identity import leaf
from meshagent.identity.errors import IdentityError
from meshagent.identity.leaf import Leaf

_X509 = "meshagent.identity.x509"
_SECONDS = 30.0


def new_request() -> tuple[bytes, bytes]:
    """A new key, and a certificate request that proves its possession. Blocks, as all here does; raises IdentityError."""
    answer = _done({"do": "request"})
    return _bytes(answer["key"]), _bytes(answer["request"])


def read_leaf(chain: bytes) -> Leaf:
    return _leaf(_done({"do": "read", "chain": _text(chain)}))


def checked_leaf(chain: bytes, bundle: bytes, key: bytes | None = None) -> Leaf:
    """The leaf of a chain that led to one of the bundle's roots when it was made; with `key`, also of exactly that key. Judged then and not
    now: this host's clock may be wrong."""
    wanted = {"do": "check", "chain": _text(chain), "bundle": _text(bundle)}
    return _leaf(_done(wanted if key is None else {**wanted, "key": _text(key)}))


def _leaf(answer: dict[str, Any]) -> Leaf:
    found = leaf.decoded(answer["leaf"])
    assert found is not None
    return found


def _done(wanted: dict[str, str]) -> dict[str, Any]:
    if _X509 in sys.modules:
        return _do(wanted)
    program = [sys.executable, "-P", "-m", "meshagent.agent.certificates"]
    try:
        done = subprocess.run(
            program, input=json.dumps(wanted), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise IdentityError(f"cannot run {sys.executable} to work on certificates: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise IdentityError(f"work on a certificate took more than {_SECONDS:.0f} s") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise IdentityError(f"work on a certificate ended with status {done.returncode}: {last}") from None
    if "error" in answer:
        raise IdentityError(str(answer["error"]))
    return answer


def _do(wanted: dict[str, str]) -> dict[str, Any]:
    from meshagent.identity import x509

    match wanted["do"]:
        case "request":
            key = x509.new_key()
            return {"key": _text(key), "request": _text(x509.new_request(key))}
        case "read":
            return {"leaf": leaf.encoded(x509.read_leaf(_bytes(wanted["chain"])))}
        case _:
            chain, bundle = _bytes(wanted["chain"]), _bytes(wanted["bundle"])
            key_pem = _bytes(wanted["key"]) if "key" in wanted else None
            found = x509.verified_leaf(chain, bundle, x509.read_leaf(chain).issued, key_pem)
            return {"leaf": leaf.encoded(found)}


def _text(pem: bytes) -> str:
    return pem.decode("latin-1")  # whatever the bytes are, they come back


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def main() -> None:
    try:
        answer = _do(json.load(sys.stdin))
    except IdentityError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
