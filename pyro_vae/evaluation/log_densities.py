"""A Pyro model and guide as log-densities of each example, whatever their sites are."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.contracts import (
    PLATE,
    Refused,
    check_latent_sites,
    check_observed,
    check_same_sites,
    check_site,
    explained,
)
from pyro_vae.distributions import describe_distribution
from pyro_vae.utils.random import seeded
from pyro_vae.utils.traces import log_prob_sum

_SAMPLES = "pyro_vae.samples"

Latents = Mapping[str, Tensor]
"""Values of latent sites by name, samples in their first dimension."""


class LogDensities:
    r"""A model p(x, z) and a guide q(z|x), as densities of each of N examples.

    By effect handlers alone: there may be any number of latent and observed sites, which depend
    on each other as they like, all inside of the plate ``"data"``, and in further plates inside or
    outside of it. What ``poutine.mask`` masks counts for nothing. A plate around all holds
    samples.

    Arguments:
        model, guide: Called with x, or a part of its examples.
        x: Examples of shape ``(N, ...)``, the first of which shows what the sites are.

    Attributes:
        latents: Names of the latent sites, in the guide's order.

    Raises:
        ValueError: A site is outside of the plate, or the plate does not have the size of x; sites
            change from call to call; a latent is not in both model and guide; a log-probability is
            scaled, or not that of an example by itself; more samples at once do not do.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], guide: Callable[[Tensor], Any], x: Tensor
    ) -> None:
        self._programs = {"model": model, "guide": guide}
        self._sites: dict[str, tuple[str, ...]] = {}
        self._sample_dim, self._data_dim = -1, -1
        # The first example twice: what is fixed where x is not shows itself.
        one, two = x[:1], x[:1].expand(2, *x.shape[1:])
        with torch.no_grad(), seeded(0, device=x.device):
            with explained("fail on the first example alone"):
                drawn, guide_trace = self._called(model, one), self._called(guide, one)
            guide_trace = self._checked("guide", guide_trace, one)
            drawn = self._checked("model", drawn, one)
            self.latents = tuple(guide_trace.stochastic_nodes)
            values = {name: guide_trace.nodes[name]["value"] for name in self.latents}
            model_trace = self._traced("model", poutine.condition(model, data=values), one)
            check_latent_sites(drawn, guide_trace, model_trace)
            self._find_plates(guide_trace, model_trace)
            with explained("fail on the first example alone"):
                self._log_prob(guide_trace, guide_trace.nodes)
                self._log_prob(model_trace, model_trace.nodes)
            with explained("do one example alone, but not two with two samples"):
                z, log_q = self.draw(two, 2)
                log_p_z, log_p_x = self.score(two, z)
            for program, log_prob in (("guide", log_q), ("model", log_p_z + log_p_x)):
                if log_prob.shape != (2, 2):
                    raise ValueError(
                        f"{program}: two samples of two examples gave log-probabilities of shape "
                        f"{tuple(log_prob.shape)}, expected (2, 2)"
                    )
            if len(x) > 1:
                self._check_apart(x[:2])

    def draw(self, x: Tensor, count: int, *, nan: bool = False) -> tuple[Latents, Tensor]:
        """So many samples of z from the guide, and log q(z|x), shape ``(count, N)``.

        Without `nan` no number raises FloatingPointError, here and below.
        """
        trace = self._traced("guide", self._programs["guide"], x, count)
        return self._values(trace), self._log_prob(trace, trace.nodes, nan)

    def draw_prior(self, x: Tensor, count: int) -> tuple[Latents, Tensor]:
        """So many samples of z from the model for each x, and log p(x|z), ``(count, N)``."""
        trace = self._traced("model", self._programs["model"], x, count)
        return self._values(trace), self._log_prob(trace, self._observed())

    def score_guide(self, x: Tensor, z: Latents) -> Tensor:
        """log q(z|x) of samples of z, shape ``(samples, N)``."""
        return self._log_prob(trace := self._conditioned("guide", x, z), trace.nodes)

    def score(self, x: Tensor, z: Latents, *, nan: bool = False) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z) of samples of z, each of shape ``(samples, N)``."""
        trace = self._conditioned("model", x, z)
        return (
            self._log_prob(trace, self.latents, nan),
            self._log_prob(trace, self._observed(), nan),
        )

    def check(self, x: Tensor, z: Latents) -> None:
        """Raises ValueError unless x is on the supports that its sites have at samples of z."""
        self._check_observed(self._conditioned("model", x, z))

    def priors(self, x: Tensor, z: Latents) -> dict[str, Distribution]:
        """The distributions of the model's latent sites, at some values of them."""
        trace = self._conditioned("model", x, z)
        return {name: trace.nodes[name]["fn"] for name in self.latents}

    def part(self, z: Latents, samples: slice, examples: slice) -> Latents:
        """Some samples of some examples."""
        index = (samples, *[slice(None)] * (self.example_axis - 1), examples)
        return {name: value[index] for name, value in z.items()}

    @property
    def example_axis(self) -> int:
        """The dimension of the examples in values of latents, whose first is that of samples."""
        return self._data_dim - self._sample_dim

    def per_pair(self, value: Tensor) -> Tensor:
        """Sums all that belongs to the same sample and example, to shape ``(samples, N)``."""
        others = [dim for dim in range(1, value.dim()) if dim != self.example_axis]
        return value.sum(others) if others else value

    def beside(self, pairs: Tensor, value: Tensor) -> Tensor:
        """Numbers of each ``(samples, N)`` in a shape that broadcasts with a latent's value."""
        shape = [1] * value.dim()
        shape[0], shape[self.example_axis] = pairs.shape
        return pairs.reshape(shape)

    def _conditioned(self, program: str, x: Tensor, z: Latents) -> Trace:
        conditioned = poutine.condition(self._programs[program], data=dict(z))
        return self._traced(program, conditioned, x, len(z[self.latents[0]]))

    def _traced(
        self, program: str, call: Callable[[Tensor], Any], x: Tensor, count: int | None = None
    ) -> Trace:
        """The sites of a call, held against those of the first."""
        return self._checked(program, self._called(call, x, count), x)

    def _called(self, call: Callable[[Tensor], Any], x: Tensor, count: int | None = None) -> Trace:
        traced = poutine.trace(call)
        if count is None:
            return traced.get_trace(x)
        with pyro.plate(_SAMPLES, count, dim=self._sample_dim):
            return traced.get_trace(x)

    def _checked(self, program: str, trace: Trace, x: Tensor) -> Trace:
        trace = prune_subsample_sites(trace)
        for name in [n for n, site in trace.nodes.items() if not _counts(site)]:
            trace.remove_node(name)
        for name, site in trace.nodes.items():
            check_site(program, name, site, len(x))
        sites = self._sites.setdefault(program, tuple(trace.nodes))
        check_same_sites(program, trace.nodes, sites)
        return trace

    def _check_apart(self, pair: Tensor) -> None:
        """Raises ValueError where log-probabilities depend on other examples, or on the place."""
        with explained("fail on the first two examples"):
            z, _ = self.draw(pair, 1, nan=True)
            # Copies: a flow that remembers what it drew would score a part of it otherwise.
            z = {name: value.clone() for name, value in z.items()}
            trace = self._conditioned("model", pair, z)
        self._check_observed(trace)
        with explained("fail on the first two examples"):
            both = self._scores(pair, z)
            for index in range(2):
                own = slice(index, index + 1)
                alone = self._scores(pair[own], self.part(z, slice(None), own))
                for name in both.keys() & alone.keys():
                    beside = both[name][..., own]
                    if beside.shape != alone[name].shape or not torch.allclose(
                        beside, alone[name], rtol=1e-3, atol=1e-3, equal_nan=True
                    ):
                        raise Refused(
                            f"model, guide: {name} of example {index} is {_numbers(alone[name])}, "
                            f"and {_numbers(beside)} in a batch of two, expected the same: each "
                            "example by itself and wherever it stands, no batch norm or dropout "
                            "in train mode"
                        )

    def _scores(self, x: Tensor, z: Latents) -> dict[str, Tensor]:
        """log p(x, z), and log q(z|x) where the guide can score what it did not just draw.

        Without point masses, which a rounding moves off their point.
        """
        model = self._conditioned("model", x, z)
        scores = {"log p(x, z)": self._log_prob(model, _densities(model), nan=True)}
        try:
            guide = self._conditioned("guide", x, z)
            scores["log q(z|x)"] = self._log_prob(guide, _densities(guide), nan=True)
        except Exception:  # flows without an inverse raise what they like
            pass
        return scores

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
                f'plate "{PLATE}": has the dimensions {dims}, expected one in model and guide'
            )
        (self._data_dim,) = dims
        self._sample_dim = min(frame.dim for frame in frames) - 1

    def _check_observed(self, model: Trace) -> None:
        for name in self._observed():
            check_observed(name, model.nodes[name])

    def _observed(self) -> list[str]:
        """The model's other sites, in their order, in which they are summed."""
        return [name for name in self._sites["model"] if name not in self.latents]

    def _values(self, trace: Trace) -> Latents:
        return {name: trace.nodes[name]["value"] for name in self.latents}

    def _log_prob(self, trace: Trace, names: Collection[str], nan: bool = False) -> Tensor:
        """The sum over sites and over all plates but those of samples and examples."""
        sample_dim, data_dim = self._sample_dim, self._data_dim

        def others(count: int) -> list[int]:
            return [dim for dim in range(-count, 0) if dim not in (sample_dim, data_dim)]

        def check(name: str, site: Mapping[str, Any], log_prob: Tensor) -> None:
            if not nan and torch.isnan(log_prob).any():
                raise FloatingPointError(
                    f'site "{name}": a log-probability is NaN ({site["fn"]}), expected numbers or '
                    "-inf"
                )
            if log_prob.dim() > -sample_dim:
                raise Refused(
                    f'site "{name}": has a log-probability of shape {tuple(log_prob.shape)} '
                    "outside of all plates, expected its dimensions in plates or in the event: "
                    ".to_event(1) makes one of an event"
                )

        total = log_prob_sum([(name, trace.nodes[name]) for name in names], others, check=check)
        return total.squeeze(others(total.dim()))


def _densities(trace: Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if "Delta" not in describe_distribution(site["fn"])
    ]


def _numbers(value: Tensor) -> str:
    return ", ".join(f"{number:.6g}" for number in value.flatten().tolist())


def _counts(site: Mapping[str, Any]) -> bool:
    """Whether a node of a trace has a log-probability of its own."""
    return site["type"] == "sample" and not site["infer"].get("_deterministic")
