"""The decoder of a pair: the point value of x at latents of the top, and its layers for a page."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import likelihoods, posteriors
from pyro_vae.composed import Composed
from pyro_vae.distributions import latent_point
from pyro_vae.models import HierarchicalVAE, MixtureVAE, NotMissingAtRandom, SemiSupervisedVAE
from pyro_vae.networks import Conditioned
from pyro_vae.pair import Pair
from pyro_vae.report.layers import Layer, NotInPage, computed, layers_of
from pyro_vae.report.pictures import as_images
from pyro_vae.utils.context import takes_context
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["BOUND", "MOST_BYTES", "Decoding", "decoding_of", "images_of", "is_given"]

BOUND = 1e-2
"""How far a pixel of the page may be off torch's, of a range of 1."""
MOST_BYTES = 4_000_000
"""The longest decoder that a page has, in bytes of base64."""

_DRAWS = 64


@dataclass(frozen=True)
class Decoding:
    """A pair's decoder.

    Attributes:
        vae: The pair.
        z_dim: The number of latents of the top layer.
        classes: The number of classes that it takes, or None.
        shape: The shape of x.
    """

    vae: Composed
    z_dim: int
    classes: int | None
    shape: tuple[int, ...]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The point value of x at latents of the top, layers below at their means.

        Arguments:
            z: Latents of shape ``(N, z_dim)``.
            y: Classes of shape ``(N,)``, if the decoder takes one.

        Returns:
            x of shape ``(N, *x_shape)``.
        """
        vae: Any = self.vae
        if isinstance(vae, HierarchicalVAE):
            return vae.decode(self._layers_of(z))
        if isinstance(vae, SemiSupervisedVAE) and y is not None:
            return vae.decode(z, y=y)
        point: Tensor = vae.decode(z) if self.classes is None else vae.decode(z, y)
        return point

    @torch.no_grad()
    def _layers_of(self, z: Tensor) -> list[Tensor]:
        """All layers of a hierarchy, z1 first, those below at the means of their priors."""
        vae: Any = self.vae
        values = [z.to(device_of(vae), dtype_of(vae))]
        with evaluating(vae):
            for prior in reversed(list(vae.priors)[:-1]):
                values.insert(0, latent_point(prior(values[0])))
        return values

    def of_each_class(self, count: int) -> Tensor:
        """The point values of x at draws of the prior, so many of each class."""
        y = torch.arange(self.classes or 1).repeat_interleave(count)
        return self.decode(self.prior().sample((len(y),)), y)

    def prior(self) -> Any:
        """The prior of the latents of the top."""
        vae: Any = self.vae
        return vae.priors[-1]() if isinstance(vae, HierarchicalVAE) else vae.prior()

    def layers(self) -> list[Layer]:
        """The layers that give :meth:`decode` in a page.

        Raises:
            NotInPage: A part of the decoder is not known, is too long, or is off by more than
                ``BOUND`` in float16.
        """
        vae: Any = self.vae
        layers: list[Layer] = []
        if isinstance(vae, HierarchicalVAE):
            if vae.skip:
                raise NotInPage("its likelihood takes all layers")
            for prior in reversed(list(vae.priors)[:-1]):
                layers += _mean_of(prior)
        layers += _head(vae.likelihood)
        if isinstance(vae, SemiSupervisedVAE) and vae.is_stacked:
            layers += _head(vae.below_likelihood)
        size = sum(w.numel() for layer in layers for w in layer.weights) * 2 * 4 // 3
        if size > MOST_BYTES:
            raise NotInPage(f"its weights are {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}")
        self._check(layers)
        return layers

    @torch.no_grad()
    def _check(self, layers: list[Layer]) -> None:
        with seeded(0):
            z = 1.5 * torch.randn(_DRAWS, self.z_dim)
            y = None if self.classes is None else torch.randint(self.classes, (_DRAWS,))
        off = (computed(layers, z, y) - self.decode(z, y).flatten(1).float().cpu()).abs().max()
        if not off <= BOUND:
            raise NotInPage(f"in float16, a pixel is off by {off.item():.2g}")


def decoding_of(vae: Composed) -> Decoding:
    """The decoder of a pair of images.

    Raises:
        NotInPage: The pair has no decoder of images.

    Example:
        >>> from pyro_vae.report.decoding import decoding_of
        >>> decoding = decoding_of(presets.build("conv", shape=(28, 28)))
        >>> decoding.z_dim, decoding.shape, len(decoding.layers())
        (20, (28, 28), 6)
    """
    if not isinstance(
        vae, VAE | MixtureVAE | HierarchicalVAE | SemiSupervisedVAE | NotMissingAtRandom
    ):
        raise NotInPage(f"a {type(vae).__name__} has no decoder that the page knows")
    likelihood = _inner(vae.likelihood)
    if isinstance(likelihood, likelihoods.Columns):
        raise NotInPage("x is a row of a table")
    classes = None
    if isinstance(vae, SemiSupervisedVAE):
        classes = vae.classes
    elif isinstance(network := getattr(likelihood, "network", None), Conditioned):
        classes = None if network.context_shape or network.entry else network.classes
    if classes is None and is_given(vae):
        raise NotInPage("it takes a context other than one class")
    draft = Decoding(vae, 0, classes, ())
    if draft.prior().support.is_discrete:
        raise NotInPage("its latents are discrete")
    z_dim = int(draft.prior().event_shape[0])
    y = None if classes is None else torch.zeros(1, dtype=torch.long)
    shape = tuple(draft.decode(torch.zeros(1, z_dim), y).shape[1:])
    return Decoding(vae, z_dim, classes, shape)


def is_given(vae: Composed) -> bool:
    """Whether x is made from a context too, beside the latents."""
    names = "prior", "priors", "likelihood"
    parts = [getattr(vae, name) for name in names if hasattr(vae, name)]
    each = [part for own in parts for part in (own if isinstance(own, nn.ModuleList) else [own])]
    return any(takes_context(part) for part in each)


def images_of(pair: Pair, x: Tensor) -> Tensor:
    """x of a pair as uint8 images of shape ``(N, H, W, 1 or 3)``; its greatest value is black.

    Raises:
        NotInPage: x is no image.
    """
    likelihood = _inner(getattr(pair, "likelihood", None))
    if isinstance(likelihood, likelihoods.Columns):
        raise NotInPage("x is a row of a table")
    counts = likelihoods.Poisson, likelihoods.NegativeBinomial
    levels = 256 if isinstance(likelihood, counts) else getattr(likelihood, "levels", 2)
    return as_images(x / (levels - 1))


def _inner(likelihood: nn.Module | None) -> nn.Module | None:
    """A likelihood, or the one that is observed in part."""
    return likelihood.likelihood if isinstance(likelihood, likelihoods.Observed) else likelihood


def _head(likelihood: nn.Module | None) -> list[Layer]:
    """The layers of a likelihood's network, and of its mean."""
    likelihood = _inner(likelihood)
    if isinstance(likelihood, posteriors.Normal):
        return _mean_of(likelihood)
    network = getattr(likelihood, "network", None)
    if network is None:
        raise NotInPage(f"the page knows no likelihood that is a {type(likelihood).__name__}")
    layers = layers_of(network)
    if isinstance(likelihood, likelihoods.Bernoulli):
        return [*layers, Layer("sigmoid")]
    located = likelihoods.Gaussian, likelihoods.Laplace, likelihoods.StudentT
    if isinstance(likelihood, located):
        both = likelihood.scale == "pixel"
        outputs: Any = getattr(network, "out_shape", None)
        if outputs is None:
            raise NotInPage("its network has no out_shape")
        return [*layers, Layer("first", {"count": outputs.numel() // (2 if both else 1)})]
    raise NotInPage(
        f"the page does not compute the mean of a {type(likelihood).__name__} likelihood"
    )


def _mean_of(part: nn.Module) -> list[Layer]:
    """The layers of a normal's mean, the first half of its network's numbers."""
    if type(part) is not posteriors.Normal:
        raise NotInPage(f"the page knows no layer that is a {type(part).__name__}")
    outputs: Any = getattr(part.network, "out_shape", None)
    if outputs is None:
        raise NotInPage("its network has no out_shape")
    return [*layers_of(part.network), Layer("first", {"count": outputs.numel() // 2})]
