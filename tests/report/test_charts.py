"""Charts draw the numbers that they are given, and write them beside."""

import torch

from pyro_vae.evaluation import ActiveUnits
from pyro_vae.report import charts
from pyro_vae.training import History


def history(epochs: int, cost: float = 3.0) -> History:
    epoch = [float(e + 1) for e in range(epochs)]
    columns = {"cost": [cost / e for e in epoch], "kl": epoch, "test_cost": [cost] * epochs}
    return History({"epoch": epoch, **columns})


def test_the_numbers_of_curves_are_beside_them() -> None:
    costs, kl = charts.curves({"a": history(3)})
    assert costs.numbers is not None
    assert kl.numbers is not None
    assert list(costs.numbers.header) == ["epoch", "cost, training", "−ELBO, test"]
    assert costs.numbers.rows == [
        ("1", "3.00", "3.00"),
        ("2", "1.50", "3.00"),
        ("3", "1.00", "3.00"),
    ]
    assert [row[1] for row in kl.numbers.rows] == ["1.00", "2.00", "3.00"]
    assert [key.name for key in costs.legend] == ["cost, training", "−ELBO, test"]


def test_runs_of_different_lengths_are_beside_each_other() -> None:
    costs, kl = charts.curves({"a": history(1), "b": history(2, cost=4.0)})
    assert costs.numbers is not None
    assert kl.numbers is not None
    assert [key.name for key in kl.legend] == ["a", "b"]
    assert kl.numbers.rows == [("1", "1.00", "1.00"), ("2", "", "2.00")]
    assert costs.numbers.rows[1] == ("2", "", "", "2.00", "4.00")


def test_each_k_hat_is_counted_on_its_side_of_the_threshold() -> None:
    edges = torch.tensor([0.6, float("inf"), float("nan")], dtype=torch.float64)
    values = torch.cat([torch.randn(200, dtype=torch.float64), edges])
    drawn = charts.khats(values, 0.6)
    quads = drawn.figure.renderers[0]
    source, colours = quads.data_source.data, quads.data_source.data["fill_color"]
    counts = dict.fromkeys(colours, 0)
    for colour, count in zip(colours, source["top"], strict=True):
        counts[colour] += count
    finite = values[values.isfinite()]
    below = int((finite <= 0.6).sum())
    assert list(counts.values()) == [below, len(finite) - below]
    for left, right, count in zip(source["left"], source["right"], source["top"], strict=True):
        assert count == int(((finite > left + 1e-6) & (finite <= right + 1e-6)).sum())


def test_k_hats_that_are_one_number_or_none() -> None:
    for values in (torch.full((5,), 0.2), torch.full((2,), float("nan"))):
        drawn = charts.khats(values, 0.6)
        assert drawn.numbers is not None
        assert sum(int(row[1]) for row in drawn.numbers.rows) == int(values.isfinite().sum())


def test_latents_are_ordered_by_their_kl() -> None:
    statistic = torch.tensor([0.5, 0.001, 2.0])
    active = statistic > 0.01
    units = ActiveUnits(statistic, active, 2, 0.01, {"z": torch.Size([3])})
    numbers = charts.latent_units(units, torch.tensor([0.1, 0.0, 0.3])).numbers
    assert numbers is not None
    assert numbers.rows == [
        ("z3", "0.300", "2.0000", "yes"),
        ("z1", "0.100", "0.5000", "yes"),
        ("z2", "0.000", "0.0010", "no"),
    ]
    without = charts.latent_units(units, None).numbers
    assert without is not None
    assert [row[0] for row in without.rows] == ["z3", "z1", "z2"]


def test_each_point_is_drawn_once_by_its_label() -> None:
    points = torch.randn(30, 2)
    labels = [str(i % 3) for i in range(30)]
    drawn = charts.scatter(points, labels, (0, 3), (28, 28))
    *groups, _ = drawn.figure.renderers
    assert [key.name for key in drawn.legend] == ["0", "1", "2"]
    seen: dict[int, tuple[float, float]] = {}
    for name, group in zip("012", groups, strict=True):
        data = group.data_source.data
        assert set(data["label"]) == {name}
        assert data["down"] == [-28 * number for number in data["number"]]
        seen |= dict(zip(data["number"], zip(data["x"], data["y"], strict=True), strict=True))
    assert torch.equal(torch.tensor([seen[i] for i in range(30)]), points)
    assert drawn.figure.xaxis[0].axis_label == "z1 of the latent point"
    assert drawn.figure.yaxis[0].axis_label == "z4 of the latent point"
