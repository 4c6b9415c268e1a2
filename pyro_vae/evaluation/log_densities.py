"""Log-densities of a Pyro model and guide for each example, with any latent sites."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.contracts import (
    Refused,
    check_latent_sites,
    check_masks,
    check_order,
    explained,
)
from pyro_vae.distributions import check_analytic_kl, describe_distribution
from pyro_vae.evaluation.enumeration import (
    drawn_from,
    sum_out,
    summed_sites,
    summing,
)
from pyro_vae.evaluation.independence import check_independent
from pyro_vae.evaluation.traced_pair import Latents as Latents
from pyro_vae.evaluation.traced_pair import TracedPair, size_of
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.random import seeded
from pyro_vae.utils.traces import log_prob_sum

_CHECKED = 64  # Evaluations take blocks of so many examples.
_NUMBERS = 2**20  # of x, in the examples that are checked: the check has to be small, too


class LogDensities(TracedPair):
    r"""Log-densities of a Pyro model p(x, z) and guide q(z|x), for each of N examples, in nats.

    Pyro's effect handlers find the sites. There may be any number of latent and observed sites,
    which may depend on each other. All of them have to be in the plate ``"data"``; further plates
    may be inside or outside it. Masked elements (``poutine.mask``) contribute zero. Samples are
    drawn in a plate outside all others.

    Latents y of finitely many values that the model alone has are summed out. If `marginal`, so
    are those of the guide, see :func:`enumeration.summed_sites`: the densities are then those of
    the other latents z, :math:`p(x, z) = \sum_y p(x, z, y)` and
    :math:`q(z|x) = \sum_y q(y|x)\, q(z|x, y)`.

    Arguments:
        model, guide: Pyro programs, called with the entries of a batch, or some of its examples.
        batch: The tuple ``(x, *context)``. The first example is used to find the sites.
        observed: Whether x is data, which have to be on their supports.
        marginal: Whether latents of the guide are summed out.

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
        marginal: bool = False,
    ) -> None:
        super().__init__(model, guide)
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
            self._observed = tuple(drawn.observation_nodes)
            self._find_plates(guide_trace, model_trace)
            with explained("fail on the first example alone"):
                self._log_prob(guide_trace, guide_trace.nodes)
                self._log_prob(model_trace, model_trace.nodes)
            self.countable = summed_sites(drawn, guide_trace, True).guide
            self._summed = summed_sites(drawn, guide_trace, marginal)
            self.latents = tuple(n for n in self.latents if n not in self._summed.guide)
            with explained("work on one example, but fail on two samples of two examples"):
                log_q, log_p_z, log_p_x = self._scored(two)
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
        z = self._values(trace, batch, count)
        if self._summed.guide or not self.latents:
            return z, self.score_guide(batch, z, nan=nan)
        return z, self._log_prob(trace, trace.nodes, nan)

    def draw_prior(self, batch: Examples, count: int) -> tuple[Latents, Tensor]:
        """Draws `count` samples of z from the model for each x.

        Returns:
            The samples, and log p(x|z), shape ``(count, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN.
        """
        trace = self._traced("model", self.programs["model"], batch, count)
        z = self._values(trace, batch, count)
        if self._summed.model:
            return z, self.score(batch, z)[1]
        return z, self._log_prob(trace, self._observed)

    def score_guide(self, batch: Examples, z: Latents, *, nan: bool = False) -> Tensor:
        """Returns log q(z|x), shape ``(samples, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN, and `nan` is False.
        """
        if not self.latents:  # The probabilities of all values of what is summed out are one.
            return batch[0].new_zeros(size_of(z), len(batch[0]))
        return self._log_prob(trace := self._conditioned("guide", batch, z), trace.nodes, nan)

    def score(self, batch: Examples, z: Latents, *, nan: bool = False) -> tuple[Tensor, Tensor]:
        """Returns log p(z) and log p(x|z), each of shape ``(samples, N)``.

        Raises:
            FloatingPointError: A log-probability is NaN, and `nan` is False.
        """
        trace = self._conditioned("model", batch, z)
        log_p_z = self._log_prob(trace, (*self.latents, *self._summed.model), nan)
        if not self._summed.model:
            return log_p_z, self._log_prob(trace, self._observed, nan)
        # log p(x|z) is log p(x, z) - log p(z), where p(z) is not 0.
        log_p = self._log_prob(trace, trace.nodes, nan)
        here = log_p_z > -math.inf
        return log_p_z, log_p - torch.where(here, log_p_z, torch.zeros_like(log_p_z))

    def bound(self, batch: Examples, count: int) -> Tensor:
        """Draws of log p(x, z) - log q(z|x) in nats, exact over y, shape ``(count, N)``.

        They have the mean of those with a y from the guide, which is the ELBO. z is drawn for each
        value of the y that it depends on.
        """
        names, first = self.countable, self._sample_dim - 1
        guide = summing(self.programs["guide"], names, first, expand=True)
        q = self._traced("guide", guide, batch, count)
        values = {name: q.nodes[name]["value"] for name in q.stochastic_nodes}
        model = poutine.condition(self.programs["model"], data=values)
        model = summing(model, self._summed.alone, first - len(names), expand=True)
        p = self._traced("model", model, batch, count)
        log_q, log_weight = (
            log_prob_sum([(name, q.nodes[name]) for name in own], self._others)
            for own in (q.nodes, names)
        )
        dims = -self._sample_dim
        log_p = sum_out(log_prob_sum(p.nodes.items(), self._others), dims + len(names))
        weight = log_weight.exp()
        zero = torch.zeros_like(log_p[(0,) * log_p.dim()])
        expected = weight * torch.where(weight > 0, log_p - log_q, zero)
        total = expected.sum(list(range(expected.dim() - dims)))
        return total.squeeze(self._others(total.dim()))

    def kl(self, batch: Examples, z: Latents) -> Tensor:
        """Returns KL(q, p) in closed form, shape ``(samples, N)``.

        That of each latent site is conditional on the samples z of the sites before it.

        Raises:
            ValueError: A KL has no closed form, or is infinite; the guide draws its sites in
                another order than the model; or a latent is summed out.
        """
        if self._summed.model:
            raise ValueError(
                f'analytic KL: got the site "{self._summed.model[0]}", which is summed out of the '
                "prior, expected latents that the guide draws: a mixture has no KL in closed "
                "form; use a sampled KL"
            )
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
            data = {**self.drawn(batch, z), **z}
            program, count = poutine.condition(program, data=data), size_of(z)
        trace = self._traced("model", program, batch, count)
        return self._values(trace, batch, count), self._by_example(trace)

    def drawn(self, batch: Examples, z: Latents) -> Latents:
        """Draws of what is summed out of the model, given x and z, by site."""
        if not self._summed.model:
            return {}
        trace = self._conditioned("model", batch, z)
        log_joint = log_prob_sum(trace.nodes.items(), self._others)
        return drawn_from(trace, log_joint, -self._sample_dim)

    def distributions(
        self, program: str, batch: Examples, z: Latents, drawn: Latents | None = None
    ) -> dict[str, TorchDistributionMixin]:
        """Returns the distributions of a program's sites by name, given samples of the latents.

        Arguments:
            program: ``"model"`` or ``"guide"``.
            batch: The examples.
            z: Samples of the latents.
            drawn: Draws of what is summed out of the model, see :meth:`drawn`, in whose place
                there are else all its values.
        """
        if drawn:
            given = poutine.condition(self.programs[program], data={**drawn, **z})
            trace = self._traced(program, given, batch, size_of(z))
        else:
            trace = self._conditioned(program, batch, z)
        return {name: site["fn"] for name, site in trace.nodes.items()}

    def observations(self, batch: Examples) -> Latents:
        """Returns the values that the model observes, of shape ``(N, ...)``, by site."""
        z, _ = self.draw(batch, 1)
        return self._by_example(self._conditioned("model", batch, z))

    def check(self, batch: Examples, z: Latents) -> None:
        """Raises ValueError unless x is on the supports of the observed sites, given z."""
        self._check_observed(self._conditioned("model", batch, z))

    def _scored(self, batch: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """The log-densities of two samples of each example.

        Finds out whether the programs need values of summed sites that have the sizes of plates.
        """
        try:
            z, log_q = self.draw(batch, 2)
            return log_q, *self.score(batch, z)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            if not self._summed.model or self._summed.expand:
                raise
        self._summed = replace(self._summed, expand=True)
        return self._scored(batch)

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
        if not self.latents:
            return scores
        try:
            guide = self._conditioned("guide", batch, z)
            scores["log q(z|x)"] = self._log_prob(guide, _densities(guide), nan=True)
        except Exception:  # a flow without an inverse may raise any exception
            pass
        return scores


def _densities(trace: Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if "Delta" not in describe_distribution(site["fn"])
    ]
