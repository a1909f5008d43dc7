"""One structured line a record, to stderr: time, level, where, the sentence, then fields as key=value.

The sentence is for people; what a machine should find again goes into `extra={"fields": {...}}`. Both daemons log
through this and nothing else. Where stderr is the journal's and systemd's own library is there, records go to the journal with their
fields, which `journalctl FIELD=VALUE` finds; everywhere else they are lines.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))
LEVELS = ("debug", "info", "warning", "error")


class Line(logging.Formatter):
    """2026-11-20T13:02:11.417Z info server.hosts: web-1 connected address=10.0.0.5"""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        name = record.name.removeprefix("meshagent.")
        fields = _mapping(record, "fields")
        words = [f"{moment}.{int(record.msecs):03d}Z {record.levelname.lower()} {name}: {record.getMessage()}"]
        words += [f"{key}={_value(value)}" for key, value in fields.items()]
        line = " ".join(words).replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info:
            # A defect shows its traceback, which is the one thing that takes more than a line.
            line += "\n" + self.formatException(record.exc_info)
        return line


def about(**fields: str) -> None:
    """From here on, in this task and those that it begins, all records are about one thing, a proxy say: fields that the journal gets, and
    that a line, whose sentence names the thing anyway, does not repeat."""
    _ABOUT.set(fields)


class Journal(logging.Handler):
    """One entry a record. `send` is systemd.journal.send: the message, then fields."""

    def __init__(self, send: Callable[..., object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message, fields = _entry(record)
            self._send(message, **fields)
        except Exception:  # a log that cannot be written must not end what is logged
            self.handleError(record)


def _entry(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    fields = {**_ABOUT.get(), **_mapping(record, "about"), **_mapping(record, "fields")}
    entry: dict[str, Any] = {key.upper(): str(value) for key, value in fields.items()}
    return message, {**entry, "PRIORITY": _priority(record.levelno), "LOGGER": record.name}


def _priority(level: int) -> int:
    """syslog(3)'s."""
    return next((priority for floor, priority in ((40, 3), (30, 4), (20, 6)) if level >= floor), 7)


def _mapping(record: logging.LogRecord, name: str) -> Mapping[str, object]:
    return getattr(record, name, None) or {}


def _journal() -> logging.Handler | None:
    """A handler for the journal, when stderr is a stream of its own and systemd-python is there."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        there = os.fstat(2)
        if (device, inode) != (str(there.st_dev), str(there.st_ino)):
            return None
        from systemd import journal
    except (OSError, ImportError):
        return None
    return Journal(journal.send)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends everything that this process logs, from `level` on, to the journal where it is there, else to `stream` (stderr)."""
    sink = _journal() if stream is None else None
    if sink is None:
        sink = logging.StreamHandler(stream or sys.stderr)
        sink.setFormatter(Line())
    root = logging.getLogger()
    root.handlers[:] = [sink]
    root.setLevel(level.upper())
    if level != "debug":
        # What other libraries say at INFO is about themselves.
        for library in ("uvicorn", "asyncio", "grpc"):
            logging.getLogger(library).setLevel(logging.WARNING)
        # gRPC's core writes to stderr by itself: a line for each handshake that fails, whoever tries. It reads this as it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c == '"' for c in text) else text
