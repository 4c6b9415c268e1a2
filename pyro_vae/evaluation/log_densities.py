"""Log-densities of a Pyro model and guide for each example, with any latent sites."""

import copy
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.contracts import (
    PLATE,
    Refused,
    check_latent_sites,
    check_masks,
    check_observed,
    check_order,
    check_same_sites,
    check_site,
    explained,
    holes_named,
    observes_holes,
    unchanged,
)
from pyro_vae.distributions import check_analytic_kl, describe_distribution
from pyro_vae.evaluation.independence import check_independent
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.random import seeded
from pyro_vae.utils.traces import log_prob_sum

_SAMPLES = "pyro_vae.samples"
_CHECKED = 64  # Evaluations take blocks of so many examples.
_NUMBERS = 2**20  # of x, in the examples that are checked: the check has to be small, too

Latents = Mapping[str, Tensor]
"""Values of latent sites by name, with the samples in their first dimension."""


class LogDensities:
    r"""Log-densities of a Pyro model p(x, z) and guide q(z|x), for each of N examples, in nats.

    Pyro's effect handlers find the sites. There may be any number of latent and observed sites,
    which may depend on each other. All of them have to be in the plate ``"data"``; further plates
    may be inside or outside it. Masked elements (``poutine.mask``) contribute zero. Samples are
    drawn in a plate outside all others.

    Arguments:
        model, guide: Pyro programs, called with the entries of a batch, or some of its examples.
        batch: The tuple ``(x, *context)``. The first example is used to find the sites.
        observed: Whether x is data, which have to be on their supports.

    Attributes:
        programs: The model and the guide, by these names.
        latents: Names of the latent sites, in the guide's order.

    Raises:
        ValueError: A site is outside the plate ``"data"``, or the plate's size is not that of x;
            the sites change between calls; a latent site is missing in the model or the guide; a
            log-probability is scaled, or depends on other examples; the model or the guide fails
            on one example, or on two samples of two examples.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        batch: Examples,
        observed: bool = True,
    ) -> None:
        self.programs = {"model": model, "guide": guide}
        self._sites: dict[str, tuple[str, ...]] = {}
        self._sample_dim, self._data_dim = -1, -1
        # Two copies of the first example show whether a shape is fixed that should follow x.
        one = rows(batch, slice(1))
        two = tuple(entry.expand(2, *entry.shape[1:]) for entry in one)
        with torch.no_grad(), seeded(0, device=batch[0].device):
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
            with explained("work on one example, but fail on two samples of two examples"):
                z, log_q = self.draw(two, 2)
                log_p_z, log_p_x = self.score(two, z)
            for program, log_prob in (("guide", log_q), ("model", log_p_z + log_p_x)):
                if log_prob.shape != (2, 2):
                    raise ValueError(
                        f"{program}: got log-probabilities of shape {tuple(log_prob.shape)} for "
                        "two samples of two examples, expected (2, 2)"
                    )
            if observed:
                many = max(2, _NUMBERS // max(1, batch[0][0].numel()))
                self._check_independent(rows(batch, slice(min(_CHECKED, many))))

    def draw(self, batch: Examples, count: int, *, nan: bool = False) -> tuple[Latents, Tensor]:
        """Draws `count` samples of z from the guide for each x.

        Arguments:
            batch: The tuple ``(x, *context)`` of N examples.
            count: The number of samples.
            nan: Allow NaN in the log-probabilities.

        Returns:
            The samples, and log q(z|x), shape ``(count, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN, and `nan` is False.
        """
        trace = self._traced("guide", self.programs["guide"], batch, count)
        return self._values(trace), self._log_prob(trace, trace.nodes, nan)

    def draw_prior(self, batch: Examples, count: int) -> tuple[Latents, Tensor]:
        """Draws `count` samples of z from the model for each x.

        Returns:
            The samples, and log p(x|z), shape ``(count, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN.
        """
        trace = self._traced("model", self.programs["model"], batch, count)
        return self._values(trace), self._log_prob(trace, self._observed())

    def score_guide(self, batch: Examples, z: Latents) -> Tensor:
        """Returns log q(z|x), shape ``(samples, N)``; raises FloatingPointError if it is NaN."""
        return self._log_prob(trace := self._conditioned("guide", batch, z), trace.nodes)

    def score(self, batch: Examples, z: Latents, *, nan: bool = False) -> tuple[Tensor, Tensor]:
        """Returns log p(z) and log p(x|z), each of shape ``(samples, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN, and `nan` is False.
        """
        trace = self._conditioned("model", batch, z)
        return (
            self._log_prob(trace, self.latents, nan),
            self._log_prob(trace, self._observed(), nan),
        )

    def kl(self, batch: Examples, z: Latents) -> Tensor:
        """Returns KL(q, p) in closed form, shape ``(samples, N)``.

        That of each latent site is conditional on the samples z of the sites before it.

        Raises:
            ValueError: A KL has no closed form, or is infinite; or the guide draws its sites in
                another order than the model.
        """
        guide, model = (self._conditioned(name, batch, z) for name in ("guide", "model"))
        check_order(self.latents, [name for name in model.nodes if name in self.latents])
        sites = {}
        for name in self.latents:
            q, p = guide.nodes[name], model.nodes[name]
            check_analytic_kl(q["fn"], p["fn"], site=name)
            value = scale_and_mask(kl_divergence(q["fn"], p["fn"]), 1.0, q["mask"])
            sites[name] = {"log_prob": value, "scale": 1.0}
        total = log_prob_sum(sites.items(), self._others)
        return total.squeeze(self._others(total.dim()))

    def with_guide(self, guide: Callable[..., Any]) -> "LogDensities":
        """Returns the log-densities with another guide, which has the same sites."""
        other = copy.copy(self)
        other.programs = {**self.programs, "guide": guide}
        return other

    def simulated(
        self, batch: Examples, z: Latents | None = None, count: int = 1
    ) -> tuple[Latents, Latents]:
        """Draws from the model, without its observations.

        Arguments:
            batch: The examples, whose shapes and context the draws take.
            z: Samples of the latents, which are drawn too if this is None.
            count: The number of samples, if `z` is None.

        Returns:
            The latents, and the first sample of the sites that the model observes, of shape
            ``(N, ...)``, by name.
        """
        program = poutine.uncondition(self.programs["model"])
        if z is not None:
            program, count = poutine.condition(program, data=dict(z)), len(z[self.latents[0]])
        trace = self._traced("model", program, batch, count)
        return self._values(trace), self._by_example(trace)

    def distributions(
        self, program: str, batch: Examples, z: Latents
    ) -> dict[str, TorchDistributionMixin]:
        """Returns the distributions of a program's sites by name, given samples of the latents.

        Arguments:
            program: ``"model"`` or ``"guide"``.
            batch: The examples.
            z: Samples of the latents.
        """
        trace = self._conditioned(program, batch, z)
        return {name: site["fn"] for name, site in trace.nodes.items()}

    def observations(self, batch: Examples) -> Latents:
        """Returns the values that the model observes, of shape ``(N, ...)``, by site."""
        z, _ = self.draw(batch, 1)
        return self._by_example(self._conditioned("model", batch, z))

    def _by_example(self, trace: Trace) -> Latents:
        """The first sample of the observed sites, with the examples in the first dimension."""
        values = {}
        for name in self._observed():
            site = trace.nodes[name]
            value = site["value"]
            batch_dims = value.dim() - len(site["fn"].event_shape)
            missing = [None] * (-self._sample_dim - batch_dims)  # observed for all samples alike
            values[name] = value[(*missing, ...)][0].movedim(self.example_axis - 1, 0)
        return values

    def check(self, batch: Examples, z: Latents) -> None:
        """Raises ValueError unless x is on the supports of the observed sites, given z."""
        self._check_observed(self._conditioned("model", batch, z))

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
        conditioned = poutine.condition(self.programs[program], data=dict(z))
        with unchanged(z.values()):
            return self._traced(program, conditioned, batch, len(z[self.latents[0]]))

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

    def _check_independent(self, batch: Examples) -> None:
        """Raises ValueError if a log-probability depends on more than its own x and z."""
        with explained("fail on the first examples"):
            z, _ = self.draw(batch, 1, nan=True)
            others, _ = self.draw(batch, 1, nan=True)
            # Copies, since a flow that caches its last draw scores a part of it differently.
            z = {name: value.clone() for name, value in z.items()}
            trace = self._conditioned("model", batch, z)
            check_masks(self._conditioned("guide", batch, z), trace, self.latents)
            try:
                self._check_observed(trace)
            except ValueError as error:  # It says what is off the support.
                raise Refused(str(error)) from error
            check_independent(self, batch, z, others)

    def scores(self, batch: Examples, z: Latents) -> dict[str, Tensor]:
        """Returns log p(x, z), and log q(z|x) if the guide can score any z, by name.

        Point masses are left out, since rounding moves a value off their point.
        """
        model = self._conditioned("model", batch, z)
        scores = {"log p(x, z)": self._log_prob(model, _densities(model), nan=True)}
        try:
            guide = self._conditioned("guide", batch, z)
            scores["log q(z|x)"] = self._log_prob(guide, _densities(guide), nan=True)
        except Exception:  # a flow without an inverse may raise any exception
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
                f'plate "{PLATE}": got the dimensions {dims}, expected the same one in model and '
                "guide"
            )
        (self._data_dim,) = dims
        self._sample_dim = min(frame.dim for frame in frames) - 1

    def _check_observed(self, model: Trace) -> None:
        for name in self._observed():
            check_observed(name, model.nodes[name])

    def _observed(self) -> list[str]:
        """Returns the model's observed sites, in the order in which they are summed."""
        return [name for name in self._sites["model"] if name not in self.latents]

    def _values(self, trace: Trace) -> Latents:
        return {name: trace.nodes[name]["value"] for name in self.latents}

    def _log_prob(self, trace: Trace, names: Collection[str], nan: bool = False) -> Tensor:
        """Returns the sum over sites and all plates but those of samples and examples."""

        def check(name: str, site: Mapping[str, Any], log_prob: Tensor) -> None:
            if not nan and torch.isnan(log_prob).any():
                raise FloatingPointError(
                    f'site "{name}": a log-probability is NaN ({site["fn"]}), expected numbers or '
                    "-inf"
                )
            if log_prob.dim() > -self._sample_dim:
                raise Refused(
                    f'site "{name}": got a log-probability of shape {tuple(log_prob.shape)}, with '
                    "dimensions outside of all plates, expected each in a plate or in the event: "
                    ".to_event(1) makes the last one an event dimension"
                )

        sites = [(name, trace.nodes[name]) for name in names]
        total = log_prob_sum(sites, self._others, check=check)
        return total.squeeze(self._others(total.dim()))

    def _others(self, count: int) -> list[int]:
        """The dimensions, counted from the right, but for those of samples and examples."""
        own = self._sample_dim, self._data_dim
        return [dim for dim in range(-count, 0) if dim not in own]


def _densities(trace: Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if "Delta" not in describe_distribution(site["fn"])
    ]


def _counts(site: Mapping[str, Any]) -> bool:
    """Returns whether a node of a trace has a log-probability."""
    return site["type"] == "sample" and not site["infer"].get("_deterministic")
