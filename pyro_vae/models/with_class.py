"""Classes and point values of a pair whose parts take a class."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.contracts import call, check_float
from pyro_vae.distributions import latent_point, point
from pyro_vae.models.classes import check_categorical, given_class
from pyro_vae.models.components import labels_of
from pyro_vae.utils.checks import check_count, check_examples, check_flag, plain
from pyro_vae.utils.context import Context, expanded
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.turns import one_at_a_time

__all__ = ["WithClass"]


class WithClass(Composed):
    """A pair with the parts of a :class:`~pyro_vae.models.SemiSupervisedVAE`.

    Attributes:
        classes: The number of classes.
        is_stacked: Whether there is a VAE below.
    """

    prior: Any
    likelihood: Any
    posterior: Any
    classifier: Any
    class_prior: Any
    below_likelihood: Any
    below_posterior: Any
    classes: int
    is_stacked: bool

    def _class_prior(
        self, context: Sequence[Tensor], swapped: Mapping[int, Tensor] | None = None
    ) -> dist.Categorical:
        """p(y), by the part of that name, or with equal probabilities."""
        if self.class_prior is None:
            logits = torch.zeros(self.classes, dtype=dtype_of(self), device=device_of(self))
            return dist.Categorical(logits=logits)
        p_y = call(self, "class_prior", context=context, swapped=swapped)
        check_categorical("class_prior", p_y, self.classes)
        return p_y

    def _class_of(
        self,
        h: Tensor,
        context: Sequence[Tensor],
        swapped: Mapping[int, Tensor] | None = None,
    ) -> dist.Categorical:
        """q(y|x), or q(y|z1)."""
        batch = self._batch(h)
        own = expanded(context, batch)
        q_y = call(self, "classifier", h, context=own, swapped=swapped)
        check_categorical("classifier", q_y, self.classes, batch)
        return q_y

    def _batch(self, h: Tensor) -> torch.Size:
        """The batch shape of x, or of z1, which may have particles on the left."""
        return h.shape[:-1] if self.is_stacked else h.shape[:1]

    # Classes and point values, in eval mode, without gradients.

    @one_at_a_time
    @torch.no_grad()
    def classify(self, x: Tensor, context: Context | None = None) -> Tensor:
        r"""The probabilities of the classes of each x, q(y|x).

        With a VAE below, they are those at the point of z1, the mean of q(z1|x).

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``. It is moved to the pair's device
                and dtype.
            context: What is given with each x, a tensor or a tuple of them.

        Returns:
            Probabilities of shape ``(N, classes)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.
        """
        with evaluating(self):
            h, given = self._features(x, context)
            probabilities: Tensor = self._class_of(h, given).probs
            return probabilities

    @one_at_a_time
    @torch.no_grad()
    def embed(
        self, x: Tensor, context: Context | None = None, *, y: int | Tensor | None = None
    ) -> Tensor:
        r"""The latent point of each x, the mean of q(z|x, y) at its class.

        Where the mean is missing or not finite, the average of 32 draws takes its place. The pair
        is in eval mode during the call, and no gradients are recorded.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``.
            context: What is given with each x, a tensor or a tuple of them.
            y: The class of all x, or a tensor of one for each. None takes the most probable one.

        Returns:
            The latent points, of shape ``(N, z_dim)``.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples; or a class
                is out of range.
        """
        with evaluating(self):
            h, given = self._features(x, context)
            own = self._labels(y, h, given)
            q_z, _ = given_class(self, "posterior", h, h.shape[:1], own, given)
            return latent_point(q_z)

    def _features(self, x: Tensor, context: Context | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x, or the point of z1, and the context, on the pair's device."""
        check_float("x", x)
        check_examples("x", x)
        given = self._given(context, points=False)
        x = x.to(device_of(self), dtype_of(self))
        if self.is_stacked:
            return latent_point(call(self, "below_posterior", x, context=given)), given
        return x, given

    def _labels(self, y: int | Tensor | None, h: Tensor, given: Sequence[Tensor]) -> Tensor:
        if y is None:
            return self._class_of(h, given).logits.argmax(-1)
        return labels_of(y, len(h), self.classes).to(h.device)

    @one_at_a_time
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None, *, y: int | Tensor) -> Tensor:
        r"""The point value of x at each z and class y, the likelihood's mean.

        Arguments:
            z: A floating-point tensor of shape ``(N, z_dim)``.
            context: What is given with each z, of shape ``(N, ...)``.
            y: The class of all z, or a tensor of one for each.

        Returns:
            The point values, of shape ``(N, *x_shape)``.

        Raises:
            TypeError, ValueError: z is not a floating-point tensor, or has no examples; or a class
                is out of range.
        """
        check_float("z", z)
        check_examples("z", z)
        given = self._given(context, points=False)
        with evaluating(self):
            z = z.to(device_of(self), dtype_of(self))
            own = labels_of(y, len(z), self.classes).to(z.device)
            return self._x_of(z, own, given, sample=False)

    def reconstruct(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The point value of each x at its own latent point and most probable class.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``.
            context: What is given with each x.

        Returns:
            The reconstructions, of the shape of x.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.
        """
        y = self.classify(x, context).argmax(-1)
        return self.decode(self.embed(x, context, y=y), context, y=y)

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
            p_y, p_z = self._class_prior(given), call(self, "prior", context=given)
            if y is None:
                own = p_y.sample() if p_y.batch_shape else p_y.sample((size,))
            else:
                own = labels_of(y, size, self.classes).to(device_of(self))
            z = p_z.sample() if p_z.batch_shape else p_z.sample((size,))
            return self._x_of(z, own, given, sample)

    def _x_of(self, z: Tensor, y: Tensor, given: Sequence[Tensor], sample: bool) -> Tensor:
        """x at each z and class: a draw, or the point value."""
        p_x, _ = given_class(self, "likelihood", z, z.shape[:1], y, given)
        if self.is_stacked:
            z1 = p_x.sample() if sample else latent_point(p_x)
            p_x = call(self, "below_likelihood", z1, context=given)
        return p_x.sample() if sample else point(p_x)
