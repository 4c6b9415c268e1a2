"""Free bits: a KL that counts from a threshold up, for each latent dimension."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, kl_divergence

from pyro_vae.contracts import PLATE
from pyro_vae.distributions import describe_distribution
from pyro_vae.objectives.importance_weighted import ImportanceWeightedELBO
from pyro_vae.objectives.registry import named
from pyro_vae.objectives.traits import Traits
from pyro_vae.objectives.wrapper import layers
from pyro_vae.utils.checks import check_count, check_mapping, check_number, plain
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["FreeBitsELBO", "free_bits"]


@named
def free_bits(nats: float | Mapping[str, float], num_particles: int = 1) -> "FreeBitsELBO":
    r"""Free bits, :math:`-E_q[\log p(x|z)] + \sum_j \max(\lambda, E_x[KL(q_j, p_j)])`.

    The KL of each latent dimension j is averaged over the batch, and counts as at least
    :math:`\lambda` nats, so that the gradient does not push it below. The loss is summed over
    examples, so the sum over j is multiplied by their number; masked ones do not count. The KL is
    in closed form where torch has one for the dimension's two distributions, and otherwise from
    the samples. It is from the samples too where the model draws another latent site before it
    that the guide draws after it, as in a bottom-up :class:`~pyro_vae.models.HierarchicalVAE`: the
    term :math:`E_q[\log q_j - \log p_j]` is then no KL, and may be negative.

    Prior and posterior must factorize over the latent dimensions: ``Independent`` univariate
    distributions. :class:`History` has the KL itself beside the objective's value.

    Source: Kingma et al. (2016), arXiv 1606.04934, appendix C.8, equation 15.

    Arguments:
        nats: The free nats of each latent dimension, :math:`\lambda`, from 0 up; or a mapping from
            names of latent sites to those of their dimensions, where others have none.
        num_particles: Number of samples of z for each example. They are vectorized.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `nats` is neither a number nor a mapping to numbers.
        ValueError: `nats` is not a finite number from 0 up, or `num_particles` is not a positive
            integer. At a loss: a latent site does not factorize, is not reparameterized, or is
            outside of the plate ``"data"``; `nats` has a site that the guide has not.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.free_bits(0.5)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("num_particles", num_particles)
    if not isinstance(nats, Mapping):
        check_number("nats", nats, 0)
        return FreeBitsELBO(plain(num_particles), float(plain(nats)))
    check_mapping("nats", nats, "names of latent sites to numbers")
    for name, own in nats.items():
        check_number(f"nats[{name!r}]", own, 0)
    by_site = {name: float(plain(own)) for name, own in nats.items()}
    return FreeBitsELBO(plain(num_particles), by_site)


class FreeBitsELBO(ImportanceWeightedELBO):
    """A negative ELBO whose KL counts from a threshold up; see :func:`objectives.free_bits`.

    Arguments:
        num_particles: Number of samples of z for each example.
        nats: The threshold of each latent dimension, or a mapping from sites to it.

    Attributes:
        by_batch: Whether the KL is averaged over the batch of the loss. If False, that batch is a
            share of a larger one, see :meth:`over`.
    """

    def __init__(self, num_particles: int, nats: float | Mapping[str, float]) -> None:
        super().__init__(num_particles, _mean, linear=True)
        # A tuple, since a change of it has to be seen by compiled code.
        self.nats = tuple(sorted(nats.items())) if isinstance(nats, Mapping) else nats
        self.by_batch = True
        # The dimensions above the threshold in the whole batch. They change in place, so that a
        # compiled loss reads them.
        self._above: dict[tuple[str, torch.Size, torch.device], Tensor] = {}

    @property
    def traits(self) -> Traits:
        """The traits of the objective, which is no ELBO."""
        return Traits(is_static=True, is_sum=False)

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, summed over examples."""
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        model_trace, guide_trace = self._vectorized_traces(model, guide, args, kwargs)
        observed = [
            (name, site)
            for name, site in model_trace.nodes.items()
            if site["type"] == "sample" and site["is_observed"]
        ]
        loss = -log_prob_sum(observed) / self.num_particles
        if isinstance(self.nats, tuple):
            _check_sites([name for name, _ in self.nats], guide_trace.stochastic_nodes)
        for name in guide_trace.stochastic_nodes:
            loss = loss + self._kl(name, guide_trace, model_trace)
        warn_if_nan(loss, "loss")
        return loss

    @torch.no_grad()
    def kl_sums(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The number of terms and the sum of the KL, in each dimension of each latent site.

        Returns:
            For each site a tensor of shape ``(2, *event_shape)``.
        """
        model_trace, guide_trace = self._vectorized_traces(model, guide, args, kwargs)
        return {
            name: torch.stack(self._sums(name, guide_trace, model_trace))
            for name in guide_trace.stochastic_nodes
        }

    @contextmanager
    def over(self, sums: Mapping[str, Tensor]) -> Iterator[None]:
        """A context in which batches are shares of a larger one, over which the KL is averaged.

        The losses of the shares then add up to that of the whole.

        Arguments:
            sums: The sums of :meth:`kl_sums` over the whole batch.
        """
        for name, (count, total) in sums.items():
            above = ~(total < self._free(name) * count)  # NaN counts, so that it is seen.
            key = name, above.shape, above.device
            self._above.setdefault(key, above.clone()).copy_(above)
        self.by_batch = False
        try:
            yield
        finally:
            self.by_batch = True

    def _kl(self, name: str, guide: Trace, model: Trace) -> Tensor:
        """The KL of a site over its dimensions, each of at least the free nats."""
        count, total = self._sums(name, guide, model)
        if self.by_batch:
            mean = total / count.clamp_min(1)
            counted = count * mean.clamp_min(self._free(name))
        else:
            above = self._above[name, total.shape, total.device]
            counted = torch.where(above, total, count * self._free(name))
        scaled: Tensor = (guide.nodes[name]["scale"] * counted / self.num_particles).sum()
        return scaled

    def _free(self, name: str) -> float:
        """The free nats of each dimension of a site."""
        return dict(self.nats).get(name, 0.0) if isinstance(self.nats, tuple) else self.nats

    def _sums(self, name: str, guide: Trace, model: Trace) -> tuple[Tensor, Tensor]:
        """The number of terms and the sum of the KL, in each dimension of a site."""
        q, p = guide.nodes[name], model.nodes[name]
        scale = q["scale"]
        if isinstance(scale, Tensor) and scale.dim():
            raise ValueError(
                f'site "{name}": its log-probability has a scale of shape {tuple(scale.shape)}, '
                "expected a number: the KL is averaged over the examples"
            )
        plates = [frame for frame in q["cond_indep_stack"] if frame.name == PLATE]
        if not plates:
            raise ValueError(
                f'site "{name}": outside of the plate "{PLATE}", expected it inside: its KL is '
                "averaged over the examples"
            )
        kl = _by_dimension(name, q, p, closed=_is_conditional(name, guide, model))
        event_dims = len(q["fn"].event_shape)
        example = kl.dim() - event_dims + plates[0].dim
        # The plate of the particles is on the left of all others.
        dims = (0, example) if self.num_particles > 1 else (example,)
        mask = torch.ones((), device=kl.device) if q["mask"] is None else q["mask"]
        mask = torch.as_tensor(mask, device=kl.device)
        mask = mask[(..., *[None] * event_dims)].expand(kl.shape)
        count = mask.sum(dims).to(kl.dtype)
        return count, torch.where(mask.bool(), kl, 0.0).sum(dims)


def free_bits_of(elbo: ELBO) -> FreeBitsELBO | None:
    """The layer of an objective that has free bits, or None."""
    return next((each for each in layers(elbo) if isinstance(each, FreeBitsELBO)), None)


def _mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


def _univariate(distribution: Any) -> Any:
    """The distribution of one dimension, if it factorizes; else some with an event shape."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, TransformedDistribution):
        transforms = distribution.transforms
        if not any(t.domain.event_dim or t.codomain.event_dim for t in transforms):
            return TransformedDistribution(_univariate(distribution.base_dist), transforms)
    return distribution


def _check_sites(named: Sequence[str], sites: Sequence[str]) -> None:
    """Raises ValueError unless named sites are latent sites of the guide."""
    if unknown := [name for name in named if name not in sites]:
        raise ValueError(
            f"nats: got the sites {', '.join(unknown)}, expected some of {', '.join(sites)}, the "
            "latent sites of the guide"
        )


def _is_conditional(name: str, guide: Trace, model: Trace) -> bool:
    """Whether the guide draws all sites before a site that the model draws before it.

    Its KL in closed form is conditional on them. Any other would leave out that they depend on it.
    """
    before = [list(trace.nodes) for trace in (guide, model)]
    own, theirs = (set(names[: names.index(name)]) for names in before)
    return theirs & set(guide.stochastic_nodes) <= own


def _by_dimension(name: str, q: Any, p: Any, closed: bool) -> Tensor:
    """The KL of each latent dimension, of the shape of the site's value.

    Arguments:
        name: The site's name.
        q, p: The site in the guide and in the model.
        closed: Whether it may be in closed form.
    """
    bases = []
    for program, site in (("guide", q), ("model", p)):
        base = _univariate(site["fn"])
        if base.event_shape:
            raise ValueError(
                f'site "{name}": the {program} has {describe_distribution(site["fn"])}, expected '
                "a distribution that factorizes over the latent dimensions, such as "
                "Normal(...).to_event(1): free bits are counted for each of them"
            )
        bases.append(base)
    value = q["value"]
    try:
        if not closed:
            raise NotImplementedError
        kl = kl_divergence(*bases)
    except NotImplementedError:
        kl = bases[0].log_prob(value) - bases[1].log_prob(value)
    return kl.expand(value.shape)
