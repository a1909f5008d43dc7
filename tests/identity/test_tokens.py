"""Join tokens: what they say, and that each opens the door once, to one key."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.identity import tokens
from meshagent.identity.errors import IdentityError, TokenRefused
from meshagent.identity.tokens import JoinToken, TokenRecord
from meshagent.store.base import Change, Conflict
from meshagent.store.memory import MemoryStore

ROOT = "ab" * 32
NOW = 1_790_000_000.0


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.close()


async def new(store: MemoryStore, **changed: Any) -> tuple[JoinToken, TokenRecord]:
    given = {
        "addresses": ["10.0.0.1:9443"],
        "root_sha256": ROOT,
        "placements": ["mesh/shop/virtualNode/web"],
        "life": 3600.0,
    }
    return await tokens.create(store, **{**given, "now": NOW, **changed})


async def redeem(
    store: MemoryStore, token: JoinToken, host: str = "web-1", key: str = "k1", now: float = NOW
) -> TokenRecord:
    return await tokens.redeem(store, token.id, token.secret, host, key, now)


async def test_the_string_says_it_all(store: MemoryStore) -> None:
    token, _ = await new(store)
    text = tokens.encode(token)
    assert text.startswith("mj1.") and "=" not in text and text.isascii()
    assert tokens.decode(f"  {text}\n") == token
    assert token.secret not in repr(token)


async def test_the_store_does_not_know_the_secret(store: MemoryStore) -> None:
    token, _ = await new(store)
    entries, _ = await store.list("")
    assert all(token.secret.encode() not in entry.value for entry in entries)


async def test_once_and_again_by_the_same_key(store: MemoryStore) -> None:
    """K6: the reply was lost, the host asks again."""
    token, _ = await new(store)
    first = await redeem(store, token)
    assert first.used_by is not None and (first.used_by.host, first.used_by.when) == ("web-1", NOW)
    assert await redeem(store, token, now=NOW + 3599) == first
    assert await tokens.list_tokens(store) == (first,)


async def test_another_key_is_refused_and_written_down(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    token, _ = await new(store)
    await redeem(store, token)
    with pytest.raises(TokenRefused, match="already used, by host 'web-1'"):
        await redeem(store, token, key="k2")
    with pytest.raises(TokenRefused, match="already used"):
        await redeem(store, token, host="web-2")
    assert "join refused" in caplog.text and token.secret not in caplog.text


async def test_expired(store: MemoryStore) -> None:
    token, _ = await new(store)
    await redeem(store, token)
    with pytest.raises(TokenRefused, match="expired"):
        await redeem(store, token, now=NOW + 3600)


async def test_unknown_tokens_and_wrong_secrets_get_the_same_answer(store: MemoryStore) -> None:
    token, _ = await new(store)
    answers = set()
    for wrong in (
        JoinToken((), ROOT, token.id, "guess"),
        JoinToken((), ROOT, "0" * 16, token.secret),
        JoinToken((), ROOT, "../meta", token.secret),
        JoinToken((), ROOT, "", ""),
    ):
        with pytest.raises(TokenRefused) as caught:
            await redeem(store, wrong)
        answers.add(str(caught.value))
    assert len(answers) == 1
    assert (await redeem(store, token)).id == token.id  # the guesses used nothing up


async def test_bound_to_a_host(store: MemoryStore) -> None:
    token, _ = await new(store, host="web-1")
    with pytest.raises(TokenRefused, match="for host 'web-1', not for 'web-2'"):
        await redeem(store, token, host="web-2")
    assert (await redeem(store, token)).host == "web-1"


async def test_of_many_at_once_one_wins(store: MemoryStore) -> None:
    token, _ = await new(store)
    answers = await asyncio.gather(
        *(redeem(store, token, host=f"h{i}", key=f"k{i}") for i in range(12)), return_exceptions=True
    )
    won = [answer for answer in answers if isinstance(answer, TokenRecord)]
    assert len(won) == 1
    assert all(isinstance(answer, TokenRefused) for answer in answers if answer not in won)


class Contended(MemoryStore):
    """Every commit finds that somebody was faster."""

    contended = False

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        if self.contended:
            raise Conflict(changes[0].key, 1, 2)
        return await super().commit(changes, expect)


async def test_contention_ends() -> None:
    store = Contended()
    token, _ = await new(store)
    store.contended = True
    with pytest.raises(TokenRefused, match="try again"):
        await redeem(store, token)
    await store.close()


async def test_deleted_and_swept(store: MemoryStore) -> None:
    token, _ = await new(store)
    kept, _ = await new(store, life=30 * 86400.0)
    assert await tokens.delete(store, token.id) is True
    assert await tokens.delete(store, token.id) is False
    assert await tokens.delete(store, "../authority/root") is False
    with pytest.raises(TokenRefused, match="unknown, or deleted"):
        await redeem(store, token)
    await new(store)
    assert await tokens.sweep(store, NOW + 9 * 86400) == 1
    assert [record.id for record in await tokens.list_tokens(store)] == [kept.id]


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        ("mesh/shop/virtualNode/web", "mesh/shop/virtualNode/web", True),
        ("mesh/shop/virtualNode/web", "mesh/shop/virtualNode/web2", False),
        ("mesh/shop/*", "mesh/shop/virtualGateway/in", True),
        ("mesh/shop/*", "mesh/shopping/virtualNode/web", False),
        ("mesh/shop/virtualNode/web*", "mesh/shop/virtualNode/web2", True),
        ("mesh/*", "mesh/any/virtualNode/web", True),
    ],
)
def test_what_is_allowed(pattern: str, path: str, allowed: bool) -> None:
    assert tokens.placement_allowed(["mesh/other/*", pattern], path) is allowed


@pytest.mark.parametrize(
    "pattern", ["", "*", "web", "mesh/shop", "mesh/shop/virtualRouter/r", "mesh/*/x", "mesh/**", "mesh/a *"]
)
async def test_placements_that_are_none(store: MemoryStore, pattern: str) -> None:
    with pytest.raises(IdentityError, match=r"mesh/shop/virtualNode/web"):
        await new(store, placements=[pattern])


async def test_tokens_without_sense(store: MemoryStore) -> None:
    with pytest.raises(IdentityError, match="at least one placement"):
        await new(store, placements=[])
    with pytest.raises(IdentityError, match="life"):
        await new(store, life=0.0)


GOOD = {"a": ["h:1"], "r": ROOT, "i": "0" * 16, "s": "x"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a": []}, "names no server"),
        ({"a": ["nohost"]}, "names no server"),
        ({"a": "h:1"}, "names no server"),
        ({"a": [1]}, "names no server"),
        ({"r": "xyz"}, "SHA-256"),
        ({"r": None}, "SHA-256"),
        ({"i": "../x"}, "an id and a secret"),
        ({"s": ""}, "an id and a secret"),
        ({"s": 5}, "an id and a secret"),
    ],
)
def test_fields_that_are_wrong(changed: dict[str, Any], words: str) -> None:
    body = base64.urlsafe_b64encode(json.dumps({**GOOD, **changed}).encode()).decode().rstrip("=")
    with pytest.raises(IdentityError, match=words):
        tokens.decode(f"mj1.{body}")


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_junk_is_refused_in_words(text: str) -> None:
    for token in (text, f"mj1.{text}", f"mj1.{base64.urlsafe_b64encode(text.encode()).decode()}"):
        with pytest.raises(IdentityError, match="join token"):
            tokens.decode(token)


async def test_cut_and_long_tokens(store: MemoryStore) -> None:
    text = tokens.encode((await new(store))[0])
    for cut in (text[:-10], text[:20], "mj2" + text[3:], "mj1." + "A" * 9000):
        with pytest.raises(IdentityError):
            tokens.decode(cut)
