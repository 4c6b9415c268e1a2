"""Few labels and clusters: the study in short, and what is kept of labels."""

from pathlib import Path

import pytest

from pyro_vae.studies.classes import Classes
from pyro_vae.studies.engine import Right, right_table
from tests.studies.conftest import Command


def test_a_line_has_the_mean_and_the_best_bound() -> None:
    rows = {
        f"a, seed {seed}": Right(f"a, seed {seed}", {}, right, bound, 120.0, {"1": 0.5, "10": 0.9})
        for seed, (right, bound) in enumerate([(0.9, -100.0), (0.8, -90.0)])
    }
    text = right_table({"a": "A", "b": "B"}, {**rows, "b, seed 0": None})
    line, other = (" ".join(line.split()) for line in text.splitlines()[2:])
    assert line == "| A | 85.0 | 90.0, 80.0 | 80.0 | 10, 10 | 1 |"
    assert other.startswith("| B | not run |")
    record = rows["a, seed 0"].record()
    assert Right.read(record) == rows["a, seed 0"]


def test_what_a_row_depends_on() -> None:
    study = Classes(data="digits", seeds=2)
    names = study.names()
    assert names[:3] == ["M2, seed 0", "M2, seed 1", "M2, without, seed 0"]
    assert study.settings("clusters, seed 1")["epochs"] == [15, 60]
    assert "alphas" not in study.settings("M2, without, seed 0")
    assert study.settings("M2, seed 1")["alphas"] == list(study.alphas)


@pytest.mark.slow
def test_the_study_in_short(tmp_path: Path, reproduce: Command) -> None:
    options = ("--data", "digits", "--held-out", 200, "--seeds", 1, "--out", tmp_path)
    each = ("--epochs", "--short-epochs", "--plain-epochs", "--cluster-epochs")
    output = reproduce("classes", *options, *(word for option in each for word in (option, 1)))
    text = (tmp_path / "classes.md").read_text()
    assert text.strip() in output
    rows = Classes(data="digits", seeds=1, out=tmp_path).kept()
    assert len(rows) == 3
    for row in rows.values():
        assert row is not None
        assert 0 < row.accuracy < 1
    assert not (tmp_path / "classes" / "runs").exists()
