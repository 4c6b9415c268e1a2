"""The study of likelihoods of 8-bit images, in bits per dimension."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from pyro_vae import plots
from pyro_vae.datasets import Pixels, bits_per_dim
from pyro_vae.likelihoods import (
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_vae.networks import Scaled
from pyro_vae.posteriors import Normal
from pyro_vae.priors import StandardNormal
from pyro_vae.studies.engine import Z_DIM, Result, mlp
from pyro_vae.utils.tables import markdown
from pyro_vae.vae import VAE

DRAWS = 10
"""Columns of the figure."""


def makers(shape: Sequence[int]) -> dict[str, tuple[Pixels, Callable[[], VAE]]]:
    """VAEs that differ in their likelihood of 8-bit levels: pixels and makers by name."""
    shape = tuple(shape)

    def vae(likelihood: Callable[..., nn.Module], numbers: int = 1, **options: int) -> VAE:
        out_shape = shape if numbers == 1 else (numbers, *shape)
        encoder: nn.Module = mlp(shape, 2 * Z_DIM)
        if likelihood in (DiscretizedLogistic, Categorical, NegativeBinomial, Poisson):
            encoder = Scaled(encoder)  # x is levels
        return VAE(
            StandardNormal(Z_DIM), likelihood(mlp(Z_DIM, out_shape), **options), Normal(encoder)
        )

    return {
        "Gaussian": ("dequantized", lambda: vae(Gaussian, 2)),
        "Laplace": ("dequantized", lambda: vae(Laplace, 2)),
        "StudentT": ("dequantized", lambda: vae(StudentT, 2)),
        "Beta": ("dequantized", lambda: vae(Beta, 2)),
        "ContinuousBernoulli": ("dequantized", lambda: vae(ContinuousBernoulli)),
        "DiscretizedLogistic": ("levels", lambda: vae(DiscretizedLogistic, 2)),
        "DiscretizedLogistic(components=5)": (
            "levels",
            lambda: vae(DiscretizedLogistic, 15, components=5),
        ),
        "Categorical": ("levels", lambda: vae(Categorical, 256)),
        "NegativeBinomial": ("levels", lambda: vae(NegativeBinomial, 2)),
        "Poisson": ("levels", lambda: vae(Poisson)),
    }


def table(results: Mapping[str, Result | None]) -> str:
    """A line for each likelihood in Markdown, in bits per dimension of the 8-bit levels."""
    header = ["likelihood", "pixels", "bits per dimension", "of them KL", "parameters", "minutes"]
    lines = []
    for name, result in results.items():
        if result is None:
            lines.append([name, "not run", *[""] * (len(header) - 2)])
            continue
        shape = result.shape
        bits = bits_per_dim(-result.mean, shape, pixels=result.pixels)
        error = bits_per_dim(result.stderr, shape, pixels="levels")
        bound = "≤ " if result.pixels == "dequantized" else ""
        kl = bits_per_dim(result.kl, shape, pixels="levels")
        lines.append(
            [
                name,
                result.pixels,
                f"{bound}{bits:.3f} ± {error:.3f}",
                f"{kl:.4f}",
                f"{result.parameters:,}",
                f"{result.seconds / 60:.1f}",
            ]
        )
    return markdown(header, lines)


def save(
    results: Mapping[str, Result | None], folder: Path, command: str, *, train: int
) -> list[Path]:
    """Writes `likelihoods.md` and `.png` from the rows that there are; returns their paths."""
    done = {name: result for name, result in results.items() if result is not None}
    first = next(iter(done.values()))
    folder.mkdir(parents=True, exist_ok=True)
    text, figure = folder / "likelihoods.md", folder / "likelihoods.png"
    drawn = {name: r.samples for name, r in done.items() if r.samples is not None}
    plots.save(plots.side_by_side(drawn), figure)
    text.write_text(
        "# Likelihoods of 8-bit images\n\n"
        f"Made by `{command}`: the first {train:,} training images, standard normal prior, normal "
        f"posterior, {Z_DIM} latents, 200-200 tanh each way, batch 128, Adam at 1e-3, "
        f"{first.settings['epochs']} epochs, one seed, whose luck the errors do not cover. Bits "
        "for each of an image's numbers, from "
        f"the importance-weighted log-likelihood of the first {len(first.values):,} test images "
        f"({first.settings['num_samples']} samples an image), ± the standard error over images. "
        "A likelihood of levels has the code length itself. Densities of dequantized pixels have "
        "an upper bound on it (≤), so they may stand beside the former, and may be better than "
        "they look. Bernoulli likelihoods are missing: binarized images are other data, and cross "
        "entropy on grey ones is no likelihood. Minutes of training by the wall clock, whatever "
        f"else ran: {first.threads} torch thread{'s' * (first.threads > 1)}.\n\n"
        f"{table(results)}\n\n"
        "The likelihoods' means at the same draws of the prior:\n\n"
        f"![Samples of each likelihood]({figure.name})\n"
    )
    return [text, figure]
