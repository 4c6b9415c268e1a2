"""Pictures of tables: which columns, and what the bars and points are."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import plots


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    real = pd.DataFrame(
        {
            "age": [30.5, 20.0, 41.2, None],
            "sex": ["f", "m", None, "m"],
            "visits": pd.array([3, None, 1, 1], dtype="Int64"),
            "size": pd.Categorical(["s", "l", "s", "s"], ["s", "m", "l"], ordered=True),
            "owner": [True, False, False, True],
            "rooms": [1, 30, 100, 5],
        }
    )
    return real, real.assign(sex=["x", "f", "f", "f"], age=[1.0, 2.0, 3.0, 4.0])


def test_bars_are_shares_and_histograms_densities() -> None:
    real, generated = frames()
    ax = plots.columns(real, generated)
    cells = ax.child_axes
    assert len(cells) == 6 * 7 // 2
    by_name = {cell.get_title(): cell for cell in cells if cell.get_title()}
    assert list(by_name) == list(real.columns)
    bars = [bar.get_height() for bar in by_name["sex"].patches]
    # f, m and x among the real ones that are there, and then among the generated ones.
    assert bars == pytest.approx([1 / 3, 2 / 3, 0, 3 / 4, 0, 1 / 4])
    below = cells[15 + 3]  # the fourth of the last row
    labels = [text.get_text() for text in below.get_xticklabels()]
    assert labels == ["s", "l"]  # in the order of the categories
    bars = [bar for bar in by_name["rooms"].patches if hasattr(bar, "get_height")]
    area = sum(bar.get_height() * bar.get_width() for bar in bars)
    assert area == pytest.approx(1.0)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["real", "generated"]


def test_pairs_are_rows_of_both_tables() -> None:
    real, generated = torch.randn(500, 2).double(), torch.randn(50, 2).double().numpy()
    real[0, 0] = math.nan
    ax = plots.columns(real, generated, names=["a", "b"])
    pair = ax.child_axes[1]
    drawn = [np.asarray(points.get_offsets()) for points in pair.collections]
    assert [len(points) for points in drawn] == [400, 50]
    assert drawn[0][1:] == pytest.approx(real[1:400].numpy())
    assert drawn[1] == pytest.approx(generated)
    assert (pair.get_xlabel(), pair.get_ylabel()) == ("a", "b")


def test_twenty_columns_are_chosen_by_name() -> None:
    x = torch.arange(60.0).reshape(3, 20) / 7
    names = [f"c{place}" for place in range(20)]
    drawn = {
        None: ["c0", "c1", "c2", "c3", "c4", "c5"],
        ("c19", "c3"): ["c19", "c3"],
    }
    for shown, expected in drawn.items():
        ax = plots.columns(x, x, names, shown)
        assert [t for cell in ax.child_axes if (t := cell.get_title())] == expected
    assert plots.columns(x[:, :1] * 0 + 0.5, x[:, :1] * 0 + 0.5, ax=ax) is ax


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generated": torch.zeros(2, 2)}, "generated: got the columns 0, 1, expected"),
        ({"real": torch.full((2, 3), math.inf)}, "real: got infinite or no numbers in column '0'"),
        ({"generated": torch.full((2, 3), math.nan)}, "generated: got .* in column '0'"),
        ({"names": ["a"]}, "names: got .*each of the 3 columns"),
        ({"shown": ["a"]}, "shown: got 'a', expected names of 0, 1, 2"),
        ({"real": torch.zeros(3)}, r"real: got shape \(3,\)"),
        ({"real": [[0.0]]}, "real: got a list"),
    ],
)
def test_tables_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"real": torch.rand(2, 3), "generated": torch.rand(2, 3)}
    with pytest.raises((TypeError, ValueError), match=message):
        plots.columns(**(given | change))


def test_whole_numbers_have_whole_ticks() -> None:
    visits = torch.arange(200) % 11 - 2
    ax = plots.columns(torch.stack((visits, torch.randn(200)), -1), torch.randn(100, 2).round())
    first = ax.child_axes[0]
    assert all(tick % 1 == 0 for tick in first.get_xticks())
