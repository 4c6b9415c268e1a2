"""Several stochastic layers: each prior takes z of the layer above."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.composed import Composed, Part, as_list
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
from pyro_vae.models.layers import Inference, posterior_of, prior_of
from pyro_vae.utils.checks import (
    check_count,
    check_examples,
    check_flag,
    check_index,
    is_sequence,
    kind,
    plain,
)
from pyro_vae.utils.context import Context, expanded
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import one_at_a_time

__all__ = ["HierarchicalVAE"]


def __dir__() -> list[str]:
    return __all__


class HierarchicalVAE(Composed):
    r"""A VAE with several stochastic layers, :math:`p(z_L) \prod_l p(z_l|z_{l+1})\, p(x|z_1)`.

    The sites are ``"z1"``, next to the data, to ``"zL"``, and ``"x"``, in the plate ``"data"``.
    The posteriors are one of three kinds:

    * ``"bottom-up"``: :math:`q(z_1|x) \prod_l q(z_{l+1}|z_l)`. A posterior takes the layer below
      it, and the first takes x. The guide draws the layers in another order than the model, so
      their KL has no closed form.
      Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 2.
    * ``"top-down"``: :math:`q(z_L|x) \prod_l q(z_l|x, z_{l+1})`. A posterior takes x and the layer
      above it, and the last takes x.
      Source: Kingma et al. (2016), arXiv 1606.04934, appendix C.1.
    * ``"ladder"``: as top-down, where each posterior takes x alone, and its normal is multiplied
      by that of the prior: precisions add up, and means are weighted by precision. The posterior
      of the last layer is as it is.
      Source: Sønderby et al. (2016), arXiv 1602.02282, section 2.2.

    The networks of the posteriors may share layers.

    Arguments:
        priors: Modules or functions, from z1 up. ``priors[l](z)`` takes the layer above, of shape
            ``(*batch, z_dim)``, and returns a distribution with batch shape ``batch`` and an event
            shape of one dimension. The last takes nothing, as the prior of a :class:`VAE`.
        likelihood: A module or function, as in a :class:`VAE`; it takes z1.
        posteriors: Modules or functions, from z1 up. Where z has dimensions of particles on the
            left of the batch, x is repeated over them; a posterior whose network has the attribute
            ``broadcasts = True``, such as :class:`networks.Joint`, takes x as it is.
        inference: ``"bottom-up"``, ``"ladder"`` or ``"top-down"``.
        skip: Gives all layers to the likelihood, side by side in the last dimension, z1 first.
        name: Prefix of the parameters' names in Pyro's store.

    A part that takes a context gets it after its own inputs: for a top-down posterior, the layer
    above is the first entry after x, and those of the context follow.

    Raises:
        TypeError: `priors` or `posteriors` is not a list, or a part is neither a module nor a
            function. In :meth:`model` and :meth:`guide`: x is not a floating-point tensor.
        ValueError: The lists have no parts, or different lengths; `inference` is another. In
            :meth:`model` and :meth:`guide`: x does not fit the parts, or the parts do not fit each
            other; a ladder has a layer that is no normal with diagonal covariance.

    Example:
        >>> vae = models.HierarchicalVAE(
        ...     priors=[
        ...         posteriors.Normal(networks.MLP(2, (16,), 2 * 5)),
        ...         priors.StandardNormal(2),
        ...     ],
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(5, (16,), (28, 28))),
        ...     posteriors=[
        ...         posteriors.Normal(networks.MLP((28, 28), (16,), 2 * 5)),
        ...         posteriors.Normal(networks.MLP(5, (16,), 2 * 2)),
        ...     ],
        ... )
        >>> [z.shape for z in vae.embed(torch.zeros(7, 28, 28))]
        [torch.Size([7, 5]), torch.Size([7, 2])]
    """

    priors: Any
    likelihood: Any
    posteriors: Any

    def __init__(
        self,
        priors: Sequence[Part],
        likelihood: Part,
        posteriors: Sequence[Part],
        inference: Inference = "bottom-up",
        skip: bool = False,
        name: str = "vae",
    ) -> None:
        check_flag("skip", skip)
        if inference not in get_args(Inference):
            raise ValueError(
                f"inference: got {inference!r}, expected one of {', '.join(get_args(Inference))}"
            )
        own = as_list("priors", priors), as_list("posteriors", posteriors)
        count = len(own[0])
        if len(own[1]) != count:
            raise ValueError(
                f"posteriors: got {len(own[1])}, expected {count}: one for each prior"
            )
        above = {layer: int(layer < count - 1) for layer in range(count)}
        with_above = inference == "top-down"
        self._start_parts(
            name,
            {"priors": own[0], "likelihood": likelihood, "posteriors": own[1]},
            inputs={f"priors.{layer}": above[layer] for layer in above}
            | {"likelihood": 1}
            | {f"posteriors.{layer}": 1 + with_above * above[layer] for layer in above},
            read_by={
                "model": ("priors", "likelihood"),
                "guide": ("posteriors", "priors") if inference == "ladder" else ("posteriors",),
            },
        )
        self.inference = inference
        self.skip = bool(skip)

    @property
    def layers(self) -> int:
        """The number of stochastic layers."""
        return len(self.priors)

    # The generative model and the guide.

    def model(self, x: Tensor | None = None, *context: Tensor, num_samples: int = 1) -> Tensor:
        r"""The Pyro model :math:`\prod_n p(z_{nL}) \prod_l p(z_{nl}|z_{n,l+1})\, p(x_n|z_{n1})`.

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
        z: list[Tensor] = []
        with pyro.plate(PLATE, size, dim=-1):
            for layer in reversed(range(self.layers)):
                p_z = prior_of(self, layer, z[0] if z else None, context, swapped)
                z.insert(0, pyro.sample(_site(layer), p_z))
            taken = self._taken(z)
            own = expanded(context, taken.shape[:-1])
            p_x = call(self, "likelihood", taken, context=own, swapped=swapped)
            check_likelihood(p_x, taken)
            if x is not None:
                check_shape("x", x.shape, p_x)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor, *context: Tensor) -> tuple[Tensor, ...]:
        r"""The Pyro guide, bottom-up or top-down.

        Arguments:
            x: Data of shape ``(N, *x_shape)``.
            context: What is given with each example, tensors of shape ``(N, ...)``.

        Returns:
            A draw of each layer, of shape ``(N, z_dim)``, z1 first.

        Raises:
            TypeError, ValueError: x does not fit the parts, or these do not fit each other.
        """
        _, context = self._checked(x, context)
        swapped = self._bind(*self._called("guide"))
        z: dict[int, Tensor] = {}
        q: dict[int, dist.Distribution] = {}
        with pyro.plate(PLATE, len(x), dim=-1):
            for layer in self._order():
                q[layer] = posterior_of(self, self.inference, layer, x, z, context, swapped)
                z[layer] = pyro.sample(_site(layer), q[layer])
        self._check_layers(q, z, context)
        return tuple(z[layer] for layer in sorted(z))

    def _order(self) -> Sequence[int]:
        """The layers in the order in which the guide draws them."""
        up = range(self.layers)
        return up if self.inference == "bottom-up" else up[::-1]

    def _check_layers(
        self,
        q: Mapping[int, dist.Distribution],
        z: Mapping[int, Tensor],
        context: Sequence[Tensor],
    ) -> None:
        """Raises ValueError unless the layers of model and guide fit, the first time."""
        parts = (*self.priors, *self.posteriors)
        if self.checked == parts:
            return
        # The priors' sites belong to the model, and the check is no part of the noise.
        with poutine.block(), evaluating(self.priors), seeded(0, device=z[0].device):
            for layer in reversed(range(self.layers)):
                p_z = prior_of(self, layer, z.get(layer + 1), context)
                path = f"posteriors.{layer}"
                check_layer(path, q[layer], q[layer].batch_shape, p_z.event_shape)
                check_supports(p_z, q[layer], path)
        self.checked = parts

    def _taken(self, z: Sequence[Tensor]) -> Tensor:
        """What the likelihood takes of the layers."""
        if not self.skip:
            return z[0]
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in z))
        return torch.cat([value.expand(*batch, value.shape[-1]) for value in z], -1)

    # Point values, for pictures and inspection: in eval mode, without gradients.

    @one_at_a_time
    @torch.no_grad()
    def embed(self, x: Tensor, context: Context | None = None) -> tuple[Tensor, ...]:
        r"""The latent point of each layer, the posterior's mean at the points before it.

        Where the mean is missing or not finite, the average of 32 draws takes its place. The pair
        is in eval mode during the call, and no gradients are recorded.

        Arguments:
            x: A floating-point tensor of shape ``(N, *x_shape)``. It is moved to the pair's device
                and dtype.
            context: What is given with each x, a tensor or a tuple of them.

        Returns:
            The points of each layer, of shape ``(N, z_dim)``, z1 first.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.
        """
        check_float("x", x)
        given = self._given(context, points=False)
        z: dict[int, Tensor] = {}
        with evaluating(self):
            x = x.to(device_of(self), dtype_of(self))
            for layer in self._order():
                z[layer] = latent_point(posterior_of(self, self.inference, layer, x, z, given))
        return tuple(z[layer] for layer in sorted(z))

    @one_at_a_time
    @torch.no_grad()
    def decode(self, z: Tensor | Sequence[Tensor], context: Context | None = None) -> Tensor:
        r"""The point value of x at each z, the likelihood's mean :math:`E_{p(x|z)}[x]`.

        Where the mean is missing or not finite, the most probable value takes its place. The pair
        is in eval mode during the call, and no gradients are recorded.

        Arguments:
            z: The layers, as from :meth:`embed`; without ``skip``, z1 alone is enough.
            context: What is given with each z, of shape ``(N, ...)``.

        Returns:
            The point values, of shape ``(N, *x_shape)``.

        Raises:
            TypeError, ValueError: z is something else, or has no examples.
        """
        given = self._given(context, points=False)
        with evaluating(self):
            taken = self._taken(self._values(z, given))
            return point(call(self, "likelihood", taken, context=given))

    @one_at_a_time
    @torch.no_grad()
    def generate(
        self,
        num_samples: int,
        sample: bool = False,
        context: Context | None = None,
        *,
        level: int | None = None,
        z: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """New examples: draws the layers from the top down, and takes the point value of x there.

        With `level`, the layers above it are held fixed, and only z1 to that layer are drawn for
        each example: what varies is what these layers decide.

        Arguments:
            num_samples: Number of examples; for each row of the context or of `z`, if there are.
            sample: Draws x from the likelihood instead of taking its point value.
            context: What is given, a tensor of shape ``(rows, ...)`` or a tuple of them.
            level: The highest layer that is drawn for each example, from 0 to the number of
                layers. None draws all of them. The layers above are drawn once for each row.
            z: Values of all layers, such as ``embed(x)``, of which those above `level` are taken
                in place of a draw.

        Returns:
            The examples, of shape ``(num_samples * rows, *x_shape)``, those of the first row
            first.

        Raises:
            TypeError, ValueError: An argument has another type, or is out of range; `z` is given
                without a level.
        """
        check_count("num_samples", num_samples)
        check_flag("sample", sample)
        level = self._level(level, z)
        with evaluating(self):
            given = self._given(context, points=False)
            fixed = () if z is None else self._values(z, given)
            rows = len(given[0]) if given else len(fixed[0]) if fixed else 1
            drawn: list[Tensor] = []
            for layer in reversed(range(self.layers + 1)):
                if layer == level:  # From here down, each example has a draw of its own.
                    drawn = [value.repeat_interleave(num_samples, 0) for value in drawn]
                    given = tuple(c.repeat_interleave(num_samples, 0) for c in given)
                    rows *= num_samples
                if layer > level and fixed:
                    drawn.insert(0, fixed[layer - 1])
                elif layer:
                    p_z = prior_of(self, layer - 1, drawn[0] if drawn else None, given)
                    drawn.insert(0, p_z.sample() if p_z.batch_shape else p_z.sample((rows,)))
            p_x = call(self, "likelihood", self._taken(drawn), context=given)
            return p_x.sample() if sample else point(p_x)

    def _level(self, level: int | None, z: Sequence[Tensor] | None) -> int:
        """The highest layer that each example draws."""
        if level is None:
            if z is not None:
                raise ValueError("z: got it without a level, expected level=: what is above is z")
            return self.layers
        check_index("level", level)
        if level > self.layers:
            raise ValueError(f"level: got {level}, expected 0 to {self.layers}, the last layer")
        return plain(level)

    def _values(
        self, z: Tensor | Sequence[Tensor], context: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Values of layers on the pair's device: of all, or of z1 if that is enough."""
        if not isinstance(z, Tensor) and not is_sequence(z):
            raise TypeError(f"z: got {kind(z)}, expected a tensor, or one of each layer")
        values = (z,) if isinstance(z, Tensor) else tuple(z)
        enough = {self.layers} if self.skip else {1, self.layers}
        if len(values) not in enough:
            raise ValueError(
                f"z: got {len(values)} layers, expected {self.layers}, z1 first, as from embed(x)"
                + ("" if self.skip else "; or z1 alone")
            )
        for value in values:
            check_float("z", value)
            check_examples("z", value)
        rows = [len(value) for value in (*values, *context)]
        if len(set(rows)) > 1:
            raise ValueError(f"z: got {rows} rows in its layers and context, expected the same")
        return self.placed(values)


def _site(layer: int) -> str:
    """The name of a layer's site: ``"z1"`` for the layer with the index 0."""
    return f"z{layer + 1}"
