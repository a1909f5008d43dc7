"""What is remembered of a lab, and whether its owner is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from meshagent.lab import record
from meshagent.lab.layout import LabError, layout
from meshagent.lab.record import Record

LAB = Record(layout("lab", IPv4Network("10.200.7.0/24"), 3), "/cache/root-1", frozenset({("h1", "h2")}))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    owned = replace(LAB, owner=record.owner(os.getpid()))
    record.write(tmp_path / "lab", owned)
    assert record.read(tmp_path / "lab") == owned
    assert list(record.all_in(tmp_path)) == [("lab", owned)]


def test_a_broken_record_names_itself_and_hides_no_lab(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.json").write_text('{"name": "lab"')
    with pytest.raises(LabError, match=r"lab\.json is no record of a lab"):
        record.read(tmp_path / "lab")
    assert list(record.all_in(tmp_path)) == [("lab", None)]


def test_a_lab_is_abandoned_when_its_owner_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        owned = replace(LAB, owner=record.owner(owner.pid))
        assert not owned.abandoned
    assert owned.abandoned
    assert not LAB.abandoned  # nobody's: it stays until somebody takes it down


def test_another_process_under_the_owners_pid_is_another() -> None:
    mine = record.owner(os.getpid())
    assert replace(LAB, owner=replace(mine, start_time=mine.start_time - 1)).abandoned
    assert replace(LAB, owner=replace(mine, boot_id="before")).abandoned
