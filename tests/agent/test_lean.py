"""The daemon's process is without what it never uses, and can have it when it does."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from meshagent.agent import __main__
import meshagent.host.systemd
assert not [name for name in sys.modules if "cryptography" in name], "loaded by an import of the agent"
assert not {"ssl", "_hashlib"} & set(sys.modules), "loaded by an import of the agent"
mapped = Path("/proc/self/maps").read_text()
assert "libssl" not in mapped, "OpenSSL is mapped"
import hashlib
assert hashlib.sha256(b"x").hexdigest().startswith("2d711642")
from meshagent.agent import join
import ssl
ssl.create_default_context()
"""


def test_the_daemon_loads_no_openssl_until_it_joins() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
