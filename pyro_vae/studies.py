"""Studies: what a richer prior or posterior is worth, and how likelihoods of pixels compare."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae import datasets, plots
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, elbo, log_likelihood
from pyro_vae.likelihoods import (
    Bernoulli,
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
from pyro_vae.networks import MLP, Scaled, xavier_
from pyro_vae.posteriors import Flow, LowRankNormal, Normal
from pyro_vae.priors import Flow as FlowPrior
from pyro_vae.priors import GaussianMixture, StandardNormal, VampPrior
from pyro_vae.seeding import seeded
from pyro_vae.tables import markdown
from pyro_vae.training import fit
from pyro_vae.vae import VAE

_Z_DIM = 50
_CONTEXT = 100

TRAINED_PRIORS = ("GaussianMixture(50)", "VampPrior(500)", "Flow prior")
"""Rows of :func:`richer_parts` whose prior learns."""


@dataclass(frozen=True)
class Result:
    """What became of one VAE.

    Attributes:
        name: Its parts.
        parameters: Number of trained parameters.
        log_likelihood: Of the test set.
        kl: Mean KL(q, p) on the test set, in nats.
        seconds: Of training.
        pixels: What x was.
        shape: Of one x.
        samples: Point values of draws of the prior, from black 0 to white 1, where asked for.
    """

    name: str
    parameters: int
    log_likelihood: LogLikelihood
    kl: float
    seconds: float
    pixels: Pixels
    shape: torch.Size
    samples: Tensor | None = None


def _mlp(in_shape: Sequence[int] | int, out_shape: Sequence[int] | int) -> MLP:
    """The networks of the IWAE paper's one-layer model: 200-200 tanh."""
    return MLP(in_shape, (200, 200), out_shape, activation=nn.Tanh, init=xavier_)


def richer_parts(train: Tensor) -> dict[str, Callable[[], VAE]]:
    """VAEs with one part other than the first: makers by name, for uint8 levels, binarized.

    Bernoulli pixels, 50 latents, 200-200 tanh each way.
    """
    shape = train.shape[1:]

    def vae(prior: nn.Module | None = None, posterior: nn.Module | None = None) -> VAE:
        return VAE(
            prior or StandardNormal(_Z_DIM),
            Bernoulli(_mlp(_Z_DIM, shape)),
            posterior or Normal(_mlp(shape, 2 * _Z_DIM)),
        )

    def vamp() -> VAE:
        posterior = Normal(_mlp(shape, 2 * _Z_DIM))
        # Grey levels are the mean of what binarization draws, inside the range of x.
        pseudo_inputs = train[torch.randperm(len(train))[:500]] / 255
        return vae(VampPrior(posterior, pseudo_inputs), posterior)

    return {
        "StandardNormal, Normal": vae,
        "GaussianMixture(50)": lambda: vae(GaussianMixture(_Z_DIM, 50)),
        "VampPrior(500)": vamp,
        "Flow prior": lambda: vae(FlowPrior(_Z_DIM)),
        "LowRankNormal(5)": lambda: vae(
            posterior=LowRankNormal(_mlp(shape, (2 + 5) * _Z_DIM), rank=5)
        ),
        "Flow posterior": lambda: vae(posterior=Flow(_mlp(shape, 2 * _Z_DIM + _CONTEXT), _Z_DIM)),
    }


def pixel_likelihoods(shape: Sequence[int]) -> dict[str, tuple[Pixels, Callable[[], VAE]]]:
    """VAEs that differ in their likelihood of 8-bit levels: pixels and makers by name.

    Standard normal prior, 50 latents, 200-200 tanh each way.
    """
    shape = tuple(shape)

    def vae(likelihood: Callable[..., nn.Module], numbers: int = 1, **options: int) -> VAE:
        out_shape = shape if numbers == 1 else (numbers, *shape)
        encoder: nn.Module = _mlp(shape, 2 * _Z_DIM)
        if likelihood in (DiscretizedLogistic, Categorical, NegativeBinomial, Poisson):
            encoder = Scaled(encoder)  # x is levels
        return VAE(
            StandardNormal(_Z_DIM),
            likelihood(_mlp(_Z_DIM, out_shape), **options),
            Normal(encoder),
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


def run(
    name: str,
    make: Callable[[], VAE],
    train: Tensor,
    test: Tensor,
    *,
    pixels: Pixels,
    epochs: int,
    num_samples: int,
    plain_epochs: int = 0,
    seed: int = 0,
    draws: int = 0,
) -> Result:
    """Trains a VAE on uint8 levels by ``fit``'s defaults, and judges it on the test set.

    A prior that learns can follow posteriors that do not look at x yet, and then nothing makes
    them look: from random weights a VampPrior on MNIST stays where all posteriors are alike. So
    the first epochs may have a standard normal in its place, as papers warm up the KL.

    Arguments:
        name: Its parts.
        make: Makes the VAE.
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        pixels: What they become.
        epochs: Passes over the training data.
        plain_epochs: How many of these have a standard normal prior, at first.
        num_samples: Importance samples for each test example.
        seed: Of weights, training, test pixels and importance samples.
        draws: How many draws of the trained prior to decode.
    """
    with seeded(seed):
        vae = make()
    seconds = 0.0
    if plain_epochs:
        plain = VAE(StandardNormal(_Z_DIM), vae.likelihood, vae.posterior)
        seconds += sum(fit(plain, train, epochs=plain_epochs, pixels=pixels, seed=seed).seconds)
    history = fit(vae, train, epochs=epochs - plain_epochs, pixels=pixels, seed=seed + 1)
    seconds += sum(history.seconds)
    with seeded(seed):
        x = datasets.to_pixels(test, pixels)
    likelihood = log_likelihood(vae, x, num_samples, seed=seed)
    with seeded(seed):
        samples = vae.generate(draws) if draws else None
    if samples is not None and pixels == "levels":
        samples = samples / 255
    return Result(
        name,
        sum(p.numel() for p in vae.parameters() if p.requires_grad),
        likelihood,
        elbo(vae, x, 10, seed=seed).kl_mean,
        seconds,
        pixels,
        test.shape[1:],
        samples,
    )


def richer_parts_table(results: Sequence[Result]) -> str:
    """One row for each VAE in Markdown, and its paired difference from the first, in nats."""
    header = [
        "prior or posterior",
        "log-likelihood",
        "better by",
        "ELBO",
        "KL",
        "median ESS",
        "parameters",
        "minutes",
    ]
    first = results[0].log_likelihood.values
    rows = []
    for result in results:
        ll = result.log_likelihood
        gain = ll.values - first
        error = gain.std().item() / len(gain) ** 0.5
        rows.append(
            [
                result.name,
                f"{ll.mean:.2f} ± {ll.stderr:.2f}",
                "" if result is results[0] else f"{gain.mean().item():+.2f} ± {error:.2f}",
                f"{ll.elbo.mean().item():.2f}",
                f"{result.kl:.1f}",
                f"{ll.ess.median().item():.0f}",
                f"{result.parameters:,}",
                f"{result.seconds / 60:.1f}",
            ]
        )
    return markdown(header, rows)


def save_richer_parts(
    results: Sequence[Result], folder: str | Path, command: str, epochs: int, plain_epochs: int
) -> list[Path]:
    """Writes `results.md` and `results.csv`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / "results.md", folder / "results.csv"
    _write_csv(data, results)
    ll = results[0].log_likelihood
    text.write_text(
        "# What a richer prior or posterior is worth\n\n"
        f"Made by `{command}`: full training set, dynamically binarized; Bernoulli pixels, "
        f"{_Z_DIM} latents, 200-200 tanh each way (the network of `iwae-mlp`), batch 128, Adam at "
        f"1e-3, {epochs} epochs, one seed. Each row has one part other than the first row's, "
        "standard normal prior and normal posterior; a trained prior comes in after "
        f"{plain_epochs} of the epochs. In nats: importance-weighted log-likelihood of "
        f"{len(ll.values):,} test images ({ll.num_samples} samples an image, one seeded "
        f"binarization, data hash `{ll.data_hash}`), ± its standard error over images; better by: "
        "the mean paired difference from the first row, ± its standard error over images.\n\n"
        f"{richer_parts_table(results)}\n"
    )
    return [text, data]


def pixel_likelihoods_table(results: Sequence[Result]) -> str:
    """One row for each likelihood in Markdown, in bits per dimension of the 8-bit levels."""
    rows = []
    for result in results:
        shape = result.shape
        bits = datasets.bits_per_dim(-result.log_likelihood.values, shape, pixels=result.pixels)
        error = bits.std().item() / len(bits) ** 0.5
        bound = "≤ " if result.pixels == "dequantized" else ""
        kl = datasets.bits_per_dim(result.kl, shape, pixels="levels")
        rows.append(
            [
                result.name,
                result.pixels,
                f"{bound}{bits.mean().item():.3f} ± {error:.3f}",
                f"{kl:.4f}",
                f"{result.parameters:,}",
                f"{result.seconds / 60:.1f}",
            ]
        )
    header = ["likelihood", "pixels", "bits per dimension", "of them KL", "parameters", "minutes"]
    return markdown(header, rows)


def save_pixel_likelihoods(
    results: Sequence[Result], folder: str | Path, command: str, *, train: int, epochs: int
) -> list[Path]:
    """Writes `likelihoods.md`, `.csv` and `.png`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text, data, figure = (folder / f"likelihoods.{ending}" for ending in ("md", "csv", "png"))
    _write_csv(data, results)
    drawn = {r.name: r.samples for r in results if r.samples is not None}
    plots.save(plots.side_by_side(drawn), figure)
    ll = results[0].log_likelihood
    text.write_text(
        "# Likelihoods of 8-bit images\n\n"
        f"Made by `{command}`: the first {train:,} training images, standard normal prior, normal "
        f"posterior, {_Z_DIM} latents, 200-200 tanh each way, batch 128, Adam at 1e-3, {epochs} "
        f"epochs, one seed. Bits for each of an image's numbers, from the importance-weighted "
        f"log-likelihood of the first {len(ll.values):,} test images ({ll.num_samples} samples "
        "an image), ± the standard error over images. A likelihood of levels has the code length "
        "itself. Densities of dequantized pixels have an upper bound on it (≤), so they may stand "
        "beside the former, and may be better than they look. Bernoulli likelihoods are missing: "
        "binarized images are other data, and cross entropy on grey ones is no likelihood.\n\n"
        f"{pixel_likelihoods_table(results)}\n\n"
        "The likelihoods' means at the same draws of the prior:\n\n"
        f"![Samples of each likelihood]({figure.name})\n"
    )
    return [text, data, figure]


def _write_csv(path: Path, results: Sequence[Result]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "name",
                "pixels",
                "log_likelihood",
                "stderr",
                "mc_error",
                "elbo",
                "kl",
                "parameters",
                "seconds",
            ]
        )
        for result in results:
            ll = result.log_likelihood
            numbers = (ll.mean, ll.stderr, ll.mc_error, ll.elbo.mean().item(), result.kl)
            row = [result.name, result.pixels, *(f"{n:.4f}" for n in numbers)]
            writer.writerow([*row, result.parameters, f"{result.seconds:.1f}"])
