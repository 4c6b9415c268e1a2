"""Likelihoods of 8-bit images, in bits per dimension."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, plots, posteriors, priors
from pyro_vae.datasets import Pixels, bits_per_dim
from pyro_vae.studies.engine import (
    Z_DIM,
    Document,
    Figure,
    Result,
    Stage,
    VAEStudy,
    mlp,
    table,
)


def _maker(
    likelihood: Callable[[nn.Module], nn.Module], numbers: int = 1, levels: bool = False
) -> Callable[[Tensor], VAE]:
    """Returns what makes a VAE whose likelihood takes so many numbers for each pixel."""

    def make(train: Tensor) -> VAE:
        shape = tuple(train.shape[1:])
        encoder: nn.Module = mlp(shape, 2 * Z_DIM)
        if levels:
            encoder = networks.Scaled(encoder)
        decoder = mlp(Z_DIM, shape if numbers == 1 else (numbers, *shape))
        return VAE(priors.StandardNormal(Z_DIM), likelihood(decoder), posteriors.Normal(encoder))

    return make


DEQUANTIZED = {
    "Gaussian": _maker(likelihoods.Gaussian, 2),
    "Laplace": _maker(likelihoods.Laplace, 2),
    "StudentT": _maker(likelihoods.StudentT, 2),
    "Beta": _maker(likelihoods.Beta, 2),
    "ContinuousBernoulli": _maker(likelihoods.ContinuousBernoulli),
}
"""Densities of dequantized pixels."""

LEVELS = {
    "DiscretizedLogistic": _maker(likelihoods.DiscretizedLogistic, 2, levels=True),
    "DiscretizedLogistic(components=5)": _maker(
        partial(likelihoods.DiscretizedLogistic, components=5), 15, levels=True
    ),
    "Categorical": _maker(likelihoods.Categorical, 256, levels=True),
    "NegativeBinomial": _maker(likelihoods.NegativeBinomial, 2, levels=True),
    "Poisson": _maker(likelihoods.Poisson, levels=True),
}
"""Probabilities of 8-bit levels."""


@dataclass
class PixelLikelihoods(VAEStudy):
    """Likelihoods of 8-bit images in bits per dimension, and samples of each."""

    data: str = "fashion-mnist"
    epochs: int = 10
    train_examples: Annotated[int, "Number of training images, the first ones."] = 10_000
    examples: Annotated[int, "Number of test images, the first ones."] = 1000
    num_samples: int = 100

    folder, text = "likelihoods", "likelihoods.md"
    vaes = DEQUANTIZED | LEVELS
    draws = 10

    def sizes(self) -> tuple[int, int]:
        """Returns how many images to take."""
        return self.train_examples, self.examples

    def pixels(self, name: str) -> Pixels:
        """Returns what the likelihood is of."""
        return "levels" if name in LEVELS else "dequantized"

    def stages(self, name: str) -> Sequence[Stage]:
        """Returns the training; the seed is that of a second stage, as in the study of parts."""
        return Stage("trace_elbo", 0, plain=True), Stage("trace_elbo", self.epochs)

    def table(self, rows: Mapping[str, Result | None]) -> str:
        """Returns a line for each likelihood, in bits per dimension of the 8-bit levels."""

        def bits(row: Result) -> str:
            bound = "≤ " if row.pixels == "dequantized" else ""
            mean = bits_per_dim(-row.mean, row.shape, pixels=row.pixels)
            error = bits_per_dim(row.stderr, row.shape, pixels="levels")
            return f"{bound}{mean:.3f} ± {error:.3f}"

        return table(
            "likelihood",
            rows.items(),
            {
                "pixels": lambda row: row.pixels,
                "bits per dimension": bits,
                "of them KL": lambda row: (
                    f"{bits_per_dim(row.kl, row.shape, pixels='levels'):.4f}"
                ),
                "parameters": lambda row: f"{row.parameters:,}",
                "minutes": lambda row: f"{row.seconds / 60:.1f}",
            },
        )

    def document(self, rows: Mapping[str, Result | None]) -> Document:
        """Writes `likelihoods.md` and `.png`."""
        done = {name: row for name, row in rows.items() if row is not None}
        threads = next(iter(done.values())).threads
        samples = {name: row.samples for name, row in done.items() if row.samples is not None}
        return Document(
            "Likelihoods of 8-bit images",
            f"the first {self.train_examples:,} training images, standard normal prior, normal "
            f"posterior, {Z_DIM} latents, 200-200 tanh networks, batch 128, Adam at 1e-3, "
            f"{self.epochs} epochs. Bits per dimension are from the importance-weighted "
            f"log-likelihood of the first {self.examples:,} test images ({self.num_samples} "
            "samples for each), ± the standard error over images. There is one seed, and the "
            "errors do not cover what another seed would change. A likelihood of levels gives the "
            "code length itself. A density of dequantized pixels gives an upper bound on it (≤): "
            "the two can be compared, and the density may be better than its bound. Bernoulli "
            "likelihoods are left out: binarized images are other data, and cross entropy on grey "
            "images is no likelihood. Minutes of training are by the wall clock, whatever else "
            f"ran, with {threads} torch thread{'s' * (threads > 1)}.",
            self.table(rows),
            "The likelihoods' means at the same draws of the prior:",
            Figure(
                "likelihoods", "Samples of each likelihood", lambda: plots.side_by_side(samples)
            ),
        )
