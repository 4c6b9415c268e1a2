"""The lecture's training: in short, its first epochs on MNIST, and the whole as committed."""

import csv
from pathlib import Path

import pytest

from pyro_vae.datasets import Dataset
from pyro_vae.studies.lecture import LECTURE_COST, LECTURE_EXCESS, Lecture
from tests.studies.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"


def test_the_lecture_in_short(tmp_path: Path, reproduce: Command) -> None:
    options = ("lecture", "--data", "digits", "--epochs", 2, "--out", tmp_path)
    output = reproduce(*options, "--seeds", 2)
    text = (tmp_path / "lecture.md").read_text()
    assert text in output
    assert "`pyro-vae reproduce lecture --data digits --epochs 2 --seeds 2`" in text
    assert (tmp_path / "lecture.png").exists()
    with (tmp_path / "lecture.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [
        (seed, epoch) for seed in "01" for epoch in "12"
    ]
    mean = sum(float(row["cost"]) for row in rows if row["epoch"] == "2") / 2 + LECTURE_EXCESS
    assert f"| 2     |        174.08 |         {mean:.2f} |" in text
    kept = {path.name: path.read_bytes() for path in (tmp_path / "lecture").iterdir()}
    reproduce(*options, "--seeds", 3)
    assert {name: (tmp_path / "lecture" / name).read_bytes() for name in kept} == kept
    assert (tmp_path / "lecture" / "seed-2.json").exists()


@pytest.mark.slow
@pytest.mark.mnist
def test_the_first_epochs_are_no_worse_than_the_lectures(mnist: Dataset) -> None:
    row = Lecture(epochs=2, seeds=1).run("seed 0")
    for ours, theirs in zip(row.history.cost, LECTURE_COST, strict=False):
        assert ours + LECTURE_EXCESS <= theirs


def test_the_committed_runs_reach_the_lectures_cost() -> None:
    study = Lecture(out=DOCS)
    rows = study.kept()
    text = study.document(rows).markdown(study.command())
    assert text == (DOCS / "lecture.md").read_text()
    with (DOCS / "lecture.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row in rows.values():
        assert row is not None
        history = row.history
        own = [line for line in lines if f"seed {line['seed']}" == row.name]
        assert [float(line["cost"]) for line in own] == history.cost
        assert history.cost[29] + LECTURE_EXCESS <= LECTURE_COST[29]
        assert history.cost[29] == pytest.approx(
            history.reconstruction[29] + history.kl[29], rel=1e-6
        )
