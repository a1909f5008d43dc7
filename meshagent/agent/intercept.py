"""intercept on trial: whoever switches it on says within two minutes that the host is still in reach, or it goes off again.

The kernel ends a trial by itself (host/nftables.py), so that nobody need be alive for it; what is kept here says whether it was confirmed.
Pure, but for the one file.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from meshagent.agent.settings import PlacementSettings
from meshagent.errors import MeshagentError
from meshagent.host.files import read_if_there, remove, write_durably
from meshagent.host.processes import boot_id

TRIAL_SECONDS = 120
_LATER = 3
TRIAL_FILE = "intercept.json"  # in the state directory


class State(StrEnum):
    TRYING = "trying"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"


class InterceptError(MeshagentError):
    """What was asked for makes no sense as things stand."""


@dataclass(frozen=True)
class Trial:
    """`of` is what is tried: other settings are another trial. `until` counts seconds since the boot `boot`."""

    of: str
    state: State = State.TRYING
    until: float = 0.0
    boot: str = ""

    def at(self, now: float, boot: str) -> Trial:
        over = self.state is State.TRYING and (boot != self.boot or now >= self.until)
        return replace(self, state=State.ROLLED_BACK) if over else self

    def confirmed(self) -> Trial:
        if self.state is State.ROLLED_BACK:
            raise InterceptError(
                "interception was rolled back, nobody had confirmed it in time: `meshagent intercept try` begins anew"
            )
        return replace(self, state=State.CONFIRMED)


def fingerprint(settings: PlacementSettings) -> str:
    return hashlib.sha256(repr((settings.resource, settings.intercept)).encode()).hexdigest()[:16]


class Trials:
    """The trial of this host's one placement in the mode intercept."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / TRIAL_FILE
        self._trial = _read(self._path)

    def now(self, settings: PlacementSettings) -> Trial:
        """How it stands; begins one where there is none of these settings. Raises FileError when that cannot be kept, and none has begun.
        That one is over follows from when it began, and needs no disk."""
        since_boot, boot, of = time.clock_gettime(time.CLOCK_BOOTTIME), boot_id(), fingerprint(settings)
        trial = self._trial
        if trial is None or trial.of != of:
            trial = self._keep(Trial(of, State.TRYING, since_boot + TRIAL_SECONDS, boot))
        return trial.at(since_boot, boot)

    def seconds(self, trial: Trial) -> int | None:
        """For how long the kernel is to catch, a little longer than an agent that is alive lets it; None: for good."""
        if trial.state is State.CONFIRMED:
            return None
        return max(1, int(trial.until - time.clock_gettime(time.CLOCK_BOOTTIME)) + _LATER)

    def confirm(self) -> Trial:
        if self._trial is None:
            raise InterceptError(
                "nothing is intercepted on this host: no placement has `mode: intercept`, or its Envoy is not live yet"
            )
        trial = self._trial.at(time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())
        return self._keep(trial.confirmed())

    def again(self) -> None:
        """What was rolled back is tried once more."""
        if self._trial is not None and self._trial.state is not State.CONFIRMED:
            remove(self._path)
            self._trial = None

    def _keep(self, trial: Trial) -> Trial:
        write_durably(self._path, json.dumps(asdict(trial), indent=1) + "\n")
        self._trial = trial
        return trial


def _read(path: Path) -> Trial | None:
    text = read_if_there(path)
    try:
        found = json.loads(text) if text is not None else None
        return (
            None if found is None else Trial(found["of"], State(found["state"]), float(found["until"]), found["boot"])
        )
    except (ValueError, KeyError, TypeError):
        return None
