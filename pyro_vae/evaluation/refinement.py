"""Refinement of a guide for each example: the best member of its family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Independent, TransformedDistribution, transform_to
from torch.nn.modules.module import Module

from pyro_vae.contracts import call
from pyro_vae.distributions import Completed, describe_distribution
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.pair import Pair
from pyro_vae.utils.context import Examples, expanded, given
from pyro_vae.vae import VAE

_CHUNK = 64  # samples that are drawn at a time


class Bound(ABC):
    """Samples of log p(x, z) - log q(z|x) for some examples, whose guide can be refined."""

    @abstractmethod
    def __call__(self, count: int) -> Tensor:
        """Returns `count` samples for each x in nats, shape ``(count, N)``."""

    @abstractmethod
    def refined(self) -> AbstractContextManager[list[Tensor]]:
        """A context in which the guide has numbers of its own for each example; yields them."""

    def mean(self, num_samples: int) -> Tensor:
        """Returns the mean of the samples for each x in float64, shape ``(N,)``."""
        sizes = [_CHUNK] * (num_samples // _CHUNK) + [num_samples % _CHUNK]
        sums = [self(size).double().sum(0) for size in sizes if size]
        return torch.stack(sums).sum(0) / num_samples


def bound_of(pair: Pair, densities: LogDensities, batch: Examples) -> Bound:
    """The bound of some examples, refined by what the posterior's network gives, or by its sites.

    Arguments:
        pair: The pair.
        densities: Its log-densities.
        batch: The examples with their context.
    """
    network = _network(pair.posterior) if isinstance(pair, VAE) else None
    if isinstance(pair, VAE) and network is not None and not densities.countable:
        return _NetworkBound(pair, network, batch)
    return _SiteBound(pair, densities, batch)


def _network(posterior: nn.Module) -> nn.Module | None:
    """The network of a posterior, or of the posterior that it wraps."""
    inner: object = posterior
    while isinstance(inner, nn.Module) and not hasattr(inner, "network"):
        inner = getattr(inner, "posterior", None)
    network = getattr(inner, "network", None)
    return network if isinstance(network, nn.Module) else None


class _NetworkBound(Bound):
    """The bound of a VAE, refined by the output of its posterior's network.

    The prior is that of the beginning, also where it shares a network with the posterior.
    """

    def __init__(self, vae: VAE, network: nn.Module, batch: Examples) -> None:
        self.vae = vae
        self.network = network
        self.x, *self.context = batch
        self.p_z = call(vae, "prior", context=self.context)

    def __call__(self, count: int) -> Tensor:
        q_z = call(self.vae, "posterior", self.x, context=self.context)
        if not q_z.has_rsample:
            raise ValueError(
                f"posterior: got {describe_distribution(q_z)}, which has no rsample, expected a "
                "reparameterized distribution"
            )
        z = q_z.rsample((count,))
        own = expanded(self.context, z.shape[:-1])
        log_p_x = call(self.vae, "likelihood", z, context=own).log_prob(self.x)
        return log_p_x + self.p_z.log_prob(z) - q_z.log_prob(z)

    @contextmanager
    def refined(self) -> Iterator[list[Tensor]]:
        numbers = given(self.network, self.x, self.context).clone().requires_grad_()
        hook = self.network.register_forward_hook(_replace_output(numbers))
        try:
            yield [numbers]
        finally:
            hook.remove()


def _replace_output(numbers: Tensor) -> Callable[[Module, object, Tensor], Tensor]:
    """Returns a hook that replaces the output of a network."""
    return lambda module, arguments, output: numbers


class _SiteBound(Bound):
    """The bound of a pair, refined by the parameters of each distribution of its guide.

    A number is added to each parameter of each example, in an unconstrained space. Where a site
    depends on other latent sites, it still does so. The bound is exact over discrete sites.
    """

    def __init__(self, pair: Pair, densities: LogDensities, batch: Examples) -> None:
        self.batch = batch
        self._shifts = _Shifts(densities.countable)
        # The same sites as those of `densities`, with a guide whose distributions are shifted.
        self._densities = densities.with_guide(self._shifts(pair.guide))

    def __call__(self, count: int) -> Tensor:
        if self._densities.countable:
            return self._densities.bound(self.batch, count)
        z, log_q = self._densities.draw(self.batch, count)
        log_p_z, log_p_x = self._densities.score(self.batch, z)
        return log_p_z + log_p_x - log_q

    @contextmanager
    def refined(self) -> Iterator[list[Tensor]]:
        self._shifts.begin()
        try:
            self._densities.draw(self.batch, 1)
            yield self._shifts.numbers
        finally:
            self._shifts.end()


class _Shifts(Messenger):
    """Shifts the parameters of the guide's distributions, by numbers for each example.

    Arguments:
        summed: The sites that are summed out, which need no gradient of their draws.
    """

    def __init__(self, summed: Collection[str] = ()) -> None:
        super().__init__()
        self.summed = summed
        self._by_site: dict[str, dict[str, Tensor]] | None = None

    def begin(self) -> None:
        """Starts to shift, by zero."""
        self._by_site = {}

    def end(self) -> None:
        """Leaves the distributions as they are."""
        self._by_site = None

    @property
    def numbers(self) -> list[Tensor]:
        """The numbers of all sites."""
        return [number for shifts in (self._by_site or {}).values() for number in shifts.values()]

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if self._by_site is None or msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        if site_is_subsample(msg):
            return
        if not fn.has_rsample and name not in self.summed:
            raise ValueError(
                f'site "{name}": the guide has {describe_distribution(fn)}, which has no rsample, '
                "expected a reparameterized distribution"
            )
        if isinstance(fn, Completed):  # It is the model's, given the sites before it.
            return
        base, rewrap = _base(fn)
        parameters = _parameters(base, fn, name)
        # Samples of the sites before may add dimensions on the left, which share the numbers.
        plates = max((-frame.dim for frame in msg["cond_indep_stack"]), default=0)
        left = len(fn.batch_shape) - plates
        shifts = self._by_site.setdefault(name, {})
        moved = {}
        for key, value in parameters.items():
            to = transform_to(base.arg_constraints[key])
            free = to.inv(value)
            if key not in shifts:
                shifts[key] = torch.zeros_like(free[(0,) * left]).requires_grad_()
            moved[key] = to(free + shifts[key])
        msg["fn"] = rewrap(type(base)(**moved, validate_args=False))


def _base(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The innermost distribution, and a function that wraps another one as it is wrapped."""
    if isinstance(fn, Independent):
        base, rewrap = _base(fn.base_dist)
        return base, lambda new: rewrap(new).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, TransformedDistribution):
        base, rewrap = _base(fn.base_dist)
        return base, lambda new: dist.TransformedDistribution(
            rewrap(new), fn.transforms, validate_args=False
        )
    return fn, lambda new: new


def _parameters(base: Any, fn: Any, name: str) -> dict[str, Tensor]:
    """The parameters from which a distribution can be made anew; raises ValueError if none can."""
    every = list(base.arg_constraints)
    # Some have several of which one is given, such as a covariance or its factor, which is kept;
    # others, such as Beta, keep none under its name.
    # Discrete ones take logits or probabilities.
    for keys in ([key for key in every if key in vars(base)], every, ["logits"], ["probs"]):
        try:
            values = {key: getattr(base, key) for key in keys}
            for key, value in values.items():
                transform_to(base.arg_constraints[key]).inv(value)
            type(base)(**values, validate_args=False)
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            continue
        if values:
            return values
    raise ValueError(
        f'site "{name}": the guide has {describe_distribution(fn)}, whose parameters cannot be '
        "refined for each example, expected a distribution that is made from them"
    )
