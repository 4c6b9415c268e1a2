"""What a richer prior or posterior is worth in log-likelihood."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from pyro_vae import VAE, posteriors, priors
from pyro_vae.studies.engine import (
    Z_DIM,
    Document,
    Result,
    Stage,
    VAEStudy,
    bernoulli_vae,
    mlp,
    plus_minus,
    table,
    vamp_vae,
)

PLAIN = "StandardNormal, Normal"
"""The row that the others are compared with."""


def _low_rank(train: Tensor) -> VAE:
    network = mlp(train.shape[1:], (2 + 5) * Z_DIM)
    return bernoulli_vae(train, posterior=posteriors.LowRankNormal(network, rank=5))


def _flow(train: Tensor) -> VAE:
    network = mlp(train.shape[1:], 2 * Z_DIM + 100)  # the rest is the context of the transforms
    return bernoulli_vae(train, posterior=posteriors.Flow(network, Z_DIM))


VAES: dict[str, Callable[[Tensor], VAE]] = {
    PLAIN: bernoulli_vae,
    "GaussianMixture(50)": lambda train: bernoulli_vae(train, priors.GaussianMixture(Z_DIM, 50)),
    "VampPrior(500)": vamp_vae,
    "Flow prior": lambda train: bernoulli_vae(train, priors.Flow(Z_DIM)),
    "LowRankNormal(5)": _low_rank,
    "Flow posterior": _flow,
}
"""The rows: each VAE has one part other than the first."""

TRAINED_PRIORS = ("GaussianMixture(50)", "VampPrior(500)", "Flow prior")
"""The rows whose prior learns."""


@dataclass
class Parts(VAEStudy):
    """Richer priors and posteriors against the plain VAE: log-likelihoods on binarized pixels."""

    epochs: int = 100
    num_samples: int = 500
    plain_epochs: Annotated[
        int | None,
        "First epochs in which a standard normal takes the place of a prior that learns. "
        "Default: 5, but at most half of all.",
    ] = None

    folder, text = "parts", "parts.md"
    vaes = VAES
    always = (PLAIN,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plain_epochs is None:
            self.plain_epochs = min(5, self.epochs // 2)

    def stages(self, name: str) -> Sequence[Stage]:
        """Returns epochs with a standard normal prior, and those with the row's own."""
        plain = (self.plain_epochs or 0) if name in TRAINED_PRIORS else 0
        return (
            Stage("trace_elbo", plain, plain=True),
            Stage("trace_elbo", self.epochs - plain),
        )

    def table(self, rows: Mapping[str, Result | None]) -> str:
        """Returns a line for each VAE, with its paired difference from the plain one, in nats."""
        plain = rows[PLAIN]
        assert plain is not None, "the plain VAE is always run"

        def better(row: Result) -> str:
            return "" if row is plain else plus_minus(row.above(plain), "+")

        return table(
            "prior or posterior",
            rows.items(),
            {
                "log-likelihood": lambda row: f"{row.mean:.2f} ± {row.stderr:.2f}",
                "better by": better,
                "ELBO": lambda row: f"{row.elbo:.2f}",
                "KL": lambda row: f"{row.kl:.1f}",
                "median ESS": lambda row: f"{row.median_ess:.0f}",
                "parameters": lambda row: f"{row.parameters:,}",
                "minutes": lambda row: f"{row.seconds / 60:.1f}",
            },
        )

    def document(self, rows: Mapping[str, Result | None]) -> Document:
        """Writes `parts.md`."""
        plain = rows[PLAIN]
        assert plain is not None, "the plain VAE is always run"
        return Document(
            "What a richer prior or posterior is worth",
            f"dynamically binarized pixels, Bernoulli likelihood, {Z_DIM} latents, 200-200 tanh "
            "networks (those of `iwae-mlp`), batch 128, Adam at 1e-3, "
            f"{self.epochs} epochs. Each row has one part other than the first row's, which has a "
            "standard normal prior and a normal posterior. A prior that learns comes in after "
            f"{self.plain_epochs} of the epochs. All numbers are in nats. The log-likelihood is "
            f"importance-weighted, with {self.num_samples} samples for each of "
            f"{len(plain.values):,} test images (one seeded binarization of the levels with hash "
            f'`{plain.settings["test"]}`), ± its standard error over images. "Better by" is '
            "the mean paired difference from the first row, ± its standard error over images. "
            "There is one seed, and the errors do not cover what another seed would change. "
            "Minutes of training are by the wall clock, whatever else ran, with "
            f"{plain.threads} torch thread{'s' * (plain.threads > 1)}.",
            self.table(rows),
        )
