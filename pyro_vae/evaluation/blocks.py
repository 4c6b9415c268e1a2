"""Examples and samples in blocks, whose noise is their own and whose memory is bounded."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from pyro_vae.compat import TorchDispatchMode
from pyro_vae.evaluation.importance_weights import CHUNK
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.evaluation.scorer import Scorer
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded

# The noise of an estimate belongs to blocks of so many examples and samples, whatever the memory.
EXAMPLES = 64
SAMPLES = CHUNK

_DRAWN = 8  # samples of all examples of a block that a model draws at once
# On a processor, steps that outgrow its caches are slower (1.5 times at twice as many bytes); and
# so are those of fewer pairs of sample and example than pay for the calls (a spline prior 1.9
# times). Compiled code takes half of what it is counted for, or less.
_CPU_STEP_BYTES = 2**26
_CPU_STEP_PAIRS = 512


OfPairs = Callable[[Tensor, Latents], tuple[Tensor, ...]]
"""A function of x and z, to tensors that begin with ``(samples, N)``."""


@dataclass
class Block:
    """Some examples of a program, and the random streams that are theirs.

    Attributes:
        scorer: Of the model and guide.
        x: The examples, shape ``(N, ...)``.
        seed: Of the estimate.
        index: Of the block.
        max_bytes: Bound on what a step of the model allocates.
    """

    scorer: Scorer
    x: Tensor
    seed: int | None
    index: int
    max_bytes: int

    @property
    def densities(self) -> LogDensities:
        """Of the model and guide."""
        return self.scorer.densities

    def stream(self, *key: int) -> AbstractContextManager[None]:
        """A random stream of this block's."""
        return seeded(self.seed, self.index, *key, device=self.x.device)

    def samples(self, num_samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields log p(x|z) and log q(z|x) - log p(z) for z of the guide, ``(samples, N)``."""
        for start, count, stream in self._streams(num_samples):
            with stream:
                z, log_q = self.scorer.draw(self.x, count)
            log_p_z, log_p_x = self.score(z, check=start == 0)
            yield log_p_x, log_q - log_p_z

    def _streams(
        self, num_samples: int
    ) -> Iterator[tuple[int, int, AbstractContextManager[None]]]:
        """Chunks of samples, each with a stream.

        They are made by the dozen: one by one each takes ten times as long, as NumPy's code has
        left the processor's caches since the last chunk.
        """
        all_chunks = chunks(num_samples)
        while some := list(islice(all_chunks, 12)):
            yield from [(start, count, self.stream(start)) for start, count in some]

    def draw_prior(self, count: int) -> tuple[Latents, Tensor]:
        """So many samples of z from the model for each x, and log p(x|z), ``(count, N)``.

        The model draws and scores at once, in parts of 8 samples of all examples, whatever the
        memory, so that a stream gives the same draws.
        """
        drawn = [
            self.densities.draw_prior(self.x, min(_DRAWN, count - first))
            for first in range(0, count, _DRAWN)
        ]
        z = {name: torch.cat([part[name] for part, _ in drawn]) for name in drawn[0][0]}
        return z, torch.cat([log_p_x for _, log_p_x in drawn])

    def score(self, z: Latents, check: bool = False) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z), part by part; with `check` x is held against the supports."""
        if check:
            self.check(z)
        # The program's own allocations count, not a compiled function's.
        compiled = self.scorer.compiles
        log_p_z, log_p_x = self.in_parts(self.scorer.score, z, self.densities.score, compiled)
        return log_p_z, log_p_x

    def check(self, z: Latents) -> None:
        """Raises ValueError unless x is on the supports that it has at the first sample of z."""
        examples = self._pairs(self.densities.score, z)
        for first in range(0, len(self.x), examples):
            of = slice(first, first + examples)
            self.densities.check(self.x[of], self.densities.part(z, slice(1), of))

    def in_parts(
        self,
        function: OfPairs,
        z: Latents,
        counted: OfPairs | None = None,
        compiled: bool = False,
    ) -> tuple[Tensor, ...]:
        """A function of x and z, for as many pairs of sample and example at once as memory has.

        It gives tensors that begin with ``(samples, N)``, and so does this. How many pairs these
        are follows from what `counted` allocates, or else the function; on a processor twice as
        many of a function that is compiled.
        """
        count = len(next(iter(z.values())))
        pairs = self._pairs(counted or function, z, compiled)
        examples = min(pairs, len(self.x))
        samples = max(1, pairs // examples)
        together: tuple[Tensor, ...] = ()
        for first in range(0, len(self.x), examples):
            of = slice(first, first + examples)
            for start in range(0, count, samples):
                some = slice(start, start + samples)
                parts = function(self.x[of], self.densities.part(z, some, of))
                # In one place: kept as they come, they would lie between what steps allocate and
                # free, and keep the allocator from using it again.
                together = together or tuple(
                    part.new_empty(count, len(self.x), *part.shape[2:]) for part in parts
                )
                for whole, part in zip(together, parts, strict=True):
                    whole[some, of] = part
        return together

    def _pairs(self, function: OfPairs, z: Latents, compiled: bool = False) -> int:
        known, key = self.scorer.bytes_of_a_pair, function.__code__
        if key not in known:
            known[key] = self._bytes_of_a_pair(function, z)
        pairs = max(1, self.max_bytes // known[key])
        if self.x.device.type == "cpu":
            few = max(_CPU_STEP_PAIRS, (1 + compiled) * _CPU_STEP_BYTES // known[key])
            # A power of two, as chunks and blocks have: so that steps are of one shape.
            pairs = min(pairs, 2 ** round(math.log2(few)))
        return pairs

    def _bytes_of_a_pair(self, function: OfPairs, z: Latents) -> int:
        """What a further pair makes torch allocate."""
        first = self.densities.part(z, slice(1), slice(1))
        twice = {name: torch.cat((value, value)) for name, value in first.items()}

        def allocated(z: Latents) -> int:
            with _Allocated() as count:
                function(self.x[:1], z)
            return count.bytes

        return max(1, allocated(twice) - allocated(first))


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all that torch's operations return: a bound of what is alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes += tensor.numel() * tensor.element_size()
        return result


def chunks(num_samples: int) -> Iterator[tuple[int, int]]:
    """The first of each chunk of samples, and how many there are in it."""
    for start in range(0, num_samples, SAMPLES):
        yield start, min(SAMPLES, num_samples - start)


def blocks(
    densities: LogDensities,
    x: Tensor,
    seed: int | None,
    max_bytes: int,
    desc: str,
    num_samples: int = 0,
) -> Iterator[Block]:
    """The data in blocks of examples, with a progress bar; so many samples of each will come."""
    scorer = Scorer(densities, len(x) * num_samples)
    with progress_bar(len(x), "examples", desc) as progress:
        for index, part in enumerate(x.split(EXAMPLES)):
            yield Block(scorer, part, seed, index, max_bytes)
            progress.update(len(part))
