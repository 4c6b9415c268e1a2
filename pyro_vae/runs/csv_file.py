"""CSV files: their cells as numbers, and what is filled into the empty ones."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vae.datasets import Table
from pyro_vae.utils.checks import plain
from pyro_vae.utils.extras import extra

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 2**53  # up to which floats have all integers


@dataclass
class CSVFile:
    """A CSV file with a header. What pandas takes as missing, such as an empty cell, is a hole.

    Attributes:
        path: The file.
        frame: Its values.
    """

    path: Path
    frame: "pd.DataFrame"

    @cached_property
    def text(self) -> "pd.DataFrame":
        """Its cells as they are written."""
        return _parsed(self.path, dtype=str, keep_default_na=False, na_filter=False)

    def table(self, kinds: Any = None) -> Table:
        """The table of the file; raises ValueError as ``Table.from_frame`` raises any error."""
        with self._named():
            return Table.from_frame(self.frame, kinds)

    def encode(self, table: Table) -> Tensor:
        """The rows as numbers, without the columns that the table has not.

        Raises:
            ValueError: A column is missing, or has values that are none of the table's.
        """
        with self._named():
            return table.encode(self._of(table))

    def filled(self, table: Table, x: Tensor) -> "pd.DataFrame":
        """The cells, with the rows x in the holes; classes are written as elsewhere in the file.

        Arguments:
            table: What the columns are.
            x: The rows that :meth:`encode` gave, without holes.
        """
        own, cells = self._of(table), self.text.copy()
        values = table.fill(own, x)
        for column in table.columns:
            holes = own[column.name].isna() & values[column.name].notna()
            there = own[column.name].notna()
            written = {}
            if column.kind == "class":
                known = zip(own[column.name][there], cells[column.name][there], strict=True)
                written = {plain(value): text for value, text in reversed(list(known))}
            texts = [_text(plain(v), column.family, written) for v in values[column.name][holes]]
            cells.loc[holes, column.name] = texts
        return cells

    def _of(self, table: Table) -> "pd.DataFrame":
        """The columns of a table, if all are there."""
        names = [name for name in table.names if name in self.frame.columns]
        return self.frame[names]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of values name the file; those of a frame's types are of a wrong file here."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ValueError(f"data: {self.path}: {error}") from error


def read_csv(path: str | Path, table: Table | None = None) -> CSVFile:
    """Reads a CSV file with a header, where integers stay integers if some are missing.

    pandas writes them as 3.0 in a column with holes.

    Arguments:
        path: The file.
        table: What the columns are, if that is known: strings stay strings where all are digits.

    Raises:
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: pandas is not installed.
        ValueError: The file is no table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"data: got {path}, expected a CSV file that is there")
    strings = [c.name for c in table.columns if c.family == "str"] if table else []
    _check_fields(path)
    frame = _parsed(path, dtype_backend="numpy_nullable", dtype=dict.fromkeys(strings, "string"))
    for name, column in frame.items():
        there = column.dropna()
        if column.dtype != "Float64" or len(there) == len(column):
            continue
        if (there % 1 == 0).all() and (there.abs() <= _EXACT).all():
            frame[name] = column.astype("Int64")
    return CSVFile(path, frame)


def _parsed(path: Path, **settings: Any) -> "pd.DataFrame":
    with extra("tables", {"pandas": "pandas"}, "tables"):
        import pandas
    errors = pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError
    try:
        return pandas.read_csv(path, index_col=False, **settings)
    except errors as error:
        raise _no_table(path, error) from error


def _no_table(path: Path, reason: object) -> ValueError:
    return ValueError(f"data: got {path}, expected a CSV file with a header ({reason})")


def _check_fields(path: Path) -> None:
    """Raises ValueError unless each row has as many fields as the header, which are different.

    pandas takes the first of more fields as an index, and shifts the others.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next((row for row in rows if row), [])
            twice = {name for name in header if header.count(name) > 1}
            if twice:
                raise ValueError(
                    f"data: got {path} with two columns {min(twice)!r}, expected each name once"
                )
            if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
                raise ValueError(
                    f"data: got {path} with the only column {header[0]!r}, expected commas "
                    "between columns"
                )
            for row in rows:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"data: got {path} with {len(row)} fields in line {rows.line_num}, "
                        f"expected the {len(header)} of its header"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, error) from error


def _text(value: Any, family: str, written: dict[Any, str]) -> str:
    """A value as a cell: a class as the file writes it, and a float by nine digits."""
    if value in written:
        return written[value]
    return f"{value:.9g}" if family == "float" else str(value)  # as float32 has them
