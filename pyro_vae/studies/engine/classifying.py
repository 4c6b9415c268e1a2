"""Rows of classifiers and clusters: how many images of the test set are right."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch

from pyro_vae.studies.engine.document import table
from pyro_vae.studies.engine.rows import Row
from pyro_vae.utils.files import number

__all__ = ["Right", "right_table"]


@dataclass(frozen=True)
class Right(Row):
    """The share of test images whose class is right, after a training.

    Attributes:
        accuracy: That share, from 0 to 1; for clusters, by the best matching of clusters and
            classes.
        elbo: The mean ELBO of the test images, with the label as data if there are labels, in
            nats.
        seconds: The processor's time for training, over all threads, that of choosing included.
        tried: The share that is right of images that are held out, by the weight of the
            classifier's loss; empty if nothing was chosen.
        threads: The number of torch's threads.
    """

    accuracy: float
    elbo: float
    seconds: float
    tried: Mapping[str, float] = field(default_factory=dict)
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def outcome(self) -> str:
        """The share that is right."""
        return f"{100 * self.accuracy:.1f} % right, ELBO {self.elbo:.2f}"

    def record(self) -> dict[str, Any]:
        """Returns all attributes."""
        return {own.name: getattr(self, own.name) for own in fields(self)}

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Makes the row from its record."""
        for key in ("accuracy", "elbo", "seconds"):
            record[key] = number(record[key])
        return cls(**record)


def right_table(kinds: Mapping[str, str], rows: Mapping[str, Right | None]) -> str:
    """Returns a line for each kind of row: the mean over seeds, and the share of each seed.

    Arguments:
        kinds: Titles by kind; the name of a row is its kind and its seed.
        rows: The rows by name.
    """

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values)

    def weights(done: Sequence[Right]) -> str:
        return ", ".join(max(r.tried, key=lambda a: r.tried[a]) for r in done if r.tried)

    lines = []
    for kind, title in kinds.items():
        own = (row for name, row in rows.items() if name.startswith(f"{kind}, seed"))
        lines.append((title, [row for row in own if row is not None] or None))
    return table(
        "model",
        lines,
        {
            "right, %": lambda done: f"{100 * mean([r.accuracy for r in done]):.1f}",
            "by seed": lambda done: ", ".join(f"{100 * r.accuracy:.1f}" for r in done),
            "of the best ELBO": lambda done: (
                f"{100 * max(done, key=lambda r: r.elbo).accuracy:.1f}"
            ),
            "alpha by seed": weights,
            "minutes of two cores": lambda done: f"{mean([r.seconds for r in done]) / 120:.0f}",
        },
    )
