"""`python -m meshagent.host.fetch URL FILE`: downloads one file, and is gone, with all that it took to do so.

What comes is not trusted: whoever asked for it checks its SHA-256.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

READ_SECONDS = 30.0
WHOLE_SECONDS = 590.0
LARGEST = 1 << 30
_CHUNK = 1 << 20
_SCHEMES = ("https://", "http://", "file://")


def fetch(url: str, target: Path) -> None:
    """Raises OSError, or ValueError for what cannot be meant."""
    if not url.startswith(_SCHEMES):
        raise ValueError(f"cannot be fetched: a URL begins with one of {', '.join(_SCHEMES)}")
    deadline = time.monotonic() + WHOLE_SECONDS
    with urllib.request.urlopen(url, timeout=READ_SECONDS) as answer, target.open("wb") as sink:  # noqa: S310 - checked above
        while chunk := answer.read(_CHUNK):
            sink.write(chunk)
            if sink.tell() > LARGEST:
                raise ValueError(f"larger than {LARGEST >> 20} MiB: that is no Envoy")
            if time.monotonic() > deadline:
                raise ValueError(f"not complete after {WHOLE_SECONDS:.0f} s")


if __name__ == "__main__":
    try:
        fetch(sys.argv[1], Path(sys.argv[2]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
