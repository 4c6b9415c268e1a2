"""Traces of a Pyro model and guide with many samples of each example."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.contracts import (
    PLATE,
    Refused,
    check_observed,
    check_same_sites,
    check_site,
    holes_named,
    observes_holes,
    unchanged,
)
from pyro_vae.evaluation.enumeration import Summed, is_summed, sum_out, summing
from pyro_vae.utils.context import Examples
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["Latents", "TracedPair", "size_of"]

_SAMPLES = "pyro_vae.samples"
_NOTHING = "pyro_vae.nothing"  # stands in z for latents that are all summed out

Latents = Mapping[str, Tensor]
"""Values of latent sites by name, with the samples in their first dimension."""


def size_of(z: Latents) -> int:
    """The number of samples."""
    return len(next(iter(z.values())))


class TracedPair:
    """A Pyro model and guide, traced in a plate of samples outside all others.

    Arguments:
        model, guide: Pyro programs, called with the entries of a batch, or some of its examples.

    Attributes:
        programs: The model and the guide, by these names.
        latents: Names of the latent sites in z, in the guide's order.
        countable: Names of the guide's latent sites y that can be summed out.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        self.programs = {"model": model, "guide": guide}
        self.latents: tuple[str, ...] = ()
        self.countable: tuple[str, ...] = ()
        self._sites: dict[str, tuple[str, ...]] = {}
        self._observed: tuple[str, ...] = ()
        self._summed = Summed()
        self._sample_dim, self._data_dim = -1, -1

    @property
    def entries(self) -> tuple[str, ...]:
        """The names in z: those of the latents, or of what stands for none."""
        return self.latents or (_NOTHING,)

    def part(self, z: Latents, samples: slice, examples: slice) -> Latents:
        """Returns the given samples of the given examples."""
        index = (samples, *[slice(None)] * (self.example_axis - 1), examples)
        return {name: value[index] for name, value in z.items()}

    @property
    def example_axis(self) -> int:
        """The dimension of the examples in a latent site's value."""
        return self._data_dim - self._sample_dim

    def sum_per_draw(self, value: Tensor) -> Tensor:
        """Sums over all dimensions but those of samples and examples: ``(samples, N)``."""
        others = [dim for dim in range(1, value.dim()) if dim != self.example_axis]
        return value.sum(others) if others else value

    def broadcastable(self, numbers: Tensor, value: Tensor) -> Tensor:
        """Reshapes a ``(samples, N)`` tensor so that it broadcasts with a latent site's value."""
        shape = [1] * value.dim()
        shape[0], shape[self.example_axis] = numbers.shape
        return numbers.reshape(shape)

    def _conditioned(self, program: str, batch: Examples, z: Latents) -> Trace:
        """The trace of a call with given latents, and all values of those that are summed out."""
        data, names = {name: z[name] for name in self.latents}, self._summed.of(program)
        conditioned = poutine.condition(self.programs[program], data=data)
        call = summing(conditioned, names, self._sample_dim - 1, self._summed.expand)
        with unchanged(z.values()):
            trace = self._traced(program, call, batch, size_of(z))
        for name in names:
            trace.nodes[name]["mask"] = None  # The probabilities of its values are to add up.
        return trace

    def _traced(
        self, program: str, call: Callable[..., Any], batch: Examples, count: int | None = None
    ) -> Trace:
        """Returns the trace of a call, whose sites are checked against the first call's."""
        return self._checked(program, self._called(call, batch, count), batch)

    def _called(
        self, call: Callable[..., Any], batch: Examples, count: int | None = None
    ) -> Trace:
        traced = poutine.trace(call)
        takes = partial(observes_holes, self.programs["model"], batch)
        with unchanged(batch), holes_named(batch[0], "guide", takes):
            if count is None:
                return traced.get_trace(*batch)
            with pyro.plate(_SAMPLES, count, dim=self._sample_dim):
                return traced.get_trace(*batch)

    def _checked(self, program: str, trace: Trace, batch: Examples) -> Trace:
        trace = prune_subsample_sites(trace)
        for name in [n for n, site in trace.nodes.items() if not _counts(site)]:
            trace.remove_node(name)
        for name, site in trace.nodes.items():
            check_site(program, name, site, len(batch[0]))
        sites = self._sites.setdefault(program, tuple(trace.nodes))
        check_same_sites(program, trace.nodes, sites)
        return trace

    def _by_example(self, trace: Trace) -> Latents:
        """The first sample of the observed sites, with the examples in the first dimension."""
        values = {}
        for name in self._observed:
            site = trace.nodes[name]
            value = site["value"]
            batch_dims = value.dim() - len(site["fn"].event_shape)
            missing = [None] * (-self._sample_dim - batch_dims)  # observed for all samples alike
            values[name] = value[(*missing, ...)][0].movedim(self.example_axis - 1, 0)
        return values

    def _find_plates(self, *traces: Trace) -> None:
        frames = {
            frame
            for trace in traces
            for site in trace.nodes.values()
            for frame in site["cond_indep_stack"]
        }
        dims = sorted({frame.dim for frame in frames if frame.name == PLATE})
        if len(dims) > 1:
            raise ValueError(
                f'plate "{PLATE}": got the dimensions {dims}, expected the same one in model and '
                "guide"
            )
        (self._data_dim,) = dims
        self._sample_dim = min(frame.dim for frame in frames) - 1

    def _check_observed(self, model: Trace) -> None:
        for name in self._observed:
            check_observed(name, model.nodes[name])

    def _values(self, trace: Trace, batch: Examples, count: int) -> Latents:
        if not self.latents:
            shape = [1] * (self.example_axis + 1)
            shape[0], shape[-1] = count, len(batch[0])
            return {_NOTHING: batch[0].new_zeros(shape)}
        return {name: trace.nodes[name]["value"] for name in self.latents}

    def _log_prob(self, trace: Trace, names: Collection[str], nan: bool = False) -> Tensor:
        """Returns the sum over sites and all plates but those of samples and examples.

        The values of sites that are summed out are on the left, and their probabilities added.
        """
        plates = -self._sample_dim
        most = plates + sum(map(is_summed, trace.nodes.values()))

        def check(name: str, site: Mapping[str, Any], log_prob: Tensor) -> None:
            if not nan and torch.isnan(log_prob).any():
                raise FloatingPointError(
                    f'site "{name}": a log-probability is NaN ({site["fn"]}), expected numbers or '
                    "-inf"
                )
            if log_prob.dim() > most:
                raise Refused(
                    f'site "{name}": got a log-probability of shape {tuple(log_prob.shape)}, with '
                    "dimensions outside of all plates, expected each in a plate or in the event: "
                    ".to_event(1) makes the last one an event dimension"
                )

        sites = [(name, trace.nodes[name]) for name in names]
        total = sum_out(log_prob_sum(sites, self._others, check=check), plates)
        return total.squeeze(self._others(total.dim()))

    def _others(self, count: int) -> list[int]:
        """The dimensions of plates, counted from the right, but for samples and examples."""
        first = max(-count, self._sample_dim)
        return [dim for dim in range(first, 0) if dim not in (self._sample_dim, self._data_dim)]


def _counts(site: Mapping[str, Any]) -> bool:
    """Returns whether a node of a trace has a log-probability."""
    return site["type"] == "sample" and not site["infer"].get("_deterministic")
