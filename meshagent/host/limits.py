"""What the operating system lets this process have. Knows nothing of what it is used for."""

from __future__ import annotations

import contextlib
import resource


def raise_open_files() -> None:
    """Every connection is an open file, and so is a child's: what the operator allows at most, may be used."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
