"""The history of a training: columns of numbers, with a row for each epoch."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae import plots
from pyro_vae.utils.tables import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("epoch", "cost", "reconstruction", "kl", "test_cost", "seconds")


class History(Mapping[str, list[float]]):
    r"""What ``fit`` measured: columns with a row for each epoch, in nats per example.

    Attributes:
        epoch: 1, 2, ...
        cost: The objective's value, for an ELBO :math:`-E_q[\log p(x|z)] + KL(q, p)`; the mean
            over the epoch's training examples, while the weights change.
        reconstruction: :math:`-E_q[\log p(x|z)]` from the same samples, the lecture's "marginal
            loss".
        kl: :math:`KL(q, p)` from the same samples, or in closed form; for an ELBO
            ``cost = reconstruction + kl``.
        test_cost: -ELBO on the test set after the epoch, one sample an example, with the same
            noise each time; only where there was a test set.
        seconds: Wall-clock time of the epoch's training, without the test set.
    """

    def __init__(self, columns: Mapping[str, Sequence[float]]) -> None:
        self._columns = {name: list(values) for name, values in columns.items()}

    def __getitem__(self, column: str) -> list[float]:
        return self._columns[column]

    def __getattr__(self, column: str) -> list[float]:
        columns = vars(self).get("_columns", {})
        if column in columns:
            return columns[column]
        raise AttributeError(f"history has no column {column!r}, it has {', '.join(columns)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def append(self, row: Mapping[str, float]) -> None:
        """Adds an epoch."""
        for name, value in row.items():
            self._columns[name].append(value)

    def rows(self) -> list[dict[str, float]]:
        """The history epoch by epoch."""
        return [
            dict(zip(self._columns, row, strict=True))
            for row in zip(*self._columns.values(), strict=True)
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the columns in nats per example against the epoch."""
        return plots.training_curves(self, ax=ax)

    def save_csv(self, path: str | Path) -> None:
        """Writes the columns as a CSV file with a header, all digits kept."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows(zip(*self._columns.values(), strict=True))

    @classmethod
    def load_csv(cls, path: str | Path) -> "History":
        """Reads what :meth:`save_csv` wrote.

        Raises:
            ValueError: The file is none of these.
        """
        with Path(path).open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if "epoch" not in header or not set(header) <= set(COLUMNS):
            raise ValueError(
                f"{path}: got columns {header}, expected epoch and more of {list(COLUMNS)}"
            )
        try:
            values = [[float(cell) for cell in row] for row in rows]
            columns = dict(zip(header, zip(*values, strict=True), strict=True)) if rows else {}
        except ValueError as error:
            raise ValueError(f"{path}: damaged table of epochs ({error})") from error
        history = cls({name: columns.get(name, ()) for name in header})
        history._columns["epoch"] = [int(epoch) for epoch in history["epoch"]]
        return history

    def __repr__(self) -> str:
        header, *rows = self._cells()
        return markdown(header, rows)

    def _repr_html_(self) -> str:
        header, *rows = self._cells()
        head = "".join(f"<th>{cell}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            "<p>nats per example; seconds an epoch</p>"
        )

    def _cells(self) -> list[list[str]]:
        rows = [
            [f"{value:d}" if name == "epoch" else f"{value:.2f}" for name, value in row.items()]
            for row in self.rows()
        ]
        return [list(self._columns), *rows]
