"""Files that are tables, and those that are none."""

from pathlib import Path

import pytest
import torch

from pyro_vae.runs import is_table, tables


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [f"{i / 7},{'xy'[i % 2]}" for i in range(40)]
    path = tmp_path / "people.CSV"
    path.write_text("\n".join(["income,region", *rows]))
    return path


def test_a_tenth_of_the_rows_is_the_test_set(file: Path) -> None:
    rows = tables.load(str(file))
    assert is_table(str(file))
    assert (len(rows.train), len(rows.test)) == (36, 4)
    every = torch.cat([rows.train, rows.test])
    income = every[:, 0].sort().values
    assert (income.diff() > 0).all()  # Each row is there once.


def test_a_description_reads_the_same_numbers(file: Path) -> None:
    first = tables.load(str(file))
    again = tables.load(str(file), first.table.to_dict())
    assert torch.equal(first.train, again.train)
    assert first.digest == again.digest


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a CSV file that is there"):
        tables.load(str(tmp_path / "none.csv"))
    empty, one, two = (tmp_path / f"{name}.csv" for name in ("empty", "one", "two"))
    empty.write_text("")
    with pytest.raises(ValueError, match="expected a CSV file with a header"):
        tables.load(str(empty))
    two.write_text("a,b\n1.5,x\n2.5,y\n")
    rows = tables.load(str(two))
    assert len(rows.test) == 1
    one.write_text("a,b\n1.5,x\n")
    with pytest.raises(ValueError, match="with one row, expected two or more"):
        tables.load(str(one), rows.table.to_dict())
