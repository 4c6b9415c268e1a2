"""Labels for some of the data: a class that is observed in some examples, and latent in others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.composed import Part
from pyro_vae.contracts import (
    PLATE,
    call,
    check_layer,
    check_likelihood,
    check_prior,
    check_shape,
    check_supports,
)
from pyro_vae.distributions import Labels
from pyro_vae.models.classes import check_labels, check_takes_class, given_class, given_labels
from pyro_vae.models.with_class import WithClass
from pyro_vae.utils.checks import check_count, kind, plain
from pyro_vae.utils.context import Examples, expanded
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["SemiSupervisedVAE"]


def __dir__() -> list[str]:
    return __all__


class SemiSupervisedVAE(WithClass):
    r"""A VAE whose class y is a label in some examples, and latent in the others (M2).

    .. math:: p(y)\, p(z)\, p(x|z, y), \quad q(y|x)\, q(z|x, y)

    Data are tuples ``(x, labels)``, where a label of -1 is missing; or x, without any. A label is
    data, and no context: the ELBO of an example with a label is a bound of :math:`\log p(x, y)`,
    and of one without it of :math:`\log p(x)`. In an example with a label, q(y|x) is replaced by
    certainty, so the classifier learns nothing from it. :func:`objectives.classified` adds its
    loss.

    With a VAE `below`, the model is stacked on it (M1+M2): its latent is z1, whose prior is
    :math:`p(z_1|y, z_2)`, and the classifier and the posterior take z1 in place of x:

    .. math:: p(y)\, p(z_2)\, p(z_1|z_2, y)\, p(x|z_1), \quad
        q(z_1|x)\, q(y|z_1)\, q(z_2|z_1, y)

    The sites are ``"y"``, ``"z"`` (or ``"z2"`` and ``"z1"``), ``"x"``, and ``"label"`` where
    labels are given, all in the plate ``"data"``. Train it by ``objectives.enumerated()``, which
    sums over y.

    Source: Kingma, Mohamed, Rezende and Welling (2014), arXiv 1406.5298, section 3.

    Arguments:
        prior: A module or function, as in a :class:`VAE`; that of z, which is independent of y.
        likelihood: A module or function ``likelihood(z, y)``. y is the first entry of its context:
            ``networks.Conditioned(network, (), classes=K)`` takes it. With a VAE below, it is the
            distribution of z1.
        posterior: A module or function ``posterior(x, y)``, likewise.
        classifier: A module or function ``classifier(x)`` that returns a ``Categorical`` of the
            classes, such as :class:`Classifier`.
        classes: The number of classes.
        class_prior: A module or function that returns a ``Categorical``; None gives all classes
            the same probability.
        below: A VAE whose likelihood and posterior become parts of this pair. They are trained
            with it, unless their parameters do not require grad. None for M2.
        name: Prefix of the parameters' names in Pyro's store.

    A part that takes a context gets it after its own inputs. In a batch, the context comes after
    the labels: ``(x, labels, *context)``.

    Raises:
        TypeError: A part is neither a module nor a function, or `below` is no VAE. In
            :meth:`model` and :meth:`guide`: x is not a floating-point tensor, labels are not
            integers, or the classifier does not return a ``Categorical``.
        ValueError: The likelihood does not take y. In :meth:`model` and :meth:`guide`: x does not
            fit the parts, the parts do not fit each other, or a label is out of range.

    Example:
        >>> decoder, encoder = networks.MLP(2 + 3, (16,), 6), networks.MLP(6 + 3, (16,), 2 * 2)
        >>> vae = models.SemiSupervisedVAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Gaussian(
        ...         networks.Conditioned(decoder, (), classes=3), scale=0.5
        ...     ),
        ...     posterior=posteriors.Normal(networks.Conditioned(encoder, (), classes=3)),
        ...     classifier=models.Classifier(networks.MLP(6, (16,), 3)),
        ...     classes=3,
        ... )
        >>> x, labels = torch.randn(64, 6), torch.arange(64) % 4 - 1  # a fourth has none
        >>> objective = objectives.classified(1.0, objectives.enumerated())
        >>> history = fit(vae, (x, labels), epochs=2, batch_size=32, objective=objective)
        >>> vae.classify(x).shape
        torch.Size([64, 3])
    """

    def __init__(
        self,
        prior: Part,
        likelihood: Part,
        posterior: Part,
        classifier: Part,
        classes: int,
        class_prior: Part | None = None,
        below: VAE | None = None,
        name: str = "vae",
    ) -> None:
        check_count("classes", classes)
        if below is not None and not isinstance(below, VAE):
            raise TypeError(f"below: got {kind(below)}, expected a VAE, or None")
        parts: dict[str, Any] = {
            "prior": prior,
            "likelihood": likelihood,
            "posterior": posterior,
            "classifier": classifier,
            "class_prior": class_prior,
            "below_likelihood": None if below is None else below.likelihood,
            "below_posterior": None if below is None else below.posterior,
        }
        inputs = {"prior": 0, "class_prior": 0, "likelihood": 2, "posterior": 2}
        self._start_parts(
            name,
            parts,
            inputs={part: inputs.get(part, 1) for part in parts},
            read_by={
                "model": ("prior", "likelihood", "class_prior", "below_likelihood"),
                "guide": ("posterior", "classifier", "below_posterior"),
            },
            optional=("class_prior", "below_likelihood", "below_posterior"),
        )
        self.classes = plain(classes)
        self.is_stacked = below is not None
        check_takes_class(self, "likelihood")

    # The generative model and the guide.

    def model(
        self,
        x: Tensor | None = None,
        labels: Tensor | None = None,
        *context: Tensor,
        num_samples: int = 1,
    ) -> Tensor:
        r"""The Pyro model :math:`\prod_n p(y_n)\, p(z_n)\, p(x_n|z_n, y_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, or None, which draws `num_samples` examples.
            labels: Classes of shape ``(N,)``, -1 where they are missing; None for none at all.
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
            p_y = self._class_prior(context, swapped)
            y = pyro.sample("y", p_y)
            if labels is not None:
                check_labels(labels, size, self.classes)
                pyro.sample("label", Labels(y, self.classes), obs=labels)
            p_z = call(self, "prior", context=context, swapped=swapped)
            check_prior(p_z, size if context else None)
            z = pyro.sample("z2" if self.is_stacked else "z", p_z)
            p_x, batch = given_class(self, "likelihood", z, z.shape[:-1], y, context, swapped)
            check_likelihood(p_x, z.expand(*batch, z.shape[-1]))
            if self.is_stacked:
                check_layer("likelihood", p_x, batch)
                z1 = pyro.sample("z1", p_x)
                own = expanded(context, z1.shape[:-1])
                p_x = call(self, "below_likelihood", z1, context=own, swapped=swapped)
                check_likelihood(p_x, z1)
            if x is not None:
                check_shape("x", x.shape, p_x)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor, labels: Tensor | None = None, *context: Tensor) -> Tensor:
        r"""The Pyro guide :math:`\prod_n q(y_n|x_n)\, q(z_n|x_n, y_n)`.

        Arguments:
            x: Data of shape ``(N, *x_shape)``.
            labels: Classes of shape ``(N,)``, -1 where they are missing; None for none at all.
            context: What is given with each example, tensors of shape ``(N, ...)``.

        Returns:
            A draw of z, of shape ``(N, z_dim)``.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        _, context = self._checked(x, context)
        swapped = self._bind(*self._called("guide"))
        with pyro.plate(PLATE, len(x), dim=-1):
            h, q_1 = x, None
            if self.is_stacked:
                q_1 = call(self, "below_posterior", x, context=context, swapped=swapped)
                check_layer("below_posterior", q_1, x.shape[:1])
                h = pyro.sample("z1", q_1)
            q_y = self._class_of(h, context, swapped)
            infer: dict[str, Any] = {}
            if labels is not None:
                check_labels(labels, len(x), self.classes)
                infer = {"classifier": (q_y, labels)}
                q_y = given_labels(q_y, labels)
            y = pyro.sample("y", q_y, infer=infer)
            q_z, batch = given_class(self, "posterior", h, self._batch(h), y, context, swapped)
            check_layer("posterior", q_z, batch)
            self._check_parts(x, q_z, q_1, h, context)
            return pyro.sample("z2" if self.is_stacked else "z", q_z)

    def as_batch(self, values: Mapping[str, Tensor], batch: Sequence[Tensor]) -> Examples:
        """Simulated values as a batch, with labels where the given one has them.

        Arguments:
            values: Those of the observed sites, by name.
            batch: The batch whose context they have.
        """
        if len(batch) == 1:
            return (values["x"],)
        labels = torch.where(batch[1] < 0, batch[1], values["label"].to(batch[1].dtype))
        return (values["x"], labels, *batch[2:])

    def check_batch(self, *batch: Tensor) -> None:
        """Raises TypeError or ValueError unless the labels of a batch are classes, or -1."""
        if len(batch) > 1:
            check_labels(batch[1], len(batch[0]), self.classes, values=True)

    def drawing(self, *context: Tensor) -> Tensor:
        """The model that draws an example for each row of a context, without labels."""
        return self.model(None, None, *context)

    def _check_parts(
        self,
        x: Tensor,
        q_z: dist.Distribution,
        q_1: dist.Distribution | None,
        h: Tensor,
        context: Sequence[Tensor],
    ) -> None:
        """Raises ValueError unless the parts fit each other, the first time."""
        parts = (self.prior, self.likelihood, self.posterior)
        if self.checked == parts:
            return
        check_takes_class(self, "likelihood")  # which may be another one by now
        # The prior's sites belong to the model, and the check is no part of the noise.
        with poutine.block(), evaluating(self), seeded(0, device=x.device):
            p_z = call(self, "prior", context=context)
            check_prior(p_z, len(x) if context else None)
            check_layer("posterior", q_z, q_z.batch_shape, p_z.event_shape)
            check_supports(p_z, q_z)
            if q_1 is not None:
                z = p_z.sample() if p_z.batch_shape else p_z.sample((len(x),))
                y = torch.zeros(len(x), dtype=torch.long, device=x.device)
                p_1, _ = given_class(self, "likelihood", z, z.shape[:1], y, context)
                check_layer("below_posterior", q_1, x.shape[:1], p_1.event_shape)
                check_supports(p_1, q_1, "below_posterior")
        self.checked = parts
