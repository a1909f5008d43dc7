"""What goes wrong with identities, credentials and the keys behind them."""

from __future__ import annotations

from meshagent.errors import MeshagentError


class IdentityError(MeshagentError):
    """A key, certificate, request or SPIFFE ID is not what it must be; the message says what would be right."""


class TokenRefused(MeshagentError):
    """A join token does not open the door: unknown, used by another key, expired, or bound to another host."""
