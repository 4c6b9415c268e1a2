"""A class with a normal of its own for each value: clusters in the latent space."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pyro_vae.composed import Composed, Part
from pyro_vae.contracts import (
    PLATE,
    call,
    check_float,
    check_layer,
    check_likelihood,
    check_shape,
    check_supports,
)
from pyro_vae.distributions import latent_point, point
from pyro_vae.models.classes import check_categorical
from pyro_vae.models.components import (
    check_mixture,
    class_logits,
    component,
    labels_of,
    posterior_of,
)
from pyro_vae.models.em import fit_mixture
from pyro_vae.priors import GaussianMixture
from pyro_vae.utils.checks import check_count, check_examples, check_flag, kind, plain
from pyro_vae.utils.context import Context, expanded
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import one_at_a_time

__all__ = ["MixtureVAE"]


def __dir__() -> list[str]:
    return __all__


class MixtureVAE(Composed):
    r"""A VAE whose prior is a mixture, with its component as a latent class y.

    .. math:: p(y)\, p(z|y)\, p(x|z), \quad
        z|y \sim \mathcal{N}(\mu_y, \Sigma_y), \quad q(y|x)\, q(z|x, y)

    The sites are ``"y"``, ``"z"`` and ``"x"``, in the plate ``"data"``. Without a classifier the
    guide is :math:`q(z|x)` alone, and y is summed out of the model. Train it by
    ``objectives.enumerated()``, which sums over y in both cases; other objectives draw y from the
    classifier, and refuse a pair that has none.

    A VAE with the prior alone has the same :math:`p(x)`: what is new is q, and :meth:`classify`.
    From random parameters, training ends in poor clusters: train a VAE of the likelihood and the
    posterior with a ``StandardNormal`` first, then call :meth:`fit_prior`, then train this one.

    Source: Kingma, Mohamed, Rezende and Welling (2014), arXiv 1406.5298, section 3, for the class;
    Jiang et al. (2017), arXiv 1611.05148, section 3, for trained normals, and for a guide without
    a classifier, which they follow by :math:`q(y|x) = E_{q(z|x)}[p(y|z)]`.

    Arguments:
        prior: A module or function that returns a mixture of normals, such as
            ``priors.GaussianMixture``, with a component for each class. The weights are equal and
            stay so with ``prior.logits.requires_grad_(False)``.
        likelihood: A module or function, as in a :class:`VAE`; it takes z.
        posterior: A module or function, as in a :class:`VAE`. With a classifier, y is the first
            entry of its context: ``networks.Conditioned(network, (), classes=K)`` takes it.
        classifier: A module or function that takes x and returns a ``Categorical`` of the classes
            with the batch shape of x. None leaves y out of the guide.
        name: Prefix of the parameters' names in Pyro's store.

    A part that takes a context gets it after its own inputs.

    Raises:
        TypeError: A part is neither a module nor a function. In :meth:`model` and :meth:`guide`: x
            is not a floating-point tensor, the prior is no mixture, or the classifier does not
            return a ``Categorical``.
        ValueError: In :meth:`model` and :meth:`guide`: x does not fit the parts, or the parts do
            not fit each other.

    Example:
        >>> encoder = networks.MLP(6 + 3, (16,), 2 * 2)
        >>> scores = networks.MLP(6, (16,), 3)
        >>> vae = models.MixtureVAE(
        ...     prior=priors.GaussianMixture(2, components=3),
        ...     likelihood=likelihoods.Gaussian(networks.MLP(2, (16,), 6), scale=0.5),
        ...     posterior=posteriors.Normal(networks.Conditioned(encoder, (), classes=3)),
        ...     classifier=models.Classifier(scores),
        ... )
        >>> x = torch.randn(64, 6)
        >>> history = fit(vae, x, epochs=2, objective=objectives.enumerated())
        >>> vae.classify(x).shape
        torch.Size([64, 3])
    """

    prior: Any
    likelihood: Any
    posterior: Any
    classifier: Any

    def __init__(
        self,
        prior: Part,
        likelihood: Part,
        posterior: Part,
        classifier: Part | None = None,
        name: str = "vae",
    ) -> None:
        self._start_parts(
            name,
            {
                "prior": prior,
                "likelihood": likelihood,
                "posterior": posterior,
                "classifier": classifier,
            },
            inputs={"prior": 0, "likelihood": 1, "posterior": 1, "classifier": 1},
            read_by={"model": ("prior", "likelihood"), "guide": ("classifier", "posterior")},
            optional=("classifier",),
        )

    @property
    def inputs(self) -> Mapping[str, int]:
        """The number of inputs of each part besides the context, by its path."""
        with_class = self.classifier is not None
        return {**super().inputs, "posterior": 1 + with_class}

    # The generative model and the guide.

    def model(self, x: Tensor | None = None, *context: Tensor, num_samples: int = 1) -> Tensor:
        r"""The Pyro model :math:`\prod_n p(y_n)\, p(z_n|y_n)\, p(x_n|z_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, or None, which draws `num_samples` examples.
            context: What is given with each example, tensors of shape ``(N, ...)``.
            num_samples: Number of examples to draw if `x` is None; with a context, for each row.

        Returns:
            The value of the site ``"x"``, of shape ``(N, *x_shape)``.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        size, context = self._sized(x, context, num_samples)
        swapped = self._bind(*self._called("model"))
        with pyro.plate(PLATE, size, dim=-1):
            mixture = self._mixture(context, swapped)
            y = pyro.sample("y", mixture.mixture_distribution)
            z = pyro.sample("z", component(mixture, y))
            own = expanded(context, z.shape[:-1])
            p_x = call(self, "likelihood", z, context=own, swapped=swapped)
            check_likelihood(p_x, z)
            if x is not None:
                check_shape("x", x.shape, p_x)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor, *context: Tensor) -> Tensor:
        r"""The Pyro guide :math:`\prod_n q(y_n|x_n)\, q(z_n|x_n, y_n)`, or without y.

        Arguments:
            x: Data of shape ``(N, *x_shape)``.
            context: What is given with each example, tensors of shape ``(N, ...)``.

        Returns:
            A draw of z, of shape ``(N, z_dim)``.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        _, context = self._checked(x, context)
        swapped = self._bind(*self._called("guide"))
        with pyro.plate(PLATE, len(x), dim=-1):
            y = None
            if self.classifier is not None:
                y = pyro.sample("y", self._class_of(x, context, swapped))
            q_z = posterior_of(self, x, y, context, swapped)
            self._check_parts(x, q_z, context)
            return pyro.sample("z", q_z)

    def _mixture(
        self, context: Sequence[Tensor], swapped: Mapping[int, Tensor] | None = None
    ) -> MixtureSameFamily:
        """p(z), whose components are the classes."""
        mixture = call(self, "prior", context=context, swapped=swapped)
        check_mixture(mixture)
        each = context and mixture.batch_shape  # Each example may have one, by its context.
        check_layer("prior", mixture, context[0].shape[:1] if each else torch.Size())
        return mixture

    def _class_of(
        self,
        x: Tensor,
        context: Sequence[Tensor],
        swapped: Mapping[int, Tensor] | None = None,
    ) -> dist.Distribution:
        """q(y|x)."""
        q_y = call(self, "classifier", x, context=context, swapped=swapped)
        check_categorical("classifier", q_y, batch=x.shape[:1])
        return q_y

    def _check_parts(self, x: Tensor, q_z: dist.Distribution, context: Sequence[Tensor]) -> None:
        """Raises ValueError unless the parts fit each other, the first time."""
        parts = (self.prior, *self._called("guide"))
        if self.checked == parts:
            return
        # The prior's sites belong to the model, and the check is no part of the noise.
        with poutine.block(), evaluating(self.prior), seeded(0, device=x.device):
            mixture = self._mixture(context)
            check_layer("posterior", q_z, q_z.batch_shape, mixture.event_shape)
            check_supports(mixture, q_z)
            if self.classifier is not None:
                own, expected = (
                    d.logits.shape[-1]
                    for d in (self._class_of(x, context), mixture.mixture_distribution)
                )
                if own != expected:
                    raise ValueError(
                        f"classifier: got {own} classes, expected the prior's {expected}: one for "
                        "each component"
                    )
        self.checked = parts

    @one_at_a_time
    @torch.no_grad()
    def fit_prior(
        self, x: Tensor, context: Context | None = None, *, seed: int | None = 0
    ) -> None:
        r"""Fits the mixture to the average posterior :math:`\frac1N \sum_n q(z|x_n)`, by EM.

        For a fixed guide, that is the prior of the greatest ELBO. The clusters are those of the
        latent points, by EM from k-means; the moments are those of a draw of z for each x.
        The mixture is a start for the training: likelihood and posterior stay as they are.
        Requires scikit-learn: ``pip install 'pyro_vae[clusters]'``.

        Source: Tomczak and Welling (2018), arXiv 1705.07120, section 2, for the best prior; Jiang
        et al. (2017), arXiv 1611.05148, start theirs in the same way.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``.
            context: What is given with each x, a tensor or a tuple of them.
            seed: Fixes the draws and the starts.

        Raises:
            TypeError: The prior is not a ``priors.GaussianMixture``, or x not a floating-point
                tensor.
            ValueError: There is a classifier, or fewer different examples than components.
            ModuleNotFoundError: scikit-learn is not installed.
        """
        if not isinstance(self.prior, GaussianMixture):
            raise TypeError(f"prior: got {kind(self.prior)}, expected a priors.GaussianMixture")
        if self.classifier is not None:
            raise ValueError(
                "classifier: got one, expected None: the mixture is fitted to q(z|x), and with "
                "a classifier the posterior is q(z|x, y)"
            )
        x, given = self._inputs(x, context)
        with evaluating(self), seeded(seed, device=x.device):
            q_z = posterior_of(self, x, None, given)
            fit_mixture(self.prior, latent_point(q_z), q_z.sample())

    # Point values and classes, in eval mode, without gradients.

    @one_at_a_time
    @torch.no_grad()
    def classify(
        self, x: Tensor, context: Context | None = None, *, num_samples: int = 100
    ) -> Tensor:
        r"""The probabilities of the classes of each x, q(y|x).

        Without a classifier they are :math:`E_{q(z|x)}[p(y|z)]`, a mean over draws of z.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``. It is moved to the pair's device
                and dtype.
            context: What is given with each x, a tensor or a tuple of them.
            num_samples: Number of draws of z, without a classifier.

        Returns:
            Probabilities of shape ``(N, classes)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples; or
                `num_samples` is not a positive integer.
        """
        check_count("num_samples", num_samples)
        x, given = self._inputs(x, context)
        with evaluating(self):
            return self._classified(x, given, num_samples)

    def _classified(self, x: Tensor, given: Sequence[Tensor], num_samples: int) -> Tensor:
        if self.classifier is not None:
            probabilities: Tensor = self._class_of(x, given).probs
            return probabilities
        z = posterior_of(self, x, None, given).sample((num_samples,))
        return class_logits(self._mixture(given), z).softmax(-1).mean(0)

    @one_at_a_time
    @torch.no_grad()
    def embed(self, x: Tensor, context: Context | None = None) -> Tensor:
        r"""The latent point of each x, the guide's mean :math:`\sum_y q(y|x)\, E_{q(z|x, y)}[z]`.

        Where a mean is missing or not finite, the average of 32 draws takes its place. The pair is
        in eval mode during the call, and no gradients are recorded.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``. It is moved to the pair's device
                and dtype.
            context: What is given with each x, a tensor or a tuple of them.

        Returns:
            The latent points, of shape ``(N, z_dim)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.
        """
        x, given = self._inputs(x, context)
        with evaluating(self):
            if self.classifier is None:
                return latent_point(posterior_of(self, x, None, given))
            weights = self._class_of(x, given).probs.T
            y = torch.arange(len(weights), device=x.device)[:, None]
            means = latent_point(posterior_of(self, x, y, given))
            return (weights.unsqueeze(-1) * means).sum(0)

    @one_at_a_time
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        r"""The point value of x at each z, the likelihood's mean :math:`E_{p(x|z)}[x]`.

        Where the mean is missing or not finite, the most probable value takes its place. The pair
        is in eval mode during the call, and no gradients are recorded.

        Arguments:
            z: A floating-point tensor of shape ``(N, z_dim)``.
            context: What is given with each z, of shape ``(N, ...)``.

        Returns:
            The point values, of shape ``(N, *x_shape)``.

        Raises:
            TypeError, ValueError: z is not a floating-point tensor, or has no examples.
        """
        check_float("z", z)
        given = self._given(context, points=False)
        with evaluating(self):
            z = z.to(device_of(self), dtype_of(self))
            return point(call(self, "likelihood", z, context=given))

    @one_at_a_time
    @torch.no_grad()
    def generate(
        self,
        num_samples: int,
        sample: bool = False,
        context: Context | None = None,
        *,
        y: int | Tensor | None = None,
    ) -> Tensor:
        """New examples, of all classes or of one: the point value of x at draws of z.

        Arguments:
            num_samples: Number of examples; with a context, for each of its rows.
            sample: Draws x from the likelihood instead of taking the point value.
            context: What is given, a tensor of shape ``(rows, ...)`` or a tuple of them.
            y: The class of all examples, or a tensor of one for each. None draws the classes.

        Returns:
            The examples, of shape ``(num_samples, *x_shape)``; with a context
            ``(num_samples * rows, *x_shape)``, those of the first row first.

        Raises:
            TypeError: `y` is not an integer, or a tensor of them.
            ValueError: `num_samples` is not a positive integer, or a class is out of range.
        """
        check_count("num_samples", num_samples)
        check_flag("sample", sample)
        with evaluating(self):
            given = self._given(context, points=False)
            given = tuple(c.repeat_interleave(num_samples, 0) for c in given)
            size = len(given[0]) if given else plain(num_samples)
            mixture = self._mixture(given)
            weights = mixture.mixture_distribution
            if y is None:
                own = weights.sample() if weights.batch_shape else weights.sample((size,))
            else:
                own = labels_of(y, size, weights.logits.shape[-1]).to(device_of(self))
            z = component(mixture, own).sample()
            p_x = call(self, "likelihood", z, context=given)
            return p_x.sample() if sample else point(p_x)

    def _inputs(self, x: Tensor, context: Context | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        check_float("x", x)
        check_examples("x", x)
        given = self._given(context, points=False)
        return x.to(device_of(self), dtype_of(self)), given
