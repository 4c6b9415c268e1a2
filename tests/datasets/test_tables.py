"""Tables: frames become numbers and come back, densities change by the Jacobian, errors name."""

import json
import math
import sys
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pyro_vae import VAE, fit, likelihoods, log_likelihood, networks, optim, posteriors, priors
from pyro_vae.datasets import Table
from pyro_vae.likelihoods import Columns

from ..likelihoods.test_columns import Fixed

ROWS = 40


def frame(rows: int = ROWS) -> pd.DataFrame:
    """A column of each dtype."""
    random = np.random.default_rng(0)
    letters = random.choice(["x", "y", "zz"], rows)
    return pd.DataFrame(
        {
            "float64": random.normal(30, 20, rows),
            "float32": random.normal(size=rows).astype("float32"),
            "Float64": pd.array(random.normal(size=rows), dtype="Float64"),
            "few": random.integers(0, 4, rows),
            "count": random.permutation(np.arange(rows)),
            "uint8": random.permutation(np.arange(rows)).astype("uint8"),
            "negative": random.permutation(np.arange(rows) - 20).astype("int32"),
            "Int64": pd.array(random.permutation(np.arange(rows)), dtype="Int64"),
            "bool": random.integers(0, 2, rows).astype(bool),
            "boolean": pd.array(random.integers(0, 2, rows).astype(bool), dtype="boolean"),
            "str": letters,
            "object": pd.Series(list(letters), dtype=object),
            "string": pd.Series(list(letters), dtype="string"),
            "category": pd.Categorical(letters, ["zz", "y", "x", "never"], ordered=True),
            "numbers": pd.Categorical(random.integers(3, 6, rows)),
            "share": random.uniform(0.1, 0.9, rows),
        }
    )


KINDS: dict[str, Any] = {
    "share": likelihoods.Beta,
    "float32": partial(likelihoods.StudentT, df=3.0),
    "uint8": likelihoods.Poisson,
}


def holed() -> pd.DataFrame:
    """The same with a missing value in each column, of dtypes that can have one."""
    own = frame()
    for place, name in enumerate(own.columns):
        if own[name].dtype.name in ("int64", "int32", "uint8"):
            own[name] = own[name].astype("Int64")
        if own[name].dtype.name == "bool":
            own[name] = own[name].astype("boolean")
        own.loc[place, name] = None
    return own


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, table: Table) -> None:
    """Reals have the rounding of float32 in standardized units; all else is exact."""
    for column in table.columns:
        unit = torch.finfo(torch.float32).eps
        atol = unit * 4 * column.scale if column.kind in ("real", "raw") else 0
        pd.testing.assert_series_equal(
            found[column.name], expected[column.name], rtol=0, atol=atol
        )
    assert list(found.columns) == list(expected.columns)


@pytest.mark.parametrize("make", [frame, holed])
def test_frames_come_back(make: Any) -> None:
    own = make()
    table = Table.from_frame(own, KINDS)
    assert table.x.shape == own.shape
    assert table.x.dtype == torch.float32
    assert torch.equal(table.x.isnan(), torch.from_numpy(own.isna().to_numpy()))
    assert table.holes == bool(own.isna().any(axis=None))
    assert_same(table.to_frame(table.x), own, table)
    # A row of the table without holes keeps the dtypes of holes, and the other way round.
    complete = Table.from_frame(frame(), KINDS)
    assert torch.equal(complete.encode(own[::-1].reset_index(drop=True)).isnan(),
                       table.x.isnan().flip(0))  # fmt: skip
    assert_same(complete.to_frame(complete.encode(holed())), holed(), complete)


def test_kinds_are_found() -> None:
    table = Table.from_frame(frame(), KINDS)
    assert table.names == tuple(frame().columns)
    reals = dict.fromkeys(("float64", "float32", "Float64", "negative"), "real")
    counts = dict.fromkeys(("count", "uint8", "Int64"), "count")
    classes = {
        name: "class" for name in table.names if name not in {**reals, **counts, "share": 0}
    }
    assert table.kinds == {**reals, **counts, **classes, "share": "raw"}
    taken = table.likelihoods
    assert taken["count"] is likelihoods.NegativeBinomial
    assert taken["uint8"] is likelihoods.Poisson
    assert taken["bool"] is likelihoods.Bernoulli
    assert taken["category"].keywords == {"levels": 4}
    assert table.numbers == Columns.numbers(taken)
    codes = table.x[:, table.names.index("category")]
    assert torch.equal(codes, torch.tensor(frame()["category"].cat.codes.to_numpy()).float())
    # Ten values are classes, and eleven are counts.
    for most, kind in ((10, "class"), (11, "count")):
        assert Table.from_frame(pd.DataFrame({"a": np.arange(most)})).kinds == {"a": kind}
    for kind in ("real", "class", "count"):
        given = Table.from_frame(pd.DataFrame({"a": np.arange(9)}), {"a": kind})
        assert given.kinds == {"a": kind}
    given = Table.from_frame(pd.DataFrame({"a": [0.5, 1.5]}), {"a": likelihoods.Categorical})
    assert given.to_frame(given.x)["a"].tolist() == [0.5, 1.5]


def test_reals_are_standardized() -> None:
    x = Table.from_frame(holed()).x[:, 0]
    observed = x[~x.isnan()].double()
    assert abs(observed.mean().item()) < 1e-6
    assert observed.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_the_description_is_values_of_json() -> None:
    table = Table.from_frame(holed(), KINDS)
    state = json.loads(json.dumps(table.to_dict()))
    other = Table.from_dict(state)
    assert other.to_dict() == table.to_dict()
    assert other.x.shape == (0, len(table.columns))
    assert torch.equal(other.encode(holed()).nan_to_num(-9), table.x.nan_to_num(-9))
    pd.testing.assert_frame_equal(other.to_frame(table.x), table.to_frame(table.x))
    assert other.numbers == table.numbers
    assert repr(other).startswith("Table(rows=0, float64: real, ")


def test_the_jacobian_is_that_of_the_change_of_units() -> None:
    """In the frame's units, a standardized normal is the normal with these mean and deviation."""
    own = pd.DataFrame({"a": [1.0, 4.0, 7.0], "b": [True, False, True], "c": [10.0, np.nan, 30.0]})
    table = Table.from_frame(own)
    a, c = (Table.from_frame(own).columns[place] for place in (0, 2))
    assert (a.loc, a.scale) == pytest.approx((4.0, math.sqrt(6.0)))
    assert (c.loc, c.scale) == pytest.approx((20.0, 10.0))
    jacobian = table.log_jacobian(table.x)
    assert jacobian.shape == (3,)
    standard, normal = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal
    for row in range(3):
        x, y = table.x[row], own.iloc[row]
        inner, outer = torch.zeros(()), torch.zeros(())
        for place, column in ((0, a), (2, c)):
            if not x[place].isnan():
                inner = inner + standard.log_prob(x[place])
                value = torch.tensor(float(y.iloc[place]))
                outer = outer + normal(column.loc, column.scale).log_prob(value)
        torch.testing.assert_close(inner + jacobian[row], outer, rtol=1e-5, atol=1e-5)


def test_a_density_of_rows_integrates_to_one_in_the_frames_units() -> None:
    values = np.linspace(-400.0, 500.0, 9001)
    own = pd.DataFrame({"a": np.random.default_rng(0).normal(50, 30, 500)})
    table = Table.from_frame(own)
    network = Fixed(table.numbers)
    x = table.encode(pd.DataFrame({"a": values}))
    log_p = Columns(network, table.likelihoods)(torch.zeros(len(x), 1)).log_prob(x)
    density = (log_p + table.log_jacobian(x)).exp().double()
    assert torch.trapezoid(density, dx=0.1).item() == pytest.approx(1.0, abs=1e-4)


def test_a_table_trains_and_its_draws_are_rows() -> None:
    random = np.random.default_rng(0)
    hidden = random.normal(size=600)
    own = pd.DataFrame(
        {
            "income": 3e4 + 1e4 * hidden + 1e3 * random.normal(size=600),
            "owner": hidden > 0.3,
            "visits": random.poisson(np.exp(1 + hidden)),
            "region": np.where(hidden > 1, "north", np.where(hidden > -1, "east", "south")),
        }
    )
    table = Table.from_frame(own)
    vae = VAE(
        priors.StandardNormal(2),
        Columns(networks.MLP(2, (16,), table.numbers), table.likelihoods),
        posteriors.Normal(networks.MLP(4, (16,), 4)),
    )
    history = fit(vae, table.x, epochs=15, optim=optim.Adam(lr=1e-2), compile=False)
    assert history.cost[-1] < history.cost[0] - 1
    for x in (vae.generate(20, sample=True), vae.generate(20), vae.reconstruct(table.x)):
        rows = table.to_frame(x)
        assert rows.dtypes.to_dict() == own.dtypes.to_dict()
    assert (rows["owner"] == own["owner"]).mean() > 0.9
    result = log_likelihood(vae, table.x[:20], 50, seed=0)
    assert (result.values + table.log_jacobian(table.x[:20])).isfinite().all()


# What is refused.


BAD: dict[str, tuple[Any, str]] = {
    "no frame": ({"a": [1]}, "frame: got a dict"),
    "no rows": (pd.DataFrame({"a": []}), r"frame: got shape \(0, 1\)"),
    "no columns": (pd.DataFrame(index=[0, 1]), r"frame: got shape \(2, 0\)"),
    "a number as name": (pd.DataFrame({0: [1.0, 2.0]}), "name 0, an int, expected a string"),
    "a name twice": (
        pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["a", "a"]),
        "frame: got two columns 'a'",
    ),
    "holes alone": (pd.DataFrame({"a": [np.nan, np.nan]}), "column 'a': got no value"),
    "None alone": (pd.DataFrame({"a": [None, None]}), "column 'a': got no value"),
    "a constant": (pd.DataFrame({"a": [0.1, 0.1, np.nan]}), "column 'a': .*from 0.1 to 0.1"),
    "one class": (pd.DataFrame({"a": ["x", "x", None]}), "column 'a': got 'x' alone"),
    "infinity": (pd.DataFrame({"a": [0.1, -np.inf]}), "column 'a': got -inf, expected finite"),
    "times": (
        pd.DataFrame({"a": pd.to_datetime(["2020-01-01", "2020-01-02"])}),
        "column 'a': got datetime64.*turn times into numbers",
    ),
    "intervals": (
        pd.DataFrame({"a": pd.cut(np.array([1.0, 2.0, 3.0]), 2)}),
        "column 'a': got interval",
    ),
    "objects": (pd.DataFrame({"a": ["x", 3]}), "column 'a': got objects of int, str"),
    "True and 1": (
        pd.DataFrame({"a": pd.Series([True, 1, 2], dtype=object)}),
        "column 'a': got objects of bool, int",
    ),
    "complex numbers": (pd.DataFrame({"a": [1j, 2j]}), "column 'a': got complex128"),
    "counts beyond float32": (
        pd.DataFrame({"a": 2**24 + 1 + np.arange(11)}),
        "column 'a': got 16777217, expected numbers that torch.float32 has",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_frames_that_are_refused(case: str) -> None:
    bad, message = BAD[case]
    with pytest.raises((TypeError, ValueError), match=message):
        Table.from_frame(bad)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing", "real", "kinds: got 'missing', expected columns of the frame"),
        (
            "float64",
            "number",
            "column 'float64': got 'number', expected one of real, class",
        ),
        ("str", "real", "kinds, column 'str': got real for a column of (str|object)"),
        ("bool", "count", "kinds, column 'bool': got count for a column of bool"),
        ("float64", "count", "column 'float64': got .* expected values on IntegerGreaterThan"),
        ("negative", likelihoods.Poisson, "column 'negative': got -.* IntegerGreaterThan"),
        ("float64", likelihoods.Beta, "column 'float64': got .* OpenInterval"),
        ("str", likelihoods.Bernoulli, "column 'str': got 3 classes, expected the 2"),
        ("str", partial(likelihoods.Categorical, levels=4), "got 3 classes, expected the 4"),
        ("float64", 3, "kinds: columns: column 'float64': got an int"),
    ],
)
def test_kinds_that_do_not_fit_are_named(name: str, kind: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Table.from_frame(frame(), {name: kind})


def test_further_frames_are_held_to_the_table() -> None:
    table, own = Table.from_frame(frame(), KINDS), frame()

    def refused(message: str, **columns: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            table.encode(own.assign(**columns))

    assert torch.equal(table.encode(own[list(reversed(own.columns))]), table.x)
    refused("frame: got column 'more'", more=1)
    with pytest.raises(ValueError, match="frame: got no column 'few'"):
        table.encode(own.drop(columns="few"))
    with pytest.raises(ValueError, match="frame: got no rows"):
        table.encode(own[:0])
    refused("column 'str': got 'w', expected a class of the table: 'x', 'y', 'zz'", str="w")
    refused("column 'few': got 9, expected a class", few=9)
    refused("column 'few': got bool, expected classes of family int", few=True)
    refused("column 'bool': got int64, expected classes of family bool", bool=1)
    refused("column 'float64': got (str|object), expected numbers", float64="x")
    refused("column 'count': got -1 at", count=-1)
    refused("column 'count': got 0.5 at", count=0.5)
    refused("column 'share': got 1 at", share=1.0)
    refused("column 'float64': got inf", float64=np.inf)
    refused("column 'few': got float64, expected classes", few=0.5)
    # Integers are floats where some are missing, and reals may be whole.
    few = own["few"].astype(float)
    few[3] = np.nan
    x = table.encode(own.assign(few=few, float64=3))
    assert x[:, 3].isnan().sum() == 1
    assert torch.equal(x[4:, 3], table.x[4:, 3])


def test_numbers_that_stand_for_no_row_are_refused() -> None:
    table = Table.from_frame(frame(), KINDS)
    place = {name: place for place, name in enumerate(table.names)}

    def refused(name: str, value: float, message: str) -> None:
        x = table.x.clone()
        x[0, place[name]] = value
        with pytest.raises(ValueError, match=message):
            table.to_frame(x)

    refused("few", 0.5, "x, column 'few': got 0.5, expected a class: 0 to 3")
    refused("few", 4.0, "x, column 'few': got 4, expected a class: 0 to 3")
    refused("uint8", 256.0, "x, column 'uint8': got 256, expected a number from 0 to 255")
    refused("float64", math.inf, "x, column 'float64': got inf")
    assert table.to_frame(table.x + torch.eye(16)[place["count"]] * 0.4)["count"].tolist() == (
        frame()["count"].tolist()
    )
    for x in (table.x[:, 1:], table.x.long(), table.x[0], "x"):
        for method in (table.to_frame, table.log_jacobian):
            with pytest.raises((TypeError, ValueError), match="x: got"):
                method(x)


class Own(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: torch.Tensor) -> Any:
        import pyro.distributions as dist

        return dist.Exponential(self.network(z).exp()).to_event(1)


def test_a_users_own_likelihood_is_a_kind_that_json_does_not_know() -> None:
    table = Table.from_frame(frame()[["share"]], {"share": Own})
    assert table.kinds == {"share": "raw"}
    assert table.numbers == 1
    with pytest.raises(TypeError, match=r"likelihood .*Own.* of column 'share'"):
        table.to_dict()
    wrong: list[dict[str, Any]] = [{"rows": 3}, {"columns": [{}]}, {"columns": [3]}]
    for state in wrong:
        with pytest.raises(ValueError, match="state: got no description"):
            Table.from_dict(state)


def test_the_description_needs_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is told where a frame is given, with the extra that has it."""
    state, own = Table.from_frame(frame()).to_dict(), frame()
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = Table.from_dict(state)
    assert table.numbers == Columns.numbers(table.likelihoods)
    x = torch.zeros(1, len(table.columns))
    for call in (lambda: Table.from_frame(own), lambda: table.encode(own),
                 lambda: table.to_frame(x)):  # fmt: skip
        with pytest.raises(ImportError, match=r"pip install 'pyro_vae\[tables\]'"):
            call()


def test_an_identifier_is_told_of(recwarn: pytest.WarningsRecorder) -> None:
    names = [f"n{i}" for i in range(11)]
    with pytest.warns(UserWarning, match="column 'a': got 11 different values in as many rows"):
        Table.from_frame(pd.DataFrame({"a": names}))
    recwarn.clear()
    Table.from_frame(pd.DataFrame({"a": names}), {"a": "class"})
    Table.from_frame(pd.DataFrame({"a": [*names[1:], "n2"]}))
    assert not recwarn


def test_objects_that_are_integers_stay_integers() -> None:
    frame = pd.DataFrame({"a": pd.Series(list(range(0, 300, 3)), dtype=object)})
    table = Table.from_frame(frame)
    back = table.to_frame(table.x)
    assert all(type(value) is int for value in back["a"].tolist())
    assert back["a"].tolist() == frame["a"].tolist()
