"""The study of richer priors and posteriors: what each is worth in log-likelihood."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.posteriors import Flow, LowRankNormal, Normal
from pyro_vae.priors import Flow as FlowPrior
from pyro_vae.priors import GaussianMixture, StandardNormal, VampPrior
from pyro_vae.studies.engine import Z_DIM, Result, mlp
from pyro_vae.utils.tables import markdown
from pyro_vae.vae import VAE

PLAIN = "StandardNormal, Normal"
"""The row that the others are compared with."""

TRAINED_PRIORS = ("GaussianMixture(50)", "VampPrior(500)", "Flow prior")
"""Rows whose prior learns."""

_CONTEXT = 100


def makers(train: Tensor) -> dict[str, Callable[[], VAE]]:
    """VAEs with one part other than the first: makers by name, for uint8 levels, binarized."""
    shape = train.shape[1:]

    def vae(prior: nn.Module | None = None, posterior: nn.Module | None = None) -> VAE:
        return VAE(
            prior or StandardNormal(Z_DIM),
            Bernoulli(mlp(Z_DIM, shape)),
            posterior or Normal(mlp(shape, 2 * Z_DIM)),
        )

    def vamp() -> VAE:
        posterior = Normal(mlp(shape, 2 * Z_DIM))
        return vae(VampPrior(posterior, pseudo_inputs(train)), posterior)

    return {
        PLAIN: vae,
        "GaussianMixture(50)": lambda: vae(GaussianMixture(Z_DIM, 50)),
        "VampPrior(500)": vamp,
        "Flow prior": lambda: vae(FlowPrior(Z_DIM)),
        "LowRankNormal(5)": lambda: vae(
            posterior=LowRankNormal(mlp(shape, (2 + 5) * Z_DIM), rank=5)
        ),
        "Flow posterior": lambda: vae(posterior=Flow(mlp(shape, 2 * Z_DIM + _CONTEXT), Z_DIM)),
    }


def pseudo_inputs(train: Tensor) -> Tensor:
    """500 examples, as grey levels: the mean of what binarization draws, inside the range of x."""
    return train[torch.randperm(len(train))[:500]] / 255


def gain(result: Result, plain: Result) -> tuple[float, float]:
    """Mean paired difference in log-likelihood, in nats, and its standard error over images."""
    difference = result.values - plain.values
    return difference.mean().item(), difference.std().item() / math.sqrt(len(difference))


def table(results: Mapping[str, Result | None]) -> str:
    """A line for each VAE in Markdown, and its paired difference from the plain one, in nats."""
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
    plain = results[PLAIN]
    lines = []
    for name, result in results.items():
        if result is None:
            lines.append([name, "not run", *[""] * (len(header) - 2)])
            continue
        assert plain is not None, "the plain VAE is run first"
        mean, error = gain(result, plain)
        lines.append(
            [
                name,
                f"{result.mean:.2f} ± {result.stderr:.2f}",
                "" if result is plain else f"{mean:+.2f} ± {error:.2f}",
                f"{result.elbo:.2f}",
                f"{result.kl:.1f}",
                f"{result.median_ess:.0f}",
                f"{result.parameters:,}",
                f"{result.seconds / 60:.1f}",
            ]
        )
    return markdown(header, lines)


def save(results: Mapping[str, Result | None], folder: Path, command: str) -> list[Path]:
    """Writes `parts.md` from the rows that there are; returns its path."""
    plain = results[PLAIN]
    assert plain is not None, "the plain VAE is run first"
    settings = plain.settings
    warm = max((r.settings["plain_epochs"] for r in results.values() if r is not None), default=0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "parts.md"
    path.write_text(
        "# What a richer prior or posterior is worth\n\n"
        f"Made by `{command}`: dynamically binarized; Bernoulli pixels, {Z_DIM} latents, 200-200 "
        "tanh each way (the network of `iwae-mlp`), batch 128, Adam at 1e-3, "
        f"{settings['epochs']} epochs, one seed, whose luck the errors do not cover. Each row has "
        "one part other than the first "
        "row's, standard normal prior and normal posterior; a trained prior comes in after "
        f"{warm} of the epochs. In nats: importance-weighted log-likelihood of "
        f"{len(plain.values):,} test images ({settings['num_samples']} samples an image, one "
        f"seeded binarization of the levels with hash `{settings['test']}`), ± its standard error "
        "over images; better by: the mean paired difference from the first row, ± its standard "
        f"error over images. Minutes of training by the wall clock, whatever else ran: "
        f"{plain.threads} torch thread{'s' * (plain.threads > 1)}.\n\n"
        f"{table(results)}\n"
    )
    return [path]
