"""What becomes of a placement's generations: which one serves, whether another is due, whether one on trial may take over. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshagent.agent.placement import LIVE
from meshagent.host.supervisor import Next, Running

# So long a generation may take to become LIVE and take what the serving one took.
TRIAL_SECONDS = 60.0
# So long an Envoy that has been LIVE may be silent on its admin interface, and so often asked in vain, before it counts as hung. One that
# is only starting may take as long as a trial.
SILENT_SECONDS = 9.0
SILENT_TIMES = 5


@dataclass(frozen=True)
class Found:
    """What an agent finds when it begins. `serving` None: none ever ran, or its retirement had begun. `pid` 0 in it: it does not run now.
    `over` run and are to be retired."""

    serving: Running | None
    trial: Running | None
    over: tuple[Running, ...]


def recover(
    state: Running | None, follower: Next | None, running: Iterable[Running], retired: Collection[int]
) -> Found:
    """From the files and from what runs, whatever an agent before was doing when it ended."""
    every = {each.generation: each for each in running}
    serving = state
    if state is None or state.generation in retired:
        # Of those that may run on, the oldest has served; a follower only if nothing else has.
        left = sorted(every.keys() - retired)
        serving = every[left[0]] if left else None
    if serving is not None:
        serving = every.get(serving.generation, serving)
    trial = None
    if follower is not None and not follower.failure and serving is not None:
        after = follower.running.generation > serving.generation and follower.running.generation not in retired
        trial = every.get(follower.running.generation) if after else None
    kept = {each.generation for each in (serving, trial) if each is not None}
    return Found(serving, trial, tuple(each for number, each in sorted(every.items()) if number not in kept))


def number_after(state: Running | None, follower: Next | None, running: Iterable[Running]) -> int:
    """Of the next generation. No number is used twice, so that nothing of an earlier one is taken for it."""
    every = [each for each in (state, follower.running if follower else None, *running) if each is not None]
    return max((each.generation for each in every), default=0) + 1


def due(serving: Running, made_of: str, version: str, order: str, follower: Next | None) -> bool:
    """Whether another generation is to be tried. One that is of another make or, from before such was kept, of another version; unless the
    same was tried and failed."""
    same = serving.made_of == made_of if serving.made_of else serving.version in ("", version)
    if same:
        return False
    failed = follower is not None and bool(follower.failure) and follower.order == order
    return not failed


def trial(state: str, in_sync: bool, refused: Iterable[tuple[str, str]], ended: str, seconds: float) -> str | None:
    """The verdict on one that is on trial: "" when it may take over, words when it may not, None while that is open. `refused` are names
    and Envoy's words, `ended` says how its process ended, `seconds` how long it has had."""
    if ended:
        return f"it {ended} before it served"
    for name, words in refused:
        return f"it refused {name}: {words.strip()}"
    if state == LIVE and in_sync:
        return ""
    if seconds < TRIAL_SECONDS:
        return None
    if not state:
        return f"it hung: nothing was heard of it within {TRIAL_SECONDS:.0f} s"
    return f"it was {state} and no more after {TRIAL_SECONDS:.0f} s"


def hangs(lived: bool, misses: int, silent: float) -> bool:
    """Whether an Envoy whose process runs, and that has not answered for so many seconds and times in a row, is past waiting for."""
    return misses >= SILENT_TIMES and silent >= (SILENT_SECONDS if lived else TRIAL_SECONDS)
