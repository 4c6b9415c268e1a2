"""Compiled code by what it was made for: when to make it, what to keep, and why there is none."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from pyro_vae.compile.inductor import can_compile

Code = TypeVar("Code")

_KEPT = 2  # of one key: one for train mode, one for eval mode


class Cache(Generic[Code]):
    """Compiled code by key; a key stands for shapes, modes and all else that the code is fixed to.

    Arguments:
        size: Number of keys whose code is kept.
        patience: How often a key is asked for in vain before its code is made. A shape that comes
            seldom, such as that of an epoch's last batch, does not repay the compilation.
        eager: Whether the first code of a kind is made at once.
        repeats: How often code is made for one key, where what is kept no longer holds.
        evicts: Whether the code that was not used for longest makes room; else a full cache takes
            no more.

    Attributes:
        made: How often code was made, by key.
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
    ) -> None:
        self.size = size
        self.patience = patience
        self.eager = eager
        self.repeats = repeats
        self.evicts = evicts
        self.made: Counter[Hashable] = Counter()
        self.reasons: dict[Hashable, str] = {}
        self._codes: dict[Hashable, list[Code]] = {}
        self._kinds: dict[Hashable, Hashable] = {}
        self._waiting: Counter[Hashable] = Counter()

    def get(
        self,
        key: Hashable,
        kind: Hashable,
        make: Callable[[], Code],
        inputs: Sequence[Tensor],
        holds: Callable[[Code], bool] = lambda code: True,
    ) -> Code | None:
        """The code of a key, made now if it is time; None where there is none.

        Arguments:
            key: What the code is for.
            kind: What it does, whatever the shapes.
            make: Makes the code; what it raises is raised.
            inputs: Tensors that it is made for, on whose device it will run.
            holds: Whether code that was made for the key can still be used.
        """
        if kind in self.reasons:
            return None
        known = self._codes.get(key, [])
        for code in known:
            if holds(code):
                self._codes[key] = self._codes.pop(key)  # the last used is the last to go
                return code
        if not self._is_time(key, kind):
            return None
        if self.made[key] >= self.repeats or not can_compile(inputs):
            return None
        code = make()
        self.made[key] += 1
        self._codes[key] = [*known[1 - _KEPT :], code]
        self._kinds[key] = kind
        while len(self._codes) > self.size:
            oldest = next(iter(self._codes))
            del self._codes[oldest], self._kinds[oldest], self.made[oldest]
        return code

    def _is_time(self, key: Hashable, kind: Hashable) -> bool:
        """Counts a key that was asked for in vain; whether its code is to be made now."""
        full = len(self._codes) >= self.size
        if self.eager and not full and kind not in self._kinds.values():
            return True
        self._waiting[key] += 1
        if self._waiting[key] <= self.patience or (full and not self.evicts):
            while len(self._waiting) > 2 * self.size:
                del self._waiting[next(iter(self._waiting))]
            return False
        del self._waiting[key]
        return True
