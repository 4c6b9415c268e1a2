"""The history of a training: columns of numbers, with one row for each epoch."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae import plots
from pyro_vae.training.ending import Ended
from pyro_vae.utils import html
from pyro_vae.utils.checks import check_path
from pyro_vae.utils.sealed import DamagedRun
from pyro_vae.utils.tables import markdown, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLUMNS", "History"]

COLUMNS = (
    "epoch",
    "cost",
    "reconstruction",
    "kl",
    "validation_cost",
    "test_cost",
    "seconds",
)
"""The columns of a history, in their order."""

_ROWS = 9  # of the table in a notebook
_DRAWN = ("cost", "validation_cost", "test_cost")


class History(Mapping[str, list[float]]):
    r"""The history of a training: one column for each quantity, one row for each epoch.

    Columns are lists. They are attributes and mapping entries: ``history.cost`` and
    ``history["cost"]`` are the same. Means are over the epoch's training examples, while the
    parameters change.

    Attributes:
        epoch: 1, 2, ...
        cost: The objective's mean, in nats per example; for an ELBO
            :math:`-E_q[\log p(x|z)] + KL(q, p)`.
        reconstruction: The mean of :math:`-E_q[\log p(x|z)]`, in nats per example, from the same
            samples as the cost. The lecture calls it "marginal loss".
        kl: The mean of :math:`KL(q, p)`, in nats per example, from the same samples or in closed
            form. For an ELBO, ``cost = reconstruction + kl``.
        kl_z1, kl_z2: The part of a latent site of that name in the KL, by the same samples,
            :math:`E_q[\log q(z_1|\cdot) - \log p(z_1|\cdot)]`. It may be negative if the guide
            draws the sites in another order than the model. These columns are there if the guide
            has several latent sites, none of them auxiliary or enumerated, in the order in which
            it draws them.
        validation_cost: The mean of -ELBO on the validation set after the epoch, in nats per
            example, with one sample for each example and the same noise in each epoch. The column
            is missing if :func:`fit` got no validation set.
        test_cost: The same of the test set.
        seconds: Wall-clock time of the epoch's training, without validation and test set.
        ended: How the training ended: ``"epochs"`` after all of them, ``"stopped"`` by a
            callback, or ``"interrupted"`` by Ctrl-C; None before its end, and after
            :meth:`load_csv`.

        recoveries: A text for each time that the training went back to a checkpoint, see
            :class:`Recovery`.

    Arguments:
        columns: The columns by name, of equal lengths.
        ended: How the training ended.
        recoveries: How it went back.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> history = fit(vae, torch.zeros(7, 28, 28), epochs=2, batch_size=7)
        >>> list(history)
        ['epoch', 'cost', 'reconstruction', 'kl', 'seconds']
        >>> len(history.cost), history.rows()[1]["epoch"]
        (2, 2)
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[float]],
        ended: Ended | None = None,
        recoveries: Sequence[str] = (),
    ) -> None:
        self._columns = {name: list(values) for name, values in columns.items()}
        self.ended = ended
        self.recoveries = list(recoveries)

    def __getitem__(self, column: str) -> list[float]:
        return self._columns[column]

    def __getattr__(self, column: str) -> list[float]:
        columns = vars(self).get("_columns", {})
        if column in columns:
            return columns[column]
        raise AttributeError(
            f"history has no column {column!r}, expected one of {', '.join(columns)}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def append(self, row: Mapping[str, float]) -> None:
        """Adds the row of an epoch.

        Arguments:
            row: A number for each column.
        """
        for name, value in row.items():
            self._columns[name].append(value)

    def rows(self) -> list[dict[str, float]]:
        """The rows of the history, one dict for each epoch."""
        return [
            dict(zip(self._columns, row, strict=True))
            for row in zip(*self._columns.values(), strict=True)
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the columns in nats per example against the epoch.

        Arguments:
            ax: The axes to draw on; None makes new ones.

        Returns:
            The axes.
        """
        return plots.training_curves(self, ax=ax)

    def save_csv(self, path: str | Path) -> None:
        """Writes the columns to a CSV file with a header and all digits.

        Arguments:
            path: The file.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> history = History({"epoch": [1, 2], "cost": [3.0, 2.0]})
            >>> with TemporaryDirectory() as folder:
            ...     history.save_csv(f"{folder}/metrics.csv")
            ...     print(History.load_csv(f"{folder}/metrics.csv").epoch)
            [1, 2]
        """
        write_csv(path, [list(self), *zip(*self._columns.values(), strict=True)])

    @classmethod
    def load_csv(cls, path: str | Path) -> "History":
        """Reads a CSV file that :meth:`save_csv` wrote.

        Arguments:
            path: The file.

        Raises:
            TypeError: `path` is no path.
            DamagedRun: The columns are others, or the file is damaged. It is a ValueError.
        """
        check_path("path", path)
        try:
            with Path(path).open(newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
        except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
            raise DamagedRun(f"{path}: damaged, expected a table of numbers ({error})") from error
        known = {*COLUMNS, *(name for name in header if name.startswith("kl_"))}
        if "epoch" not in header or not set(header) <= known:
            raise DamagedRun(
                f"{path}: got columns {header}, expected epoch and others of {list(COLUMNS)}"
            )
        try:
            values = [[float(cell) for cell in row] for row in rows]
            columns = dict(zip(header, zip(*values, strict=True), strict=True)) if rows else {}
            epochs = [int(epoch) for epoch in columns.get("epoch", ())]
        except (ValueError, OverflowError) as error:
            raise DamagedRun(f"{path}: damaged, expected a table of numbers ({error})") from error
        history = cls({name: columns.get(name, ()) for name in header})
        history._columns["epoch"] = list(epochs)
        return history

    def __repr__(self) -> str:
        header, *rows = self._cells()
        text = markdown(header, rows) + self._early("\n\n")
        return text + "".join(f"\n\n{recovery}" for recovery in self.recoveries)

    def _repr_html_(self) -> str:
        header, *rows = self._cells()
        shown = [rows[index] for index in html.spread(len(rows), _ROWS)]
        some = f"; {len(shown)} of {len(rows)} epochs" if len(shown) < len(rows) else ""
        return html.block(
            f"History of {len(rows)} epochs",
            html.table(header, shown, left=0),
            f"nats per example; seconds an epoch{some}{self._early('; ')}",
            html.sparkline({n: self[n] for n in _DRAWN if n in self}, "epoch"),
            *self.recoveries,
        )

    def _early(self, separator: str) -> str:
        """How the training ended, unless after all epochs."""
        return f"{separator}{self.ended}" if self.ended in ("stopped", "interrupted") else ""

    def _cells(self) -> list[list[str]]:
        rows = [
            [f"{value:d}" if name == "epoch" else f"{value:.2f}" for name, value in row.items()]
            for row in self.rows()
        ]
        return [list(self._columns), *rows]
