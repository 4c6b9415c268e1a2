"""Blocks of examples, each with random streams of its own, evaluated in bounded memory.

A *draw* is one sample of the latents for one example: K samples of N examples are K N draws.
"""

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
from pyro_vae.evaluation.memory_limit import MaxBytes, bytes_for
from pyro_vae.evaluation.scorer import Scorer
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded, streams

# Each block of examples and chunk of samples has a random stream of its own. The sizes are fixed,
# so that the noise of an estimate does not depend on the memory limit.
EXAMPLES = 64
SAMPLES = CHUNK

_PRIOR_SAMPLES = 8  # samples that the model draws in one call, for all examples of a block
# A CPU step is slow if it outgrows the caches, or if it has too few draws to repay its calls.
# Compiled code allocates at most half of the bytes that are counted for it.
_CPU_STEP_BYTES = 2**26
_CPU_STEP_DRAWS = 512


DrawFunction = Callable[[Examples, Latents], tuple[Tensor, ...]]
"""A function of a batch and z that returns tensors of shape ``(samples, N, ...)``."""


@dataclass
class Block:
    """A block of examples with its random streams.

    Attributes:
        scorer: Draws and scores samples of the latents.
        batch: The examples, ``(x, *context)``.
        seed: The seed of the estimate, or None.
        index: The number of the block, from 0.
        max_bytes: A bound on the bytes that one step of the model allocates.
    """

    scorer: Scorer
    batch: Examples
    seed: int | None
    index: int
    max_bytes: int

    @property
    def x(self) -> Tensor:
        """The examples without their context, shape ``(N, *x_shape)``."""
        return self.batch[0]

    @property
    def densities(self) -> LogDensities:
        """The log-densities of the model and guide."""
        return self.scorer.densities

    def stream(self, *key: int) -> AbstractContextManager[None]:
        """Returns a context with the random stream `key` of this block."""
        return seeded(self.seed, self.index, *key, device=self.x.device)

    def samples(
        self, num_samples: int, closed_kl: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws z from the guide; yields log p(x|z) and log q(z|x) - log p(z) in chunks.

        Both have the shape ``(samples, N)`` and are in nats.

        Arguments:
            num_samples: The number of samples of z for each example.
            closed_kl: Yields the KL in closed form in place of the difference.
        """

        def kl(batch: Examples, z: Latents) -> tuple[Tensor, ...]:
            return (self.densities.kl(batch, z),)

        for start, z, log_q in self.draws(num_samples):
            log_p_z, log_p_x = self.score(z, check=start == 0)
            yield log_p_x, self.in_steps(kl, z)[0] if closed_kl else log_q - log_p_z

    def draws(self, num_samples: int) -> Iterator[tuple[int, Latents, Tensor]]:
        """Draws z from the guide; yields the number of the first sample, z and log q(z|x).

        A CPU takes one chunk at a time, which stays in its caches, and a GPU as many as its memory
        allows.
        """
        if not _takes_many(self.x.device):
            for start, count, stream in self._streams(num_samples):
                with stream:
                    z, log_q = self.scorer.draw(self.batch, count)
                yield start, z, log_q
            return
        with seeded(0, device=self.x.device):
            one, _ = self.densities.draw(rows(self.batch, slice(1)), 1)
        draws = self._draws_per_step(self.densities.score, one)
        together = max(1, draws // (SAMPLES * len(self.x)))
        all_chunks = chunks(num_samples)
        while some := list(islice(all_chunks, together)):
            with streams(self.seed, self.x.device) as begin:
                drawn = []
                for start, count in some:
                    begin(self.index, start)
                    drawn.append(self.scorer.draw(self.batch, count, check=False))
            z = {name: torch.cat([each[name] for each, _ in drawn]) for name in drawn[0][0]}
            log_q = torch.cat([each for _, each in drawn])
            self.scorer.check(self.batch, z, log_q)
            yield some[0][0], z, log_q

    def _streams(
        self, num_samples: int
    ) -> Iterator[tuple[int, int, AbstractContextManager[None]]]:
        """Yields the start and size of each chunk of samples, with its random stream.

        Twelve streams are made at a time. Made one by one, each is slower, since NumPy's code has
        left the CPU's caches since the last chunk.
        """
        all_chunks = chunks(num_samples)
        while some := list(islice(all_chunks, 12)):
            yield from [(start, count, self.stream(start)) for start, count in some]

    def draw_prior(self, count: int) -> tuple[Latents, Tensor]:
        """Draws `count` samples of z from the prior for each x.

        The model draws and scores 8 samples of all examples at a time, whatever the memory limit,
        so that a stream always gives the same draws.

        Returns:
            The samples, and log p(x|z) in nats, shape ``(count, N)``.
        """
        drawn = [
            self.densities.draw_prior(self.batch, min(_PRIOR_SAMPLES, count - first))
            for first in range(0, count, _PRIOR_SAMPLES)
        ]
        z = {name: torch.cat([part[name] for part, _ in drawn]) for name in drawn[0][0]}
        return z, torch.cat([log_p_x for _, log_p_x in drawn])

    def score(self, z: Latents, check: bool = False) -> tuple[Tensor, Tensor]:
        """Returns log p(z) and log p(x|z) in nats, each of shape ``(samples, N)``.

        Arguments:
            z: Samples of the latents for each example.
            check: Also check that x is on the supports of the observed sites.

        Raises:
            ValueError: x is off a support.
            FloatingPointError: A log-probability is NaN.
        """
        if check:
            self.check(z)
        # A compiled function hides what it allocates, so the uncompiled one is measured.
        compiled = self.scorer.compiles
        log_p_z, log_p_x = self.in_steps(self.scorer.score, z, self.densities.score, compiled)
        return log_p_z, log_p_x

    def check(self, z: Latents) -> None:
        """Raises ValueError unless x is on the supports that the first sample of z gives."""
        step = self._draws_per_step(self.densities.score, z)
        for first in range(0, len(self.x), step):
            examples = slice(first, first + step)
            self.densities.check(
                rows(self.batch, examples), self.densities.part(z, slice(1), examples)
            )

    def in_steps(
        self,
        function: DrawFunction,
        z: Latents,
        measured: DrawFunction | None = None,
        compiled: bool = False,
    ) -> tuple[Tensor, ...]:
        """Evaluates a function of the batch and z in steps of bounded memory.

        Arguments:
            function: Returns tensors of shape ``(samples, N, ...)``.
            z: Samples of the latents for each example.
            measured: The function whose allocations set the number of draws a step; None is
                `function` itself.
            compiled: Whether `function` is compiled, which doubles the bytes of a CPU step.

        Returns:
            The tensors of `function` for all samples and examples.
        """
        count = len(next(iter(z.values())))
        draws = self._draws_per_step(measured or function, z, compiled)
        num_examples = min(draws, len(self.x))
        num_samples = max(1, draws // num_examples)
        results: tuple[Tensor, ...] = ()
        for first in range(0, len(self.x), num_examples):
            examples = slice(first, first + num_examples)
            for start in range(0, count, num_samples):
                samples = slice(start, start + num_samples)
                parts = function(
                    rows(self.batch, examples), self.densities.part(z, samples, examples)
                )
                # Results are copied into one tensor. Kept as they come, they would lie between
                # the blocks that steps allocate and free, and fragment the memory.
                results = results or tuple(
                    part.new_empty(count, len(self.x), *part.shape[2:]) for part in parts
                )
                for result, part in zip(results, parts, strict=True):
                    result[samples, examples] = part
        return results

    def _draws_per_step(self, function: DrawFunction, z: Latents, compiled: bool = False) -> int:
        known, key = self.scorer.bytes_per_draw, function.__code__
        if key not in known:
            known[key] = self._bytes_per_draw(function, z)
        draws = max(1, self.max_bytes // known[key])
        if self.x.device.type == "cpu":
            most = max(_CPU_STEP_DRAWS, (1 + compiled) * _CPU_STEP_BYTES // known[key])
            # Chunks and blocks are powers of two: so is this, and steps have the same shape.
            draws = min(draws, 2 ** round(math.log2(most)))
        return draws

    def _bytes_per_draw(self, function: DrawFunction, z: Latents) -> int:
        """Returns the bytes that torch allocates for one more draw."""
        first = self.densities.part(z, slice(1), slice(1))
        twice = {name: torch.cat((value, value)) for name, value in first.items()}

        def allocated(z: Latents) -> int:
            with _Allocated() as count:
                function(rows(self.batch, slice(1)), z)
            return count.bytes

        return max(1, allocated(twice) - allocated(first))


class _Allocated(TorchDispatchMode):
    """Counts the bytes that torch's operations return, a bound on those in use at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes += tensor.numel() * tensor.element_size()
        return result


def _takes_many(device: torch.device) -> bool:
    """Whether a device scores many chunks of samples in one go."""
    return device.type != "cpu"


def chunks(num_samples: int) -> Iterator[tuple[int, int]]:
    """Yields the start and the size of each chunk of samples."""
    for start in range(0, num_samples, SAMPLES):
        yield start, min(SAMPLES, num_samples - start)


def blocks(
    densities: LogDensities,
    batch: Examples,
    seed: int | None,
    max_bytes: MaxBytes,
    desc: str,
    num_samples: int = 0,
    takes: Callable[[int], bool] = lambda index: True,
) -> Iterator[Block]:
    """Yields the data in blocks of 64 examples, with a progress bar.

    Arguments:
        densities: The log-densities of the model and guide.
        batch: The data, ``(x, *context)``.
        seed: The seed of the estimate, or None.
        max_bytes: A bound on the bytes that one step of the model allocates, see
            :func:`bytes_for`.
        desc: The label of the progress bar.
        num_samples: Samples of each example that will be scored: many of them are compiled for.
        takes: Whether the block with a number is yielded.
    """
    total, limit = len(batch[0]), bytes_for(max_bytes, batch[0].device)
    scorer = Scorer(densities, total * num_samples)
    with progress_bar(total, "examples", desc) as progress:
        for index, first in enumerate(range(0, total, EXAMPLES)):
            block = Block(scorer, rows(batch, slice(first, first + EXAMPLES)), seed, index, limit)
            if takes(index):
                yield block
            progress.update(len(block.x))
