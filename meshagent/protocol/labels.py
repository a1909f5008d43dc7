"""What a host's label may be: checked by the agent that gives it and by the server that takes it. Pure."""

from __future__ import annotations

import re

LABELS_LIMIT = 64
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/:+-]{0,61}[A-Za-z0-9])?")


def label_fault(key: str, value: str) -> str:
    """What is wrong with a label, or ""."""
    if not _KEY.fullmatch(key):
        return f"label {key[:80]!r}: a key must be 1 to 63 letters, digits, '.', '_', '-' and '/', a letter or digit first and last"
    if not _VALUE.fullmatch(value):
        return (
            f"label {key}: {value[:80]!r} must be 1 to 63 letters, digits, '.', '_', '-', '/', ':' and '+', a letter or digit first "
            "and last"
        )
    return ""
