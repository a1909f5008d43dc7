"""Every trace in tests/xds/traces holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.xds.trace import TRACES, Run


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.txt")), ids=lambda path: path.stem)
def test_trace(path: Path) -> None:
    Run(path).run()
