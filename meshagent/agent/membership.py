"""What a host remembers of having joined: in the host's directory, beside its identity. Reading it needs no network and no token."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from meshagent.agent import identity
from meshagent.agent.identity import Identity
from meshagent.host.files import read_if_there

log = logging.getLogger(__name__)

JOINED = "joined.json"


@dataclass(frozen=True)
class Joined:
    """What a host knows of the control plane that it joined. `token` is the used token's SHA-256, by which a new one is told."""

    host: str
    servers: tuple[str, ...]
    server_name: str
    trust_domain: str
    token: str = ""


@dataclass(frozen=True)
class Membership:
    joined: Joined
    identity: Identity


def membership(directory: Path) -> Membership | None:
    """What an earlier join left in the host's directory; None when there was none, or not all of it is there."""
    text = read_if_there(directory / JOINED)
    held = identity.read(directory)
    if text is None or held is None:
        return None
    try:
        fields = json.loads(text)
        return Membership(Joined(**{**fields, "servers": tuple(fields["servers"])}), held)
    except (ValueError, TypeError, KeyError) as error:
        log.error("%s cannot be read (%s): this host must join again", directory / JOINED, error)
        return None


def fingerprint(token: str) -> str:
    return hashlib.sha256(token.strip().encode()).hexdigest()
