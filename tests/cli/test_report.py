"""``pyro-vae report``: pages of runs."""

import html
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from pyro_vae import presets, save
from pyro_vae.report import report
from pyro_vae.report.score import Score
from pyro_vae.storage import DamagedRun, evaluations
from tests.report.pages import texts

from .conftest import Run


@pytest.fixture
def evaluated(trained: Path, run: Run) -> Path:
    """A run with an evaluation."""
    assert run("evaluate", trained, "--num-samples", 30, "--examples", 40) == 0
    return trained


def test_the_page_of_a_run(evaluated: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", evaluated) == 0
    page = evaluated / "report.html"
    assert f"report: {page}" in capsys.readouterr().out
    text = texts(page)
    score = Score.read(evaluations(evaluated)[0])
    assert f"log p(x) = {score.mean:.2f} ± {score.stderr:.2f} nats per example" in text
    for there in (
        "2 of 2",
        "bernoulli-mlp, 2 latents",
        "digits, binary",
        "pyro-vae train --epochs 2",
    ):
        assert there in text, there
    assert re.search(r"made on\s+2\d\d\d-\d\d-\d\dT", text)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.csv"])
def test_a_damaged_run_has_no_page(name: str, trained: Path, tmp_path: Path) -> None:
    path = trained / name
    path.write_bytes(path.read_bytes()[:-40] + b"x" * 30)
    out = tmp_path / "page.html"
    with pytest.raises(DamagedRun, match=name.replace(".", r"\.")):
        report(trained, out=out)
    assert not out.exists()


@pytest.mark.slow
def test_runs_are_compared_on_the_same_data_only(
    evaluated: Path, run: Run, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(evaluated, tmp_path / "<b>other"))
    (other / "evaluations" / "1.json").unlink()
    vae = presets.build("bernoulli-mlp", shape=(28, 28))
    settings = json.loads((evaluated / "config.json").read_text())["training"]
    save(vae, other, training=settings, overwrite=True)
    assert run("report", evaluated, other) == 0
    page = evaluated.parent / "reports.html"
    assert "is not compared: a log-likelihood is missing" in texts(page)

    assert run("evaluate", other, "--num-samples", 30, "--examples", 40) == 0
    assert run("report", evaluated, other, "--out", page) == 0
    first, second = (
        torch.tensor(evaluations(folder)[-1]["per example"]["values"])
        for folder in (evaluated, other)
    )
    gain = second - first
    mean, error = gain.mean().item(), gain.std().item() / math.sqrt(len(gain))
    cells = "<b>other", f"{mean:+.2f}", f"{error:.2f}", "40", "30 importance"
    row = [re.escape(cell) for cell in cells]
    assert re.search(r"\s+".join(row), html.unescape(texts(page)))
    assert "<b>other" not in page.read_text(encoding="utf-8")

    # Newer scores of other data do not hide those of the same.
    assert run("evaluate", other, "--num-samples", 30, "--examples", 30) == 0
    assert run("report", evaluated, other, "--out", page) == 0
    assert re.search(r"\s+".join(row), html.unescape(texts(page)))
    (other / "evaluations" / "1.json").unlink()
    assert run("report", evaluated, other, "--out", page) == 0
    assert "is not subtracted from run: they were scored on other data" in texts(page)
    assert "Paired differences" not in texts(page)


@pytest.mark.slow
def test_runs_of_one_name_are_called_by_their_paths(trained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "b" / trained.name))
    text = texts(report([trained, other], out=tmp_path / "page.html"))
    assert str(trained) in text
    assert str(other) in text
    with pytest.raises(ValueError, match="twice"):
        report([trained, str(trained)], out=tmp_path / "page.html")


def test_a_table_has_a_page_without_an_explorer(run: Run, tmp_path: Path) -> None:
    rows = ["a,b,c", *(f"{i / 7},{i % 3},{'xy'[i % 2]}" for i in range(60))]
    file = tmp_path / "table.csv"
    file.write_text("\n".join(rows))
    folder = tmp_path / "table"
    assert run("train", "--data", file, "--epochs", 2, "--batch-size", 20, "--out", folder) == 0
    assert run("evaluate", folder, "--num-samples", 30) == 0
    assert run("report", folder) == 0
    text = texts(folder / "report.html")
    assert "There is no explorer: x is a row of a table" in text
    for there in ("log p(x) = ", "Training", "latents are active", "rows of a table"):
        assert there in text, there
    assert "What it makes" not in text
