"""A cache of compiled code, which decides when to compile and what to keep."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from pyro_vae.compile.inductor import can_compile, lost_by_fork
from pyro_vae.compile.static import NotCompiled

__all__ = ["Cache"]

Code = TypeVar("Code")

_KEPT = 2  # Codes kept for one key: one for train mode, one for eval mode.


class Cache(Generic[Code]):
    """A cache of compiled code by key.

    A key has the shapes, dtypes and settings for which code is compiled. A kind is what the code
    computes, whatever the shapes.

    Arguments:
        size: Number of keys to keep.
        patience: Number of requests for a key without code, before its code is made. A rare
            shape, such as that of an epoch's last batch, does not repay the compilation.
        eager: Makes the first code of a kind at its first request.
        repeats: The most times that code is made for one key, if the code kept no longer holds.
        evicts: Removes the least recently used key if the cache is full. If False, a full cache
            takes no further keys.
        described: Describes a key, or a kind, as a text for the state.

    A cache has a state, which says for which keys there is code. In another process, a cache that
    has got it makes that code at its first request, so that the same requests are met by code.

    Attributes:
        made: How many times code was made, by key.
        reasons: Why a kind is no longer compiled, by kind.
    """

    def __init__(
        self,
        size: int,
        patience: int,
        *,
        eager: bool = False,
        repeats: int = 1,
        evicts: bool = False,
        described: Callable[[Hashable], str] = repr,
    ) -> None:
        self.size = size
        self.patience = patience
        self.eager = eager
        self.repeats = repeats
        self.evicts = evicts
        self.described = described
        self.made: Counter[Hashable] = Counter()
        self.reasons: dict[Hashable, str] = {}
        self._codes: dict[Hashable, list[Code]] = {}
        self._kinds: dict[Hashable, Hashable] = {}
        self._waiting: Counter[Hashable] = Counter()
        self._in_use: set[Hashable] = set()  # keys whose last request has got code
        self._due: set[Hashable] = set()  # keys whose code is to be made, by a loaded state
        self._loaded: dict[str, dict[str, Any]] = {}  # a loaded state, by described key

    def get(
        self,
        key: Hashable,
        kind: Hashable,
        make: Callable[[], Code],
        inputs: Sequence[Tensor],
        holds: Callable[[Code], bool] = lambda code: True,
        uses: int = 1,
    ) -> Code | None:
        """The code of a key, which may be made now; None if there is none.

        Arguments:
            key: The shapes, dtypes and settings.
            kind: What the code computes.
            make: Makes the code. Its errors are not caught.
            inputs: Examples of the code's inputs, on the device where it will run.
            holds: Whether code that was made for the key is still valid.
            uses: How many times the caller will run the code.

        Raises:
            NotCompiled: The code is to be made in a process that was forked from one which had
                compiled.
        """
        if kind in self.reasons:
            return None
        if self._loaded:
            self._adopt(key, kind)
        known = self._codes.get(key, [])
        for code in known:
            if holds(code):
                self._codes[key] = self._codes.pop(key)  # to the end, as the most recently used
                self._in_use.add(key)
                return code
        self._in_use.discard(key)
        if not self._is_time(key, kind, uses):
            return None
        if self.made[key] >= self.repeats or not can_compile(inputs):
            return None
        if lost_by_fork():
            raise NotCompiled(
                "this process was forked from one that had compiled, and Inductor's threads are "
                "not in it: expected one that was spawned"
            )
        code = make()
        self.made[key] += 1
        self._codes[key] = [*known[1 - _KEPT :], code]
        self._kinds[key] = kind
        self._in_use.add(key)
        while len(self._codes) + self._loaded_codes() > self.size:
            loaded = next((text for text, e in self._loaded.items() if e["made"]), None)
            if loaded is not None:  # They were used before all others.
                del self._loaded[loaded]
                continue
            oldest = next(iter(self._codes))
            del self._codes[oldest], self._kinds[oldest], self.made[oldest]
            self._in_use.discard(oldest)
        return code

    def _has(self, kind: Hashable) -> bool:
        """Whether there is code of a kind, or will be by a loaded state."""
        if kind in self._kinds.values():
            return True
        return bool(self._loaded) and self.described(kind) in {
            entry["kind"] for entry in self._loaded.values()
        }

    # Its state.

    def state(self, of: Callable[[Hashable], bool]) -> list[dict[str, Any]]:
        """Which keys have code, and which wait for it, as values of JSON.

        Arguments:
            of: Whether a key belongs to the state.
        """
        kept = [
            {
                "key": self.described(key),
                "kind": self.described(self._kinds[key]),
                "made": self.made[key],
                "in_use": key in self._in_use,
                "waiting": self._waiting[key],
            }
            for key in self._codes
            if of(key)
        ]
        waiting = [
            {"key": self.described(key), "kind": "", "made": 0, "in_use": False, "waiting": count}
            for key, count in self._waiting.items()
            if key not in self._codes and of(key)
        ]
        return [*self._loaded.values(), *kept, *waiting]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Loads a state; it is used as keys are requested."""
        self._loaded = {entry["key"]: entry for entry in state}

    def _loaded_codes(self) -> int:
        return sum(entry["made"] > 0 for entry in self._loaded.values())

    def _adopt(self, key: Hashable, kind: Hashable) -> None:
        """Takes over what a loaded state says of a key."""
        entry = self._loaded.pop(self.described(key), None)
        if entry is not None:
            if entry["made"]:
                self.made[key] = entry["made"] - entry["in_use"]
                self._codes[key], self._kinds[key] = [], kind
            if entry["in_use"]:
                self._due.add(key)
            if entry["waiting"]:
                self._waiting[key] = entry["waiting"]

    def _is_time(self, key: Hashable, kind: Hashable, uses: int) -> bool:
        """Counts a request for a key without code; returns whether to make its code now."""
        if key in self._due:
            self._due.remove(key)
            return True
        full = len(self._codes) + self._loaded_codes() >= self.size
        if self.eager and not full and not self._has(kind):
            return True
        self._waiting[key] += uses
        if self._waiting[key] <= self.patience or (full and not self.evicts):
            while len(self._waiting) > 2 * self.size:
                del self._waiting[next(iter(self._waiting))]
            return False
        del self._waiting[key]
        return True
