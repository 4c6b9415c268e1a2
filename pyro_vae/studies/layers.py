"""What several stochastic layers are worth in log-likelihood, beside their papers' numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae import likelihoods, models, networks, posteriors, presets, priors
from pyro_vae.studies.engine import (
    Document,
    Entry,
    Figure,
    PublishedStudy,
    Result,
    Stage,
    bernoulli_vae,
    learning_curves,
    plus_minus,
    pseudo_inputs,
    published,
    sources,
    table,
)


def _two_layers(train: Tensor) -> models.HierarchicalVAE:
    """The IWAE paper's: 100 and 50 latents, 200-200 and 100-100 tanh networks each way."""
    return presets.build("two-layers-mlp", shape=tuple(train.shape[1:]))


def _ladder(train: Tensor) -> models.HierarchicalVAE:
    """The ladder paper's: 64, 32, 16, 8 and 4 latents, networks of width 512 to 32 each way."""
    shape, z_dims, widths = train.shape[1:], (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)
    inputs: list[Sequence[int] | int] = [shape, *widths[:-1]]
    mlp = partial(networks.MLP, activation=partial(nn.LeakyReLU, 0.1))
    bodies: list[nn.Module] = []
    own = []
    for below, width, z_dim in zip(inputs, widths, z_dims, strict=True):
        bodies += [mlp(below, (width,), width), nn.LeakyReLU(0.1)]
        # The networks share what is below; compiled code computes it once.
        own.append(posteriors.Normal(nn.Sequential(*bodies, nn.Linear(width, 2 * z_dim))))
    down = [
        posteriors.Normal(mlp(above, (width, width), 2 * z_dim))
        for (z_dim, above), width in zip(pairwise(z_dims), widths[1:], strict=True)
    ]
    return models.HierarchicalVAE(
        [*down, priors.StandardNormal(z_dims[-1])],
        likelihoods.Bernoulli(mlp(z_dims[0], widths[:1] * 2, shape)),
        own,
        "ladder",
    )


def _vamp(train: Tensor) -> models.HierarchicalVAE:
    """The VampPrior paper's: 40 and 40 latents, gated networks of width 300, 500 pseudo-inputs."""
    shape, z, h = train.shape[1:], 40, 300
    of_x, of_z = networks.GatedMLP(shape, (h,), h), networks.GatedMLP(z, (h,), h)
    own = [
        posteriors.Normal(networks.Joint(of_x, of_z, networks.GatedMLP(2 * h, (h,), 2 * z))),
        posteriors.Normal(networks.GatedMLP(shape, (h, h), 2 * z)),
    ]
    return models.HierarchicalVAE(
        [
            posteriors.Normal(networks.GatedMLP(z, (h, h), 2 * z)),
            priors.VampPrior(own[1], pseudo_inputs(train)),
        ],
        likelihoods.Bernoulli(networks.GatedMLP(2 * z, (h, h), shape)),
        own,
        "top-down",
        skip=True,
    )


ONE = "one layer"
"""The row that the others are compared with."""
# fmt: off
ENTRIES: dict[str, Entry] = {
    ONE: Entry(bernoulli_vae, (Stage("trace_elbo", 1000, 3e-3), Stage("iwae:50", 360, 1e-3)),
               84.78, source="arXiv 1509.00519"),
    "two layers": Entry(
        _two_layers, (Stage("trace_elbo", 1000, 1e-3), Stage("iwae:50", 235, 5e-4)),
        82.90, source="arXiv 1509.00519"),
    "ladder of five": Entry(
        _ladder, (Stage("warm_up:93800:trace_elbo", 450, 1e-3), Stage("iwae:10", 150, 5e-4)),
        81.74, source="arXiv 1602.02282"),
    "two layers, VampPrior": Entry(
        _vamp, (Stage("trace_elbo", 5, 1e-3, plain=True),
                Stage("warm_up:46900:trace_elbo", 860, 1e-3)),
        81.24, source="arXiv 1705.07120"),
}
"""The rows, with the published numbers."""
# fmt: on


@dataclass
class Layers(PublishedStudy):
    """Several stochastic layers against one: an hour of two cores a row at most."""

    folder, text = "layers", "layers.md"
    entries = ENTRIES
    precision = "bf16"  # twice as fast for many samples

    def table(self, rows: Mapping[str, Result | None]) -> str:
        """Returns a line for each model: negative log-likelihoods in nats, as in the papers."""
        one = rows[ONE]
        columns: dict[str, Callable[[Result], str]] = {
            "here": lambda row: f"{-row.mean:.2f} ± {row.stderr:.2f}",
            "below one layer by": lambda row: (
                "" if one is None or row is one else plus_minus(row.above(one))
            ),
            "active units": lambda row: ", ".join(map(str, row.active)),
            "epochs": lambda row: row.schedule,
            "minutes of two cores": lambda row: f"{row.seconds / 120:.0f}",
            "median ESS": lambda row: f"{row.median_ess:.0f}",
        }
        return table("model", rows.items(), columns, known=published(ENTRIES))

    def document(self, rows: Mapping[str, Result | None]) -> Document:
        """Writes `layers.md` and `.png`."""
        return Document(
            "What several layers are worth",
            f"dynamically binarized pixels, Adam, batch {self.batch_size}, one seed, one cycle of "
            f"the learning rate in each stage of training, networks in {self.precision} for "
            "training and in float32 for evaluation. The first row is the IWAE paper's "
            "one-layer network, and the second its two-layer network with the same objectives. "
            "The ladder has the sizes of its paper, without batch norm. The last row has the "
            "VampPrior paper's two layers, gated networks and 500 pseudo-inputs; the first epochs "
            "have a standard normal at the top (plain; the curves leave them out). Numbers are "
            f"negative log-likelihoods in nats, from {self.num_samples} importance samples of "
            f"each of {len(self.test):,} test images (one seeded binarization of the levels with "
            f'hash `{self.hashes["test"]}`), ± the standard error over images. "Below one layer '
            'by" is the mean paired difference, ± its standard error over images, which does not '
            "cover what another seed would change. Active units are those of each layer. "
            "Minutes of two cores are half of the processor's time for training, over all "
            f"threads. Sources: {sources(ENTRIES)}.",
            self.table(rows),
            f"Log-likelihood of the first {self.curve_examples:,} test images (100 samples) by "
            "minutes of training on two cores:",
            Figure("layers", "Curves", lambda: learning_curves(rows)),
        )
