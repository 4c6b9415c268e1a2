"""Draws and scores samples of the latents, with compiled code where that repays."""

import logging
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compat import intercepted
from pyro_vae.compile import (
    Cache,
    NotCompiled,
    RandomState,
    Replayed,
    compiled_function,
    layout,
    recorder,
)
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.utils.context import Examples, rows

_log = logging.getLogger(__name__)

COMPILED_FROM = 10**6
"""Number of draws (samples times examples) from which scoring is compiled.

Fewer draws do not repay the compilation. So many repay it in later processes, which find the code
in Inductor's cache on disk, and not in the first.
"""

DRAWN_COMPILED_FROM = 2**23
"""Number of draws from which drawing, which is the smaller part, is compiled too."""

# Uncompiled calls with inputs of a further shape, before code is made for it. The shape of the
# first block, which most others have, is compiled for at once.
_PATIENCE = 32
_GRAPHS = 4  # shapes that code is made for


class Scorer:
    """Draws and scores samples of the latents; compiles this if there are enough draws.

    Arguments:
        densities: The log-densities of the model and guide.
        num_draws: The number of draws (samples times examples) in the whole estimate.

    Attributes:
        bytes_per_draw: The bytes that a function of x and z allocates for each draw, by the
            function's code. Blocks measure and share them.
    """

    def __init__(self, densities: LogDensities, num_draws: int = 0) -> None:
        self.densities = densities
        self.bytes_per_draw: dict[CodeType, int] = {}
        self._kept: list[Callable[..., Any]] = []
        self._have_run: dict[int, Callable[..., Any]] = {}
        self._compiles_draws = num_draws >= DRAWN_COMPILED_FROM
        self._compiles = num_draws >= COMPILED_FROM
        self._cache: Cache[Callable[..., Any]] = Cache(_GRAPHS, _PATIENCE, eager=True)

    @property
    def compiles(self) -> bool:
        """Whether scoring is compiled, or will be after a few calls."""
        return self._compiles and "score" not in self._cache.reasons

    def draw(self, batch: Examples, count: int, *, check: bool = True) -> tuple[Latents, Tensor]:
        """Draws `count` samples of z from the guide for each x.

        Arguments:
            batch: The tuple ``(x, *context)`` of N examples.
            count: The number of samples.
            check: Waits for the draws, and looks for NaN; else :meth:`check` has to follow.

        Returns:
            The samples, and log q(z|x) in nats, shape ``(count, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN, and `check` is True.
        """
        names = self.densities.entries

        def draw(*batch: Tensor) -> list[Tensor]:
            z, log_q = self.densities.draw(batch, count, nan=True)
            return [*(z[name] for name in names), log_q, torch.isnan(log_q).any()]

        # A recorded GPU graph holds all that depends on x.
        fixed = 0 if batch[0].is_cuda else len(batch)
        small = [*rows(batch, slice(1))]
        compiled = self._function("draw", count, draw, list(batch), fixed, small)
        found = self._called("draw", compiled, list(batch))
        if found is None:
            return self.densities.draw(batch, count, nan=not check)
        *values, log_q, nan = found
        z = dict(zip(names, values, strict=True))
        if check and nan:
            self.densities.score_guide(batch, z)  # raises the error that names the site
        return z, log_q

    def check(self, batch: Examples, z: Latents, log_q: Tensor) -> None:
        """Raises FloatingPointError if log q(z|x) is NaN."""
        if torch.isnan(log_q).any():
            self.densities.score_guide(batch, z)  # raises the error that names the site

    def score(self, batch: Examples, z: Latents) -> tuple[Tensor, Tensor]:
        """Returns log p(z) and log p(x|z) in nats, each of shape ``(samples, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN.
        """
        names, values = tuple(z), list(z.values())

        def score(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = dict(zip(names, tensors[len(batch) :], strict=True))
            log_p_z, log_p_x = self.densities.score(tensors[: len(batch)], z, nan=True)
            return log_p_z, log_p_x, torch.isnan(log_p_z + log_p_x).any()

        first = slice(1)
        small = [*rows(batch, first), *self.densities.part(z, first, first).values()]
        compiled = self._function("score", names, score, [*batch, *values], 0, small)
        found = self._called("score", compiled, [*batch, *values])
        if found is None:
            return self.densities.score(batch, z)
        log_p_z, log_p_x, nan = found
        if nan:
            self.densities.score(batch, z)  # raises the error that names the site
        return log_p_z, log_p_x

    def _function(
        self,
        kind: str,
        static: Any,
        function: Callable[..., Any],
        tensors: list[Tensor],
        fixed: int,
        small: list[Tensor],
    ) -> Callable[..., Any] | None:
        """Returns compiled code for inputs with the layout of `tensors`, or None.

        The first `fixed` tensors rarely change between calls. The function runs uncompiled on
        `small` tensors, for checks.
        """
        if not self._compiles or intercepted() or (kind == "draw" and not self._compiles_draws):
            return None
        key = kind, static, *map(layout, tensors)

        def make() -> Callable[..., Any]:
            programs = list(self.densities.programs.values())
            return compiled_function(function, tensors, fixed, programs, small)

        try:
            return self._cache.get(key, kind, make, tensors)
        except NotCompiled as error:
            self._give_up(kind, error)
            return None

    def _called(
        self, kind: str, compiled: Callable[..., Any] | None, tensors: list[Tensor]
    ) -> Any | None:
        """The result of compiled code; None if there is none, or if its first call fails."""
        if compiled is None or kind in self._cache.reasons:
            return None
        if id(compiled) in self._have_run:
            return self._have_run[id(compiled)](*tensors)
        random = RandomState(tensors)
        try:
            found = compiled(*tensors)
        except Exception as error:
            random.restore()
            self._give_up(kind, error)
            return None
        self._have_run[id(compiled)] = compiled
        self._kept.append(compiled)  # No other code can get its id.
        record = recorder(tensors[0].device)
        if record is not None and kind == "draw":
            try:
                self._have_run[id(compiled)] = Replayed(compiled, tensors, record)
            except Exception as error:
                _log.info("draws are not recorded: %s", error)
        return found

    def _give_up(self, kind: str, error: Exception) -> None:
        _log.info("a %s runs uncompiled: %s: %s", kind, type(error).__name__, error)
        self._cache.reasons[kind] = str(error)
