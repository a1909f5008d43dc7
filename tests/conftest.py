"""What every test may ask for: the real Envoy, a free port, a directory with a short path for sockets."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    import hypothesis
except ImportError:
    pass  # a lab's host, which runs tests/host/test_supervisor.py
else:
    # An example that takes long says something of the machine alone.
    hypothesis.settings.register_profile("meshagent", deadline=None)
    hypothesis.settings.load_profile("meshagent")

ROOT = Path(__file__).parent.parent
ENVOYS = Path(os.environ.get("MESHAGENT_ENVOYS", ROOT / ".cache" / "envoys"))
ENVOY_VERSION = "1.40.0"


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    """The pinned Envoy, which `make setup` installs."""
    binary = ENVOYS / ENVOY_VERSION / "envoy"
    if not binary.exists():
        pytest.skip(f"needs Envoy {ENVOY_VERSION} at {binary}: run `make setup`")
    return binary


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets (107 bytes), which tmp_path's is not always."""
    path = Path(tempfile.mkdtemp(prefix="mesh-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
