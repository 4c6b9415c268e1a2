"""The lecture's training: its first epochs on MNIST, and the whole of it as committed."""

import csv
from pathlib import Path

import pytest

from pyro_vae.datasets import Dataset
from pyro_vae.studies import lecture
from pyro_vae.studies.lecture import LECTURE_COST, LECTURE_EXCESS


@pytest.mark.mnist
def test_the_first_epochs_are_no_worse_than_the_lectures(mnist: Dataset) -> None:
    result = lecture.run(mnist.train, mnist.test, seeds=(0,), epochs=2)
    for ours, theirs in zip(result.histories[0].cost, LECTURE_COST, strict=False):
        assert ours + LECTURE_EXCESS <= theirs


def test_the_committed_runs_reach_the_lectures_cost() -> None:
    path = Path(__file__).parent.parent / "docs" / "lecture.csv"
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"] == "30"]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert float(row["cost"]) + LECTURE_EXCESS <= LECTURE_COST[29]
        assert float(row["cost"]) == pytest.approx(
            float(row["reconstruction"]) + float(row["kl"]), rel=1e-6
        )
