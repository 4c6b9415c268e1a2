"""Runs of the command: their pair, settings and data, read again."""

from pyro_vae.runs.csv_file import read_csv
from pyro_vae.runs.opened import (
    Run,
    first_of,
    is_conditional,
    load_any,
    load_data,
    open_run,
    trained,
    with_labels,
)
from pyro_vae.runs.tables import PRESET, Rows, is_table, table_of

__all__ = [
    "PRESET",
    "Rows",
    "Run",
    "first_of",
    "is_conditional",
    "is_table",
    "load_any",
    "load_data",
    "open_run",
    "read_csv",
    "table_of",
    "trained",
    "with_labels",
]


def __dir__() -> list[str]:
    return __all__
