"""Imported first by the daemon, and by nothing else: keeps OpenSSL out of a process that never uses it.

asyncio loads the `ssl` module, and hashlib OpenSSL's digests, if they are there: five megabytes on every host, for nothing. The agent's TLS
is gRPC's, which brings its own. Both do without where an import fails, so it fails while they are loaded, and only then: joining, which
speaks HTTPS, may import `ssl` afterwards.
"""

from __future__ import annotations

import sys

_UNUSED = ("ssl", "_ssl", "_hashlib")
_absent = [name for name in _UNUSED if name not in sys.modules]

for _name in _absent:
    sys.modules[_name] = None  # type: ignore[assignment]  # what makes an import fail: see importlib's documentation

import asyncio  # noqa: E402, F401
import hashlib  # noqa: E402, F401
import hmac  # noqa: E402, F401

for _name in _absent:
    del sys.modules[_name]
