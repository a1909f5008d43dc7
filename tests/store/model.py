"""A plain dict that says what a store must hold after any sequence of commits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import strategies as st

from meshagent.store.base import Change, Conflict, Delete, Entry, Put, Store

_KEYS = st.sampled_from(["a", "a/b", "a/c", "b", "bé", "c/d/e"])
_CHANGES = st.lists(
    st.one_of(st.builds(Put, _KEYS, st.binary(max_size=4)), st.builds(Delete, _KEYS)),
    max_size=4,
    unique_by=lambda c: c.key,
)
COMMITS = st.lists(st.tuples(_CHANGES, st.dictionaries(_KEYS, st.integers(0, 6), max_size=2)), max_size=12)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def follow_a_model(store: Store, commits: list[tuple[list[Change], dict[str, int]]]) -> dict[str, Entry]:
    """Commits, and compares after each with a model; at the end a watcher from the start has seen the way there."""
    model: dict[str, Entry] = {}
    revision = 0
    for changes, expect in commits:
        wrong = [key for key, at in expect.items() if (model[key].revision if key in model else 0) != at]
        if wrong:
            with pytest.raises(Conflict) as conflict:
                await store.commit(changes, expect)
            assert conflict.value.key == wrong[0]
            continue
        effective = [change for change in changes if isinstance(change, Put) or change.key in model]
        revision += bool(effective)
        for change in effective:
            if isinstance(change, Put):
                created = model[change.key].created if change.key in model else revision
                model[change.key] = Entry(change.key, change.value, revision, created)
            else:
                del model[change.key]
        assert await store.commit(changes, expect) == revision
        for prefix in ("", "a/", "b"):
            entries, at = await store.list(prefix)
            assert at == revision
            assert list(entries) == [model[key] for key in sorted(model) if key.startswith(prefix)]
    replayed: dict[str, Entry] = {}
    seen = 0
    watch = store.watch("", 0)
    while seen < revision:
        for event in await asyncio.wait_for(anext(watch), 5):
            seen = event.revision
            if event.entry is None:
                del replayed[event.key]
            else:
                replayed[event.key] = event.entry
    assert replayed == model
    await store.close()
    return model
