"""Drawing and scoring of samples, compiled where there are enough of them."""

import logging
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compile import Cache, NotCompiled, compiled_function, layout
from pyro_vae.evaluation.log_densities import Latents, LogDensities

_log = logging.getLogger(__name__)

COMPILED_FROM = 2**23
"""Pairs of sample and example from which scoring is compiled: fewer do not repay it."""

_PATIENCE = 3  # calls of a shape that are not compiled before it is
_GRAPHS = 4  # shapes that are


class Scorer:
    """Draws and scores samples of z, compiled where there are enough of them to repay it.

    Arguments:
        densities: Of the model and guide.
        pairs: Of sample and example, that there will be in all.

    Attributes:
        bytes_of_a_pair: That functions of x and z were found to allocate, by their code.
    """

    def __init__(self, densities: LogDensities, pairs: int = 0) -> None:
        self.densities = densities
        self.bytes_of_a_pair: dict[CodeType, int] = {}
        self._compiles = pairs >= COMPILED_FROM
        self._cache: Cache[Callable[..., Any]] = Cache(_GRAPHS, _PATIENCE)

    @property
    def compiles(self) -> bool:
        """Whether scoring is compiled, or will be when it has come often."""
        return self._compiles and "score" not in self._cache.reasons

    def draw(self, x: Tensor, count: int) -> tuple[Latents, Tensor]:
        """So many samples of z from the guide, and log q(z|x); NaN raises."""
        names = self.densities.latents

        def draw(x: Tensor) -> list[Tensor]:
            z, log_q = self.densities.draw(x, count, nan=True)
            return [*(z[name] for name in names), log_q, torch.isnan(log_q).any()]

        compiled = self._function("draw", count, draw, [x], fixed=1)
        if compiled is None:
            return self.densities.draw(x, count)
        *values, log_q, nan = compiled(x)
        z = dict(zip(names, values, strict=True))
        if nan:
            self.densities.score_guide(x, z)  # which says where it comes from
        return z, log_q

    def score(self, x: Tensor, z: Latents) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z), each of shape ``(samples, N)``; NaN raises."""
        names, values = tuple(z), list(z.values())

        def score(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = dict(zip(names, values, strict=True))
            log_p_z, log_p_x = self.densities.score(x, z, nan=True)
            return log_p_z, log_p_x, torch.isnan(log_p_z + log_p_x).any()

        compiled = self._function("score", names, score, [x, *values], fixed=0)
        if compiled is None:
            return self.densities.score(x, z)
        log_p_z, log_p_x, nan = compiled(x, *values)
        if nan:
            self.densities.score(x, z)  # which says where it comes from
        return log_p_z, log_p_x

    def _function(
        self,
        what: str,
        static: Any,
        function: Callable[..., Any],
        tensors: list[Tensor],
        fixed: int,
    ) -> Callable[..., Any] | None:
        """Compiled code for such tensors, or None; the first `fixed` rarely change."""
        if not self._compiles:
            return None
        key = what, static, *map(layout, tensors)

        def make() -> Callable[..., Any]:
            return compiled_function(function, tensors, fixed)

        try:
            return self._cache.get(key, what, make, tensors)
        except NotCompiled as error:
            _log.info("a %s runs uncompiled: %s", what, error)
            self._cache.reasons[what] = str(error)
            return None
