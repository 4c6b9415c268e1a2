"""Tables: the rows of a pandas DataFrame as numbers, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import likelihoods
from pyro_vae.datasets.columns import TableColumn, found
from pyro_vae.likelihoods import Column
from pyro_vae.utils.checks import check_mapping, check_tensor, kind
from pyro_vae.utils.extras import extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table"]


@dataclass(frozen=True, repr=False)
class Table:
    r"""The rows of a table as numbers x, with what brings them back: a likelihood for each column.

    ========= =================================== =================== ==========================
    kind      found for                           likelihood          x
    ========= =================================== =================== ==========================
    `"real"`  floats, and other integers          Gaussian            (value - mean) / deviation
    `"class"` booleans, strings, categories, and  Bernoulli of two,   0, 1, ...
              integers of at most ten values      else Categorical
    `"count"` other integers from 0 up            NegativeBinomial    the value
    ========= =================================== =================== ==========================

    Classes are in the order of the categories, or sorted. Counts are negative binomial because
    most have a greater variance than a Poisson of their mean, which is its limit. A missing value
    (None, NaN, NA) is NaN in x: a hole, see ``likelihoods.Observed``.

    Attributes:
        x: The numbers, of shape ``(N, columns)`` and torch's default dtype.
        columns: What each column is.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"age": [31.5, 42.0, 27.3], "sex": ["f", "m", "f"]})
        >>> table = datasets.Table.from_frame(frame)
        >>> table
        Table(rows=3, age: real, sex: class of 2)
        >>> network = networks.MLP(2, (8,), table.numbers)  # from two latents
        >>> likelihood = likelihoods.Columns(network, table.likelihoods)
        >>> list(table.to_frame(likelihood(torch.zeros(5, 2)).sample()).columns)
        ['age', 'sex']
    """

    x: Tensor
    columns: tuple[TableColumn, ...]

    @staticmethod
    def from_frame(
        frame: "pd.DataFrame", kinds: Mapping[str, Column | str] | None = None
    ) -> "Table":
        """The table of a frame.

        Arguments:
            frame: A pandas DataFrame. Its index is not kept.
            kinds: By name, what a column is where it is not to be found out: ``"real"``,
                ``"class"`` or ``"count"``, or a likelihood, as :class:`likelihoods.Columns` takes
                it. A likelihood on the reals gets standardized numbers, one of classes gets
                classes, and any other the numbers as they are.

        Raises:
            ImportError: pandas is not installed; it comes with the extra ``tables``.
            TypeError: `frame` is no DataFrame; a column has a dtype that is not supported, such as
                times, or one that its kind does not take.
            ValueError: The frame is empty, or a name is there twice; a column has holes alone, is
                constant, infinite, or off the support of its likelihood.
        """
        _check_frame(frame)
        kinds = {} if kinds is None else kinds
        check_mapping("kinds", kinds, "names to kinds", empty=True)
        for name in kinds:
            if name not in frame.columns:
                names = ", ".join(map(repr, frame.columns))
                raise ValueError(f"kinds: got {name!r}, expected columns of the frame: {names}")
        if not len(frame) or not len(frame.columns):
            raise ValueError(f"frame: got shape {frame.shape}, expected rows and columns")
        columns = tuple(found(frame[name], name, kinds.get(name)) for name in frame.columns)
        return Table(_encoded(frame, columns), columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def kinds(self) -> dict[str, str]:
        """``"real"``, ``"class"``, ``"count"``, or ``"raw"`` for other numbers, by name."""
        return {column.name: column.kind for column in self.columns}

    @property
    def likelihoods(self) -> dict[str, Column]:
        """The likelihood of each column, for :class:`likelihoods.Columns`."""
        return {column.name: column.likelihood for column in self.columns}

    @property
    def numbers(self) -> int:
        """The size of the output of the network of :class:`likelihoods.Columns`."""
        return likelihoods.Columns.numbers(self.likelihoods)

    @property
    def inputs(self) -> tuple[int | str, ...]:
        """``"real"``, ``"count"`` or the number of classes, for :class:`networks.Columns`."""
        return tuple(
            len(column.classes) or ("count" if column.kind == "count" else "real")
            for column in self.columns
        )

    @property
    def holes(self) -> bool:
        """Whether the frame has missing values."""
        return any(column.holes for column in self.columns)

    def log_jacobian(self, x: Tensor) -> Tensor:
        r"""What turns log p of rows of x into that of the rows in the frame's units, in nats.

        A real column is standardized, :math:`x_c = (y_c - \mu_c) / \sigma_c`, so that

        .. math:: \log p(y) = \log p(x) - \sum_{c\ real,\ observed} \log \sigma_c

        The sum is over the real columns that a row has, so it is the same for all rows without
        holes.

        Arguments:
            x: Rows of shape ``(N, columns)``, with NaN in holes.

        Returns:
            A number for each row, of shape ``(N,)``.

        Raises:
            TypeError, ValueError: `x` is no tensor of that shape.
        """
        self._check_rows(x)
        logs = [-math.log(column.scale) for column in self.columns]
        observed = (~torch.isnan(x)).double()
        return (observed @ observed.new_tensor(logs)).to(x.dtype)

    def encode(self, frame: "pd.DataFrame") -> Tensor:
        """The rows of a further frame as numbers, such as test rows.

        Arguments:
            frame: A DataFrame with the columns of the table, in any order.

        Returns:
            The numbers, of shape ``(N, columns)``, with NaN in holes.

        Raises:
            ImportError: pandas is not installed.
            TypeError: `frame` is no DataFrame, or a column has values of another kind.
            ValueError: The frame has no rows or other columns; a value is infinite, off its
                support, or of a class that the table has not.
        """
        _check_frame(frame)
        missing = [name for name in self.names if name not in frame.columns]
        more = [name for name in frame.columns if name not in self.names]
        if missing or more:
            raise ValueError(
                f"frame: got {f'no column {missing[0]!r}' if missing else f'column {more[0]!r}'}, "
                f"expected the columns of the table: {', '.join(map(repr, self.names))}"
            )
        if not len(frame):
            raise ValueError("frame: got no rows, expected one or more")
        return _encoded(frame, self.columns)

    def to_frame(self, x: Tensor) -> "pd.DataFrame":
        """A frame of rows, with the columns, their order and dtypes of the table's own.

        Integers are rounded: a mean may lie between two. Where a hole is left in a column of
        integers or booleans, its dtype is pandas' nullable one.

        Arguments:
            x: Rows of shape ``(N, columns)``, such as ``vae.generate(5)``.

        Raises:
            ImportError: pandas is not installed.
            TypeError: `x` is no tensor.
            ValueError: `x` has another shape; a number is infinite, no class, or out of the range
                of its dtype.
        """
        pandas = _pandas()
        self._check_rows(x)
        values = {c.name: c.values(x[:, place]) for place, c in enumerate(self.columns)}
        return pandas.DataFrame(values, columns=list(self.names))

    def fill(self, frame: "pd.DataFrame", x: Tensor) -> "pd.DataFrame":
        """A frame with the rows x in its holes.

        What is there stays as it is, to the last digit, and so do the index, the order of the
        columns and their dtypes. A column of holes alone gets the dtype of the table's.

        Arguments:
            frame: A DataFrame with the columns of the table, in any order.
            x: Its rows with fewer holes or none, such as
                ``impute(vae, table.encode(frame)).point``.

        Returns:
            A new frame.

        Raises:
            ImportError: pandas is not installed.
            TypeError, ValueError: As in :meth:`encode` and :meth:`to_frame`, or x has other rows
                than the frame.

        Example:
            >>> import pandas as pd
            >>> frame = pd.DataFrame({"age": [31.5, None, 27.3], "sex": ["f", "m", None]})
            >>> table = datasets.Table.from_frame(frame)
            >>> table.fill(frame, table.x.nan_to_num(0.0))["sex"].tolist()
            ['f', 'm', 'f']
        """
        own = self.encode(frame)
        self._check_rows(x)
        if len(x) != len(own):
            raise ValueError(f"x: got {len(x)} rows, expected the {len(own)} of the frame")
        there = ~torch.isnan(own)
        # The rounding of float32, which any dtype between may have had.
        off = there & ~torch.isclose(own, x.detach().to(own), rtol=2.5e-7, atol=0.0)
        if off.any():
            row, place = off.nonzero()[0].tolist()
            raise ValueError(
                f"x: got {x[row, place].item():g} in row {row}, column {self.names[place]!r}, "
                f"expected {own[row, place].item():g}, as the frame has there: the frame's rows, "
                "in its order"
            )
        filled = {c.name: c.filled(frame[c.name], x[:, i]) for i, c in enumerate(self.columns)}
        return _pandas().DataFrame(filled, index=frame.index, columns=frame.columns)

    def to_dict(self) -> dict[str, Any]:
        """What the columns are, in values of JSON, without the rows.

        Raises:
            TypeError: The likelihood of a column is not of this package.
        """
        return {"columns": [column.state() for column in self.columns]}

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> "Table":
        """The table without rows of what :meth:`to_dict` gave; pandas is not needed.

        Raises:
            TypeError: `state` is no mapping.
            ValueError: It is no description of columns.
        """
        check_mapping("state", state, "names to values")
        try:
            columns = tuple(TableColumn.of_state(each) for each in state["columns"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"state: got no description of columns ({error!r}), expected that of to_dict"
            ) from error
        return Table(torch.zeros(0, len(columns)), columns)

    def _check_rows(self, x: Tensor) -> None:
        """Raises TypeError or ValueError unless x has the shape ``(N, columns)``."""
        check_tensor("x", x, "N", "columns")
        if x.shape[1] != len(self.columns) or not x.is_floating_point():
            raise ValueError(
                f"x: got {x.dtype} of shape {tuple(x.shape)}, expected floats of shape "
                f"(N, {len(self.columns)})"
            )

    def __repr__(self) -> str:
        each = [
            f"{c.name}: {c.kind}" + (f" of {len(c.classes)}" if c.classes else "")
            for c in self.columns
        ]
        return f"Table({', '.join([f'rows={len(self.x)}', *each])})"


def _encoded(frame: "pd.DataFrame", columns: Sequence[TableColumn]) -> Tensor:
    """The numbers of a frame, of shape ``(N, columns)``."""
    return torch.stack([column.numbers(frame[column.name]) for column in columns], -1)


def _check_frame(frame: "pd.DataFrame") -> None:
    """Raises TypeError or ValueError unless `frame` is one, with a string for each column."""
    if not isinstance(frame, _pandas().DataFrame):
        raise TypeError(f"frame: got {kind(frame)}, expected a pandas.DataFrame")
    for name in frame.columns:
        if not isinstance(name, str):
            raise TypeError(
                f"frame: got a column of the name {name!r}, {kind(name)}, expected a string: "
                "frame.rename(columns=str)"
            )
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"frame: got two columns {name!r}, expected each name once")


def _pandas() -> Any:
    """pandas, which is imported only where a frame is given or asked for."""
    with extra("tables", {"pandas": "pandas"}, "tables"):
        import pandas
    return pandas
