"""When code is made for a key, what is kept, and what is not made again."""

from collections.abc import Callable

import pytest
import torch

from pyro_vae.compile import Cache
from pyro_vae.compile import cache as module


@pytest.fixture(autouse=True)
def _with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_compile", lambda inputs: True)


class Asked:
    """A cache that is asked for keys, and makes a new number as the code of each."""

    def __init__(self, cache: Cache[int]) -> None:
        self.cache = cache
        self.made = 0

    def __call__(
        self, key: str, kind: str = "kind", holds: Callable[[int], bool] = lambda code: True
    ) -> int | None:
        return self.cache.get(key, kind, self._make, [torch.zeros(1)], holds)

    def _make(self) -> int:
        self.made += 1
        return self.made


def test_code_waits_until_its_key_has_come_often() -> None:
    ask = Asked(Cache(size=4, patience=2))
    assert [ask("a") for _ in range(4)] == [None, None, 1, 1]
    assert [ask("b"), ask("a"), ask("b"), ask("b")] == [None, 1, None, 2]


def test_the_first_of_a_kind_is_made_at_once_where_the_cache_is_eager() -> None:
    ask = Asked(Cache(size=4, patience=1, eager=True))
    assert [ask("a"), ask("b"), ask("b")] == [1, None, 2]
    assert ask("c", "other") == 3


def test_a_full_cache_takes_no_more() -> None:
    ask = Asked(Cache(size=2, patience=0))
    assert [ask("a"), ask("b"), ask("c"), ask("c"), ask("a")] == [1, 2, None, None, 1]
    ask = Asked(Cache(size=2, patience=0, eager=True))
    assert [ask(k, kind=k) for k in "abc"] == [1, 2, None]


def test_what_was_not_used_for_longest_makes_room() -> None:
    ask = Asked(Cache(size=2, patience=0, evicts=True))
    assert [ask("a"), ask("b"), ask("a"), ask("c")] == [1, 2, 1, 3]
    assert [ask("a"), ask("b")] == [1, 4]  # b went, and is made again


def test_code_that_no_longer_holds_is_made_again_up_to_a_number_of_times() -> None:
    ask = Asked(Cache(size=2, patience=0, repeats=2))
    assert ask("a") == 1
    assert ask("a", holds=lambda code: code > 1) == 2
    # Both are kept, one for train and one for eval mode say.
    assert ask("a", holds=lambda code: code == 1) == 1
    assert ask("a", holds=lambda code: code == 2) == 2
    assert ask("a", holds=lambda code: False) is None
    assert ask.made == 2


def test_a_kind_with_a_reason_is_not_compiled() -> None:
    ask = Asked(Cache(size=2, patience=0))
    ask.cache.reasons["kind"] = "reads a value"
    assert ask("a") is None
    assert ask("a", "other") == 1


def test_keys_that_never_come_back_are_forgotten() -> None:
    ask = Asked(Cache(size=2, patience=5))
    for number in range(100):
        assert ask(f"key {number}") is None
    assert len(ask.cache._waiting) <= 4


def test_without_a_compiler_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_compile", lambda inputs: False)
    ask = Asked(Cache(size=2, patience=0, eager=True))
    assert ask("a") is None
    assert ask.made == 0


def test_an_error_of_the_compiler_is_raised_and_keeps_nothing() -> None:
    cache: Cache[int] = Cache(size=2, patience=0)

    def fail() -> int:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get("a", "kind", fail, [torch.zeros(1)])
    assert not cache.made
    assert Asked(cache)("a") == 1
