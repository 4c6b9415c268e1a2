"""The beta-VAE's objective: an ELBO whose KL has a weight."""

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any

from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.objectives.elbo import trace_elbo
from pyro_vae.objectives.enumeration import UNANNEALED, WEIGHT
from pyro_vae.objectives.registry import named
from pyro_vae.objectives.traits import Traits, traits
from pyro_vae.objectives.wrapper import Wrapper
from pyro_vae.utils.checks import check_number, plain

__all__ = ["Beta", "Weighted", "beta"]


@named
def beta(beta: float, num_particles: int = 1) -> "Beta":
    r"""The beta-VAE's objective, :math:`-E_q[\log p(x|z)] + \beta\, KL(q, p)`.

    Its loss is in nats, summed over examples. It is the negative ELBO at :math:`\beta = 1`. Above,
    its negative is a looser lower bound of log p(x); below, it is no bound. The weight scales the
    latent sites of model and guide, whose KL is sampled. :class:`History` has the unweighted KL
    beside the objective's value.

    Source: Higgins et al. (2017), beta-VAE, ICLR, equation 4.

    Arguments:
        beta: The weight of the KL, from 0 up.
        num_particles: Number of samples of z for each example. They are vectorized.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `beta` is not a number.
        ValueError: `beta` is not a finite number from 0 up, or `num_particles` is not a positive
            integer.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objectives.beta(4.0))
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_number("beta", beta, 0)
    return Beta(trace_elbo(num_particles), float(plain(beta)))


class Weighted(Wrapper):
    """An ELBO whose KL has a weight, by the scale of the latent sites of model and guide.

    Arguments:
        elbo: The ELBO to wrap.
    """

    @property
    @abstractmethod
    def weight(self) -> Tensor | float:
        """The weight of the KL in the next loss."""

    def weight_of(self, site: str) -> Tensor | float:
        """The weight of the KL of a latent site in the next loss."""
        return self.weight

    def check_sites(self, sites: Collection[str]) -> None:
        """Raises ValueError if a program has not the latent sites that have weights."""

    @property
    def traits(self) -> Traits:
        """The traits of the objective, which is an ELBO only while its weight is one."""
        inner = traits(self.elbo)
        return Traits(is_static=inner.is_static, is_sum=inner.is_sum, sums_out=inner.sums_out)

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        scaled = _Scaled(self.weight_of)
        loss = getattr(self.elbo, method)(scaled(model), scaled(guide), *args, **kwargs)
        self.check_sites(scaled.weights)
        return loss


class Beta(Weighted):
    """An ELBO with a constant weight of its KL; see :func:`objectives.beta`.

    Arguments:
        elbo: The ELBO to wrap.
        beta: The weight.
    """

    def __init__(self, elbo: ELBO, beta: float) -> None:
        super().__init__(elbo)
        self.beta = beta

    @property
    def weight(self) -> float:
        """The weight of the KL."""
        return self.beta


class _Scaled(Messenger):
    """Scales latent sites only. Unlike ``poutine.scale``, it also takes a scale of zero."""

    def __init__(self, weight_of: Callable[[str], Tensor | float]) -> None:
        super().__init__()
        self.weight_of = weight_of
        self.weights: dict[str, Tensor | float] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            name = msg["name"]
            if name not in self.weights:  # one for model and guide
                self.weights[name] = self.weight_of(name)
            kept = {UNANNEALED: msg["scale"], WEIGHT: self.weights[name]}
            msg["infer"] = {**msg["infer"], **kept}
            msg["scale"] = self.weights[name] * msg["scale"]
