"""Holes of a frame, filled by rows of its table: what is there stays as it is."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.datasets import Table

from .test_tables import KINDS, frame, holed


def test_holes_alone_are_filled_and_dtypes_stay() -> None:
    """A permuted frame with an index of its own, as the complete one."""
    complete, missing = frame().convert_dtypes().astype(holed().dtypes), holed()
    order, index = list(missing.columns)[::-1], pd.Index(np.arange(len(missing))[::-1] * 2)
    missing = missing[order].set_axis(index)
    table = Table.from_frame(holed(), KINDS)
    x = table.encode(complete)
    filled = table.fill(missing, x)
    assert not filled.isna().any().any()
    assert (filled.dtypes == missing.dtypes).all()
    assert (filled.columns.equals(missing.columns), filled.index.equals(index)) == (True, True)
    made = table.to_frame(x)[order].set_axis(index)
    for name in order:
        hole = missing[name].isna()
        assert hole.any()  # The given frame is as it was.
        assert filled[name][~hole].tolist() == missing[name][~hole].tolist()
        assert filled[name][hole].tolist() == made[name][hole].tolist()


def test_what_is_there_keeps_all_digits() -> None:
    own = pd.DataFrame({"a": [0.1234567890123456789, None, 1e9], "b": [3, 4, 5]})
    table = Table.from_frame(own)
    filled = table.fill(own, table.x.nan_to_num(0.5))
    assert filled["a"].tolist()[::2] == own["a"].tolist()[::2]
    assert filled["a"][1] == pytest.approx(own["a"].mean() + 0.5 * own["a"].std(ddof=0))
    assert filled["b"].dtype == own["b"].dtype


def test_other_dtypes_than_the_tables() -> None:
    table = Table.from_frame(pd.DataFrame({"a": ["x", "y", "x"], "n": [7, 8, 9]}))
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = pd.DataFrame({"a": pd.Categorical(["y", None], ["y"]), "n": [7.0, None]})
    filled = table.fill(other, x)
    assert (filled["a"].tolist(), filled["n"].tolist()) == (["y", "x"], [7.0, 9.0])
    assert filled["a"].cat.categories.tolist() == ["x", "y"]
    nothing = table.fill(pd.DataFrame({"a": [None, None], "n": [7, 9]}), x)
    assert (nothing["a"].tolist(), nothing["a"].dtype) == (
        ["y", "x"],
        table.to_frame(x)["a"].dtype,
    )
    left = table.fill(other, torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]]))
    assert left.isna().to_numpy().tolist() == other.isna().to_numpy().tolist()


def test_an_ordered_category_that_is_added_has_its_place() -> None:
    levels = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    table = Table.from_frame(pd.DataFrame({"a": pd.Series(["low", "mid", "high"], dtype=levels)}))
    own = pd.CategoricalDtype(["mid", "high"], ordered=True)
    frame = pd.DataFrame({"a": pd.Series(["high", None, "mid"], dtype=own)})
    filled = table.fill(frame, torch.tensor([[2.0], [0.0], [1.0]]))["a"]
    assert (filled.tolist(), filled.cat.categories.tolist()) == (
        ["high", "low", "mid"], ["low", "mid", "high"],
    )  # fmt: skip
    assert filled.min() == "low"


def test_what_is_there_may_be_at_the_end_of_the_dtypes_range() -> None:
    most = 2**63 - 1
    frame = pd.DataFrame({"a": pd.array([most, 0, None], dtype="Int64")})
    table = Table.from_frame(frame, {"a": "real"})
    assert table.fill(frame, table.x.nan_to_num(0.5))["a"].tolist()[:2] == [most, 0]


def test_rows_of_another_frame_are_refused() -> None:
    own = pd.DataFrame({"a": [1.0, None, 3.0], "b": ["x", "y", None]})
    table = Table.from_frame(own)
    x = table.x.nan_to_num(0.0)
    table.fill(own, x)
    with pytest.raises(ValueError, match="x: got 2 rows, expected the 3 of the frame"):
        table.fill(own, x[:2])
    with pytest.raises(
        ValueError, match="x: got 0 in row 0, column 'a', expected -1, as the frame"
    ):
        table.fill(own, x[[1, 0, 2]])
