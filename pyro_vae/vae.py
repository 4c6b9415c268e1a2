"""The VAE: three conditional distributions as a Pyro model and guide."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.composed import Composed, Part
from pyro_vae.contracts import (
    PLATE,
    call,
    check_dtype,
    check_float,
    check_latents,
    check_likelihood,
    check_no_nan,
    check_prior,
    check_shape,
    holes_named,
)
from pyro_vae.distributions import latent_point, point
from pyro_vae.utils.checks import check_count, check_flag
from pyro_vae.utils.context import Context, expanded
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import one_at_a_time

__all__ = ["VAE"]


def __dir__() -> list[str]:
    return __all__


class VAE(Composed):
    r"""A variational auto-encoder with prior p(z), likelihood p(x|z) and posterior q(z|x).

    The generative model is :math:`p(x, z) = p(z)\, p(x|z)`. The posterior approximates
    :math:`p(z|x)`; training maximizes the ELBO,
    :math:`E_{q(z|x)}[\log p(x|z) + \log p(z) - \log q(z|x)] \le \log p(x)`.

    :meth:`model` and :meth:`guide` are plain Pyro functions with the latent site ``"z"``, the
    observed site ``"x"`` and the plate ``"data"`` over examples.

    A torch optimizer takes ``vae.parameters()``. In Pyro's parameter store, the same tensors have
    the names ``"<name>.<path>"``. Each call of the model or the guide puts them there; the model
    reads those of the prior and the likelihood, and the guide those of the posterior. The tensors
    belong to this object alone: two VAEs of the same name share nothing, and
    ``pyro.clear_param_store()`` loses nothing. To load parameters, use ``load_state_dict``, not
    the store. Pyro's ``Jit*_ELBO`` raise, because they look parameters up by name alone.

    Source: Kingma and Welling (2014), arXiv 1312.6114, sections 2 and 3.

    Arguments:
        prior: A module or function. ``prior()`` returns a distribution with batch shape ``()``
            and event shape ``(z_dim,)``.
        likelihood: A module or function. ``likelihood(z)`` returns a distribution with batch
            shape ``z.shape[:-1]`` and event shape ``x_shape``. A part whose ``forward`` has
            ``*context``, or further parameters without a default, gets the context too:
            ``prior(*context)``, ``likelihood(z, *context)``, ``posterior(x, *context)``.
        posterior: A module or function. ``posterior(x)`` returns a distribution with the batch
            shape of x and event shape ``(z_dim,)``. Parameters inside a function are not trained,
            moved or saved; use a module for those.
        name: Prefix of the parameters' names in Pyro's store.

    Raises:
        TypeError: A part is neither a module nor a function, or holds a ``PyroModule``; `name` is
            not a string. In :meth:`model` and :meth:`guide`: x is not a floating-point tensor.
        ValueError: In :meth:`model` and :meth:`guide`: x does not fit the parts, or the parts do
            not fit each other, by shape or by support; one trace has two VAEs of the same name.
        RuntimeError: ``torch.jit`` traces the model or the guide.

    Example:
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (16,), (28, 28))),
        ...     posterior=posteriors.Normal(networks.MLP((28, 28), (16,), 2 * 2)),
        ... )
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # -ELBO in nats, summed over 7 examples
        >>> vae.embed(torch.zeros(7, 28, 28)).shape
        torch.Size([7, 2])
    """

    prior: Any  # modules; anything may take their place
    likelihood: Any
    posterior: Any

    def __init__(self, prior: Part, likelihood: Part, posterior: Part, name: str = "vae") -> None:
        self._start_parts(
            name,
            {"prior": prior, "likelihood": likelihood, "posterior": posterior},
            inputs={"prior": 0, "likelihood": 1, "posterior": 1},
            read_by={"model": ("prior", "likelihood"), "guide": ("posterior",)},
        )

    # The generative model and the guide.

    def model(self, x: Tensor | None = None, *context: Tensor, num_samples: int = 1) -> Tensor:
        r"""The Pyro model :math:`\prod_n p(z_n)\, p(x_n|z_n)`.

        It observes `x`, or draws `num_samples` examples if `x` is None. With a context c, it is
        :math:`\prod_n p(z_n|c_n)\, p(x_n|z_n, c_n)`; each part that takes the context gets it.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, or None.
            context: What is given with each example, tensors of shape ``(N, ...)``.
            num_samples: Number of examples to draw if `x` is None; with a context, for each row.

        Returns:
            The value of the site ``"x"``, of shape ``(N, *x_shape)``. Vectorized particles add
            dimensions on the left.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.model(num_samples=7).shape
            torch.Size([7, 28, 28])
        """
        size, context = self._sized(x, context, num_samples)
        swapped = self._bind(*self._called("model"))
        with pyro.plate(PLATE, size, dim=-1):
            p_z = call(self, "prior", context=context, swapped=swapped)
            check_prior(p_z, size if context else None)
            z = pyro.sample("z", p_z)
            own = expanded(context, z.shape[:-1])
            p_x = call(self, "likelihood", z, context=own, swapped=swapped)
            check_likelihood(p_x, z)
            if x is not None:
                check_shape("x", x.shape, p_x)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor, *context: Tensor) -> Tensor:
        r"""The Pyro guide :math:`\prod_n q(z_n|x_n)`, or with a context :math:`q(z_n|x_n, c_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``.
            context: What is given with each example, tensors of shape ``(N, ...)``.

        Returns:
            A draw of z, of shape ``(N, z_dim)``. Vectorized particles add dimensions on the left.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.guide(torch.zeros(7, 28, 28)).shape
            torch.Size([7, 2])
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
        return z

    # Point values, for pictures and inspection: in eval mode, without gradients.

    @one_at_a_time
    @torch.no_grad()
    def embed(self, x: Tensor, context: Context | None = None) -> Tensor:
        r"""The latent point of each x, the posterior's mean :math:`E_{q(z|x)}[z]`.

        Where the mean is missing or not finite, the average of 32 draws takes its place. The VAE
        is in eval mode during the call, and no gradients are recorded.

        Arguments:
            x: A floating-point tensor of shape ``(*batch, *x_shape)``. It is moved to the VAE's
                device and dtype.
            context: What is given with each x, a tensor or a tuple of them, with the batch
                dimensions of x.

        Returns:
            The latent points, of shape ``(*batch, z_dim)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.embed(torch.zeros(7, 28, 28)).shape
            torch.Size([7, 2])
        """
        check_float("x", x)
        given = self._given(context)
        with evaluating(self):
            q_z = call(self, "posterior", x.to(device_of(self), dtype_of(self)), context=given)
            return latent_point(q_z)

    @one_at_a_time
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        r"""The point value of x at each z, the likelihood's mean :math:`E_{p(x|z)}[x]`.

        Where the mean is missing or not finite, the most probable value takes its place; a
        likelihood that has neither gives the average of 32 draws. The VAE is in eval mode during
        the call, and no gradients are recorded.

        Arguments:
            z: A floating-point tensor of shape ``(*batch, z_dim)``. It is moved to the VAE's
                device and dtype.
            context: What is given with each z, of shape ``(*batch, ...)``, or with the last batch
                dimension alone.

        Returns:
            The point values, of shape ``(*batch, *x_shape)``.

        Raises:
            TypeError, ValueError: z is not a floating-point tensor, or has no examples.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.decode(torch.zeros(7, 2)).shape
            torch.Size([7, 28, 28])
        """
        check_float("z", z)
        batch = z.shape[:-1]
        given = [
            entry if entry.shape[: len(batch)] == batch else expanded([entry], batch)[0]
            for entry in self._given(context)
        ]
        with evaluating(self):
            z = z.to(device_of(self), dtype_of(self))
            return point(call(self, "likelihood", z, context=given))

    @one_at_a_time
    @torch.no_grad()
    def generate(
        self, num_samples: int, sample: bool = False, context: Context | None = None
    ) -> Tensor:
        """New examples: draws z from the prior, and takes the point value of x at each z.

        Arguments:
            num_samples: Number of examples; with a context, for each of its rows.
            context: What is given, a tensor of shape ``(rows, ...)`` or a tuple of them.
            sample: Draws x from the likelihood instead of taking the point value of
                :meth:`decode`.

        Returns:
            The examples, of shape ``(num_samples, *x_shape)``; with a context
            ``(num_samples * rows, *x_shape)``, those of the first row first.

        Raises:
            ValueError: `num_samples` is not a positive integer.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.generate(7, sample=True).shape
            torch.Size([7, 28, 28])
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
            check_dtype("prior", z, self)
            p_x = call(self, "likelihood", z, context=given)
            return p_x.sample() if sample else point(p_x)
