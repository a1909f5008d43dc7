"""A little authority for the agent's tests: issues hosts', proxies' and servers' certificates without a store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from meshagent.identity import spiffe, x509
from meshagent.identity.x509 import Issuer

TRUST_DOMAIN = "test.mesh"


@dataclass
class Authority:
    life: float = 3600.0
    root: Issuer = field(default_factory=lambda: x509.new_root(TRUST_DOMAIN, time.time(), 86400.0))

    @property
    def bundle(self) -> bytes:
        return self.root.certificate_pem

    def sign(self, request: bytes, path: str) -> bytes:
        key = x509.requested_key(request)
        return x509.new_leaf(self.root, key, f"spiffe://{TRUST_DOMAIN}/{path}", time.time(), self.life)

    def server(self) -> tuple[bytes, bytes]:
        """Key and chain for 127.0.0.1."""
        key = x509.new_key()
        names = [spiffe.server_name(TRUST_DOMAIN), "localhost"]
        chain = x509.new_leaf(
            self.root,
            x509.public_key_of(key),
            spiffe.server_id(TRUST_DOMAIN),
            time.time(),
            self.life,
            names,
            ["127.0.0.1"],
        )
        return key, chain
