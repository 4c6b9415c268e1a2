"""What is missing depends on what it would have been: the mask of x has a model of its own."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.composed import Composed, Part
from pyro_vae.contracts import (
    PLATE,
    call,
    check_float,
    check_latents,
    check_likelihood,
    check_no_nan,
    check_prior,
    check_shape,
    holes_named,
)
from pyro_vae.distributions import Completed, Observed, latent_point, point
from pyro_vae.utils.checks import check_count, check_flag
from pyro_vae.utils.context import Context, Examples, expanded
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import one_at_a_time

__all__ = ["NotMissingAtRandom"]


def __dir__() -> list[str]:
    return __all__


class NotMissingAtRandom(Composed):
    r"""A VAE with a model of what is observed, :math:`p(z)\, p(x|z)\, p(s|x)`.

    NaN in x means "not observed"; the mask s is 1 where x is observed and 0 where it is not. Here
    s may depend on the entries that are missing, such as a meter that stops at a high value. The
    guide is :math:`q(z|x_{obs})\, p(x_{mis}|z)`, whose second factor is the likelihood itself and
    cancels, so that a weight is

    .. math:: w = \frac{p(z)\, p(x_{obs}|z)\, p(s|x_{obs}, x_{mis})}{q(z|x_{obs})}

    and ``log_likelihood`` is :math:`\log p(x_{obs}, s)`. The sites are ``"z"``; ``"x"``, the
    observed entries; ``"x_missing"``, a latent: x whose missing entries are drawn; and ``"mask"``,
    observed. They are in the plate ``"data"``.

    What p(s|x) is cannot be learned from the data without assumptions: choose `missing` by what is
    known of how entries got lost. Objectives with reparameterized gradients need a likelihood with
    ``rsample``.

    Source: Ipsen, Mattei and Frellsen (2021), arXiv 2006.12871, sections 3 and 4.

    Arguments:
        prior: As that of a :class:`VAE`.
        likelihood: As that of a :class:`VAE`, of complete x; its elements are independent given z.
        posterior: As that of a :class:`VAE`; it gets x with its NaN, so its network is in
            ``networks.Observed``.
        missing: A module or function. ``missing(x)`` takes complete x of shape ``(*batch,
            *x_shape)`` and returns a distribution over s of that event shape, 1 where observed.
        name: Prefix of the parameters' names in Pyro's store.

    Raises:
        TypeError: A part is neither a module nor a function, or holds a ``PyroModule``; `name` is
            not a string. In :meth:`model` and :meth:`guide`: x is not a floating-point tensor.
        ValueError: In :meth:`model` and :meth:`guide`: x does not fit the parts, or the parts do
            not fit each other; the elements of x are not independent given z.

    Example:
        >>> import pyro.distributions as dist
        >>> pair = models.NotMissingAtRandom(
        ...     priors.StandardNormal(2),
        ...     likelihoods.Gaussian(networks.MLP(2, (16,), (2, 3))),
        ...     posteriors.Normal(networks.Observed(networks.MLP((2, 3), (16,), 4))),
        ...     missing=lambda x: dist.Bernoulli(logits=-x).to_event(1),
        ... )
        >>> x = torch.tensor([[0.5, float("nan"), 1.0]])
        >>> log_likelihood(pair, x, num_samples=100, seed=0).values.isfinite()
        tensor([True])
    """

    prior: Any
    likelihood: Any
    posterior: Any
    missing: Any

    missing_site = "x_missing"
    """The latent site that has x with its missing entries, see :func:`evaluation.impute`."""

    def __init__(
        self, prior: Part, likelihood: Part, posterior: Part, missing: Part, name: str = "vae"
    ) -> None:
        self._start_parts(
            name,
            {
                "prior": prior,
                "likelihood": likelihood,
                "posterior": posterior,
                "missing": missing,
            },
            inputs={"prior": 0, "likelihood": 1, "posterior": 1, "missing": 1},
            read_by={
                "model": ("prior", "likelihood", "missing"),
                "guide": ("posterior", "likelihood"),
            },
        )

    # The generative model and the guide.

    def model(self, x: Tensor | None = None, *context: Tensor, num_samples: int = 1) -> Tensor:
        r"""The Pyro model :math:`\prod_n p(z_n)\, p(x_n|z_n)\, p(s_n|x_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, with NaN; None draws `num_samples` examples.
            context: What is given with each example, tensors of shape ``(N, ...)``.
            num_samples: Number of examples to draw if `x` is None; with a context, for each row.

        Returns:
            x with NaN where the mask is 0, of shape ``(N, *x_shape)``.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        size, context = self._sized(x, context, num_samples)
        swapped = self._bind(*self._called("model"))
        with pyro.plate(PLATE, size, dim=-1):
            p_z = call(self, "prior", context=context, swapped=swapped)
            check_prior(p_z, size if context else None)
            z = pyro.sample("z", p_z)
            p_x = self._likelihood(z, context, swapped)
            if x is not None:
                check_shape("x", x.shape, p_x)
            # If Pyro draws in place of observing, all entries are drawn here, and none is missing.
            known = pyro.sample("x", Observed(p_x), obs=x)
            completed = Completed(p_x, known)
            complete = completed.complete(pyro.sample("x_missing", completed))
            own = expanded(context, complete.shape[: complete.dim() - len(p_x.event_shape)])
            p_s = call(self, "missing", complete, context=own, swapped=swapped)
            _check_mask(p_s, complete, p_x)
            seen = None if x is None else (~torch.isnan(x)).to(x.dtype)
            mask = pyro.sample("mask", p_s, obs=seen)
            return self.as_observed({"x": complete, "mask": mask})

    @staticmethod
    def as_observed(values: Mapping[str, Tensor]) -> Tensor:
        """x as it would be observed, of values of the sites ``"x"`` and ``"mask"``.

        Arguments:
            values: Complete x, and the mask.
        """
        return values["x"].masked_fill(values["mask"] == 0, math.nan)

    def as_batch(self, values: Mapping[str, Tensor], batch: Sequence[Tensor]) -> Examples:
        """Simulated values as a batch of the same context.

        Arguments:
            values: Those of the observed sites, by name.
            batch: The batch whose context they have.
        """
        return (self.as_observed(values), *batch[1:])

    def guide(self, x: Tensor, *context: Tensor) -> Tensor:
        r"""The Pyro guide :math:`\prod_n q(z_n|x_{obs,n})\, p(x_{mis,n}|z_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, with NaN.
            context: What is given with each example, tensors of shape ``(N, ...)``.

        Returns:
            A draw of z, of shape ``(N, z_dim)``.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        _, context = self._checked(x, context)
        swapped = self._bind(*self._called("guide"))
        with holes_named(x, "posterior"):
            q_z = call(self, "posterior", x, context=context, swapped=swapped)
        if self.checked != (self.prior, self.posterior):
            # The prior's sites belong to the model, and the check is no part of the noise.
            with poutine.block(), evaluating(self.prior), seeded(0, device=x.device):
                check_latents(call(self, "prior", context=context), q_z, x)
            self.checked = (self.prior, self.posterior)
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample("z", q_z)
            check_no_nan("posterior", x, z)
            p_x = self._likelihood(z, context, swapped)
            check_shape("x", x.shape, p_x)
            pyro.sample("x_missing", Completed(p_x, x))
        return z

    def _likelihood(
        self, z: Tensor, context: Sequence[Tensor], swapped: Mapping[int, Tensor] | None = None
    ) -> dist.Distribution:
        """p(x|z) of complete x."""
        own = expanded(context, z.shape[:-1])
        p_x = call(self, "likelihood", z, context=own, swapped=swapped)
        check_likelihood(p_x, z)
        return p_x.base if isinstance(p_x, Observed) else p_x

    # Point values, for pictures and inspection: in eval mode, without gradients.

    @one_at_a_time
    @torch.no_grad()
    def embed(self, x: Tensor, context: Context | None = None) -> Tensor:
        r"""The latent point of each x, the posterior's mean :math:`E_{q(z|x_{obs})}[z]`.

        Arguments:
            x: A floating-point tensor of shape ``(*batch, *x_shape)``, with NaN.
            context: What is given with each x, a tensor or a tuple of them.

        Returns:
            The latent points, of shape ``(*batch, z_dim)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.
        """
        check_float("x", x)
        given = self._given(context)
        with evaluating(self):
            x = x.to(device_of(self), dtype_of(self))
            return latent_point(call(self, "posterior", x, context=given))

    @one_at_a_time
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        r"""The point value of complete x at each z, the likelihood's mean :math:`E_{p(x|z)}[x]`.

        It does not know of the mask: :func:`evaluation.impute` does.

        Arguments:
            z: A floating-point tensor of shape ``(*batch, z_dim)``.
            context: What is given with each z, of shape ``(*batch, ...)``.

        Returns:
            The point values, of shape ``(*batch, *x_shape)``.

        Raises:
            TypeError, ValueError: z is not a floating-point tensor, or has no examples.
        """
        check_float("z", z)
        given = self._given(context)
        with evaluating(self):
            return point(self._likelihood(z.to(device_of(self), dtype_of(self)), given))

    @one_at_a_time
    @torch.no_grad()
    def generate(
        self, num_samples: int, sample: bool = False, context: Context | None = None
    ) -> Tensor:
        """New examples of complete x; :meth:`model` draws x with NaN.

        Arguments:
            num_samples: Number of examples; with a context, for each of its rows.
            sample: Draws x from the likelihood instead of taking its point value.
            context: What is given, a tensor of shape ``(rows, ...)`` or a tuple of them.

        Returns:
            The examples, of shape ``(num_samples, *x_shape)``, or with a context
            ``(num_samples * rows, *x_shape)``.

        Raises:
            TypeError, ValueError: `num_samples` or `sample` is out of range.
        """
        check_count("num_samples", num_samples)
        check_flag("sample", sample)
        with evaluating(self):
            given = self._given(context, points=False)
            given = tuple(c.repeat_interleave(num_samples, 0) for c in given)
            size = len(given[0]) if given else num_samples
            p_z = call(self, "prior", context=given)
            check_prior(p_z, size if given else None)
            z = p_z.sample() if p_z.batch_shape else p_z.sample((size,))
            p_x = self._likelihood(z, given)
            return p_x.sample() if sample else point(p_x)


def _check_mask(p_s: dist.Distribution, x: Tensor, p_x: dist.Distribution) -> None:
    """Raises ValueError unless the distribution of the mask has the shapes of x."""
    dims = len(p_x.event_shape)
    batch = x.shape[: x.dim() - dims]
    if p_s.event_shape != p_x.event_shape or p_s.batch_shape != batch:
        raise ValueError(
            f"missing: got batch_shape {tuple(p_s.batch_shape)} and event_shape "
            f"{tuple(p_s.event_shape)} for x of shape {tuple(x.shape)}, expected {tuple(batch)} "
            f"and {tuple(p_x.event_shape)}: a mask of each x, 1 where it is observed"
        )
