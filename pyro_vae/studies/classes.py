"""Classes from a hundred labels, and from none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import VAE, elbo, evaluation, fit, models, objectives, optim, presets, priors
from pyro_vae.datasets import binarize, keep_labels
from pyro_vae.studies.engine import Clock, Document, Right, Say, Study, built, right_table

M2, WITHOUT, CLUSTERS = "M2", "M2, without", "clusters"
_KINDS = {
    M2: "M2, classifier's loss",
    WITHOUT: "M2 without that loss",
    CLUSTERS: "ten clusters, no labels",
}


@dataclass
class Classes(Study[Right]):
    """Semi-supervised digits with 100 labels, and clusters without any: three seeds."""

    labels: Annotated[int, "Labels that are kept, as many of each class."] = 100
    held_out: Annotated[int, "Training images by whose labels alpha is chosen."] = 1000
    epochs: int = 60
    short_epochs: Annotated[int, "Epochs for each candidate of alpha."] = 10
    plain_epochs: Annotated[int, "Epochs of clusters with a standard normal prior."] = 15
    cluster_epochs: Annotated[int, "Epochs of clusters with their mixture."] = 60
    seeds: Annotated[int, "Runs of each, on seeds 0, 1, ..."] = 3

    folder, text = "classes", "classes.md"
    alphas = 60.0, 1000.0, 10000.0  # the first is the paper's, 0.1 N / L

    @property
    def kind(self) -> type[Right]:
        """The class of the rows."""
        return Right

    def names(self) -> Sequence[str]:
        """Returns a name for each kind of row and seed; without the loss, for one seed."""
        return [
            f"{kind}, seed {seed}"
            for kind in _KINDS
            for seed in range(1 if kind == WITHOUT else self.seeds)
        ]

    def settings(self, name: str) -> dict[str, Any]:
        """Returns what a row depends on."""
        kind, _, seed = name.rpartition(", seed ")
        own: dict[str, Any] = {**self.hashes, "seed": int(seed)}
        if kind == CLUSTERS:
            return own | {"epochs": [self.plain_epochs, self.cluster_epochs]}
        own |= {"labels": self.labels, "held_out": self.held_out, "epochs": self.epochs}
        if kind == M2:
            own |= {"short_epochs": self.short_epochs, "alphas": list(self.alphas)}
        return own

    def run(self, name: str, say: Say = print) -> Right:
        """Trains a row, and counts the test images that are right."""
        kind, _, _ = name.rpartition(", seed ")
        settings, seed, clock = self.settings(name), int(name.rpartition(" ")[2]), Clock()
        x, y = binarize(self.test, seed=0), self.dataset.test_labels[: len(self.test)]
        if kind == CLUSTERS:
            mixture = self._clusters(name, seed, clock)
            right = evaluation.cluster_accuracy(mixture.classify(x), y)
            bound = elbo(mixture, x, num_samples=10, seed=seed).mean
            return Right(name, settings, right, bound, clock.seconds)
        tried: dict[str, float] = {}
        if kind == M2:
            tried = {f"{a:g}": self._held_out(name, a, seed, clock, say) for a in self.alphas}
        alpha = float(max(tried, key=lambda a: tried[a])) if tried else 0.0
        vae = self._trained(self.runs(name) / "whole", alpha, self.epochs, seed, clock)
        right = (vae.classify(x).argmax(1) == y).double().mean().item()
        bound = elbo(vae, (x, y), num_samples=10, seed=seed).mean
        return Right(name, settings, right, bound, clock.seconds, tried)

    def _held_out(self, name: str, alpha: float, seed: int, clock: Clock, say: Say) -> float:
        """The share of held-out images that is right after a short training."""
        folder = self.runs(name) / f"alpha-{alpha:g}"
        vae = self._trained(folder, alpha, self.short_epochs, seed, clock)
        x, y = (data[: self.held_out] for data in (self.train, self.dataset.train_labels))
        right = (vae.classify(binarize(x, seed=0)).argmax(1) == y).double().mean().item()
        say(f"alpha {alpha:g}, seed {seed}: {100 * right:.1f} % of held-out images right")
        return right

    def _trained(
        self, folder: Path, alpha: float, epochs: int, seed: int, clock: Clock
    ) -> models.SemiSupervisedVAE:
        """M2 of the images that are not held out, with few labels."""
        x, labels = (
            data[self.held_out : len(self.train)]
            for data in (self.train, self.dataset.train_labels)
        )
        shape = tuple(x.shape[1:])
        vae = built(lambda: presets.build("semi-supervised-mlp", z_dim=50, shape=shape), seed)
        bound = objectives.enumerated()
        objective = objectives.classified(alpha, bound) if alpha else bound
        some = keep_labels(labels, self.labels, seed)
        self._fit(folder, vae, (x, some), epochs, seed, clock, objective, labelled=0.125)
        return vae

    def _clusters(self, name: str, seed: int, clock: Clock) -> models.MixtureVAE:
        """A plain VAE, a mixture of its latent points, and all of it together."""
        x, runs = self.train, self.runs(name)
        vae = built(lambda: presets.build("mixture-mlp", shape=tuple(x.shape[1:])), seed)
        plain = VAE(priors.StandardNormal(10), vae.likelihood, vae.posterior)
        self._fit(runs / "plain", plain, x, self.plain_epochs, seed, clock)
        vae.fit_prior(binarize(x, seed=seed), seed=seed)
        bound = objectives.enumerated()
        self._fit(runs / "mixture", vae, x, self.cluster_epochs, seed, clock, bound)
        return vae

    def _fit(
        self, folder: Path, vae: Any, train: Any, epochs: int, seed: int, clock: Clock,
        objective: Any = None, labelled: float | None = None,
    ) -> None:  # fmt: skip
        steps = epochs * math.ceil(len(self.train) / 128)
        falling = optim.Adam(lr=1e-3, schedule=lambda adam: CosineAnnealingLR(adam, steps))
        history = fit(
            vae, train, epochs=epochs, seed=seed, objective=objective, labelled=labelled,
            optim=falling, pixels="binary", precision="bf16", callbacks=[clock],
            checkpoint=folder, checkpoint_every="10 min", resume=True,
        )  # fmt: skip
        if history.ended == "interrupted":
            raise KeyboardInterrupt

    def document(self, rows: Mapping[str, Right | None]) -> Document:
        """Writes `classes.md`."""
        alphas = ", ".join(f"{a:g}" for a in self.alphas)
        return Document(
            "Classes from a hundred labels, and from none",
            "dynamically binarized pixels, presets `semi-supervised-mlp` (50 latents) and "
            "`mixture-mlp` (10), `objectives.enumerated()`, Adam from 1e-3 to 0 by a cosine, "
            f"batches of 128, bf16. M2 has {self.labels} labels, as many of each class, an eighth "
            f"of each batch (`labelled=0.125`), and {self.epochs} epochs. The weight alpha of "
            f"`objectives.classified` is that of {alphas} which gets most of {self.held_out:,} "
            f"held-out training images right after {self.short_epochs} epochs. Clusters have "
            f"{self.plain_epochs} epochs with a standard normal prior, then `fit_prior`, then "
            f"{self.cluster_epochs} epochs; each is matched with one class. Shares are of "
            f"{len(self.test):,} test images, in one seeded binarization. Minutes of two cores "
            "are half of the processor's time for training, over all threads, that of choosing "
            "alpha included. For comparison: Kingma et al. (2014) have 88.0 % by M2 and 96.7 % by "
            "M1+M2 with 100 labels.",
            right_table(_KINDS, rows),
        )
