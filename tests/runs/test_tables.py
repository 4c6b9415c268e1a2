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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1.5,2.5,\n2.5,3.5,\n", "with 3 fields in line 2, expected the 2 of its header"),
        ("a,b\n1.5,2\n1.5\n", "with 1 fields in line 3, expected the 2"),
        ("a;b\n0,5;1\n0,7;2\n", "with the only column 'a;b', expected commas"),
        ("a,b,a\n1,2,3\n", "with two columns 'a', expected each name once"),
        ("a,b\n2020-01-01,abc\n2,\n", "column 'b': got 'abc' alone"),
    ],
)
def test_files_whose_fields_do_not_fit_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.load(str(path))


def test_huge_numbers_with_holes_stay_what_they_are(tmp_path: Path) -> None:
    """Whole numbers above 2^53 are floats, of which an integer would be another number."""
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["a,b", *(f"{i}e18,{'' if i % 5 == 0 else i}" for i in range(30))]))
    rows = tables.load(str(path), kinds={"a": "real"})
    assert rows.table.columns[0].loc == pytest.approx(14.5e18)
    path.write_text(
        "\n".join(["a,b", *(f"{i},{'' if i % 5 == 0 else f'{i}e18'}" for i in range(30))])
    )
    rows = tables.load(str(path))
    assert rows.table.columns[1].kind == "real"
    assert rows.table.columns[1].loc == pytest.approx(15e18)
