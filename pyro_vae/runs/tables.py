"""Tables in CSV files: their rows, for training and for testing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset, Table
from pyro_vae.runs.csv_file import read_csv

PRESET = "table-mlp"
"""The preset of a table if none is given."""

_TESTED = 10  # Every tenth row is one of the test set.


@dataclass(frozen=True, repr=False)
class Rows(Dataset):
    """The rows of a table; they have no labels.

    Attributes:
        table: What the columns are.
        digest: 16 hexadecimal digits of the SHA-256 of the file.
    """

    table: Table
    digest: str


def is_table(data: str) -> bool:
    """Whether the name of a data set is that of a file."""
    return Path(data).suffix.lower() == ".csv"


def table_of(vae: Composed) -> Table | None:
    """The table, without rows, whose rows the pair of a run models; None for images."""
    described = (vae.preset or {}).get("table")
    return None if described is None else Table.from_dict(described)


def load(
    path: str, described: Mapping[str, Any] | None = None, kinds: Mapping[str, str] | None = None
) -> Rows:
    """Reads a CSV file with a header, and takes every tenth row as a test row, in a fixed shuffle.

    Arguments:
        path: The file.
        described: What the columns are, as ``Table.to_dict`` says; None finds it out, from all
            rows.
        kinds: Kinds of columns that are not to be found out, as in ``Table.from_frame``.

    Raises:
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: pandas is not installed.
        ValueError: The file is no table, or has fewer than two rows.
    """
    known = None if described is None else Table.from_dict(described)
    file = read_csv(path, known)
    table = file.table(kinds) if known is None else known
    x = table.x if known is None else file.encode(table)
    if len(x) < 2:
        raise ValueError(f"data: got {path} with one row, expected two or more")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test = max(1, len(x) // _TESTED)
    none = torch.zeros(0, dtype=torch.int64)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return Rows(x[order[test:]], x[order[:test]], none, none, table, digest)
