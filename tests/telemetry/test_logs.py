"""A record is a line; the service manager is told where there is one."""

from __future__ import annotations

import asyncio
import contextvars
import io
import logging
import socket
from pathlib import Path

import pytest

from meshagent.telemetry.logs import Journal, Line, about
from meshagent.telemetry.sdnotify import alive, notify, watchdog_interval


def line(message: str, **fields: object) -> str:
    sink = logging.StreamHandler(stream := io.StringIO())
    sink.setFormatter(Line())
    logger = logging.Logger("meshagent.server.hosts")
    logger.addHandler(sink)
    logger.info(message, extra={"fields": fields})
    return stream.getvalue().partition(" ")[2]


def test_fields_follow_the_sentence() -> None:
    assert line("web-1 connected", address="10.0.0.5") == "info server.hosts: web-1 connected address=10.0.0.5\n"


def test_nothing_that_is_logged_makes_a_second_line() -> None:
    assert line("two\nlines", words='say "no"\n').count("\n") == 1


def test_ready_goes_to_the_service_manager(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_without_one_nothing_happens(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(run_dir / "nobody"))
    assert not notify("READY=1")


async def test_the_watchdog_hears_of_us_while_the_loop_turns(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        loop = asyncio.get_running_loop()
        async with alive(), asyncio.timeout(10):
            assert [await loop.sock_recv(listener, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_interval() == 10.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() is None


def say(logger: logging.Logger) -> None:
    about(mesh="shop", proxy="0123")
    logger.warning("%s: refused", "0123", extra={"fields": {"revision": 7}})


def test_the_journal_gets_fields_in_capitals_and_what_a_record_is_about() -> None:
    entries: list[tuple[str, dict[str, object]]] = []
    logger = logging.Logger("meshagent.agent.relay")
    logger.addHandler(Journal(lambda message, **fields: entries.append((message, fields))))
    contextvars.copy_context().run(say, logger)
    fields = {"MESH": "shop", "PROXY": "0123", "REVISION": "7", "PRIORITY": 4, "LOGGER": "meshagent.agent.relay"}
    assert entries == [("0123: refused", fields)]
