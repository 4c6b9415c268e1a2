"""The study of likelihoods: in short by the command, and as committed."""

import json
import math
from pathlib import Path

import pytest
import torch

from pyro_vae.studies.pixel_likelihoods import PixelLikelihoods
from tests.studies.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"


def test_likelihoods_of_pixels_by_the_command(tmp_path: Path, reproduce: Command) -> None:
    output = reproduce(
        "pixel-likelihoods", "--epochs", 1, "--train-examples", 256, "--examples", 10,
        "--num-samples", 3, "--only", "Gaussian", "--only", "DiscretizedLogistic",
        "--out", tmp_path,
    )  # fmt: skip
    text = (tmp_path / "likelihoods.md").read_text()
    assert text.strip() in output
    for name, bound in (("Gaussian", "≤ "), ("DiscretizedLogistic", "")):
        row = json.loads((tmp_path / "likelihoods" / f"{name.lower()}.json").read_text())
        bits = -torch.tensor(row["values"]).double() / (28 * 28 * math.log(2))
        bits += 8 if bound else 0
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert f" {bound}{bits.mean():.3f} ± {bits.std() / 10**0.5:.3f} |" in line
        assert ("≤" in line) == bool(bound)
    assert (tmp_path / "likelihoods.png").stat().st_size > 0


def test_what_a_row_cannot_know_is_null(tmp_path: Path, reproduce: Command) -> None:
    options = ("pixel-likelihoods", "--epochs", 1, "--train-examples", 128, "--examples", 1,
               "--num-samples", 1, "--only", "ContinuousBernoulli", "--out", tmp_path)  # fmt: skip
    output = reproduce(*options)
    path = tmp_path / "likelihoods" / "continuousbernoulli.json"
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row["stderr"] is None
    assert row["mc_error"] is None
    assert reproduce(*options) == output  # it is read back


@pytest.mark.parametrize(
    ("option", "count", "most"), [("train-examples", 601, 600), ("examples", 101, 100)]
)
def test_no_more_images_than_there_are(
    option: str, count: int, most: int, tmp_path: Path, reproduce: Command
) -> None:
    sizes = {"train-examples": 600, "examples": 100, option: count}
    words = [word for name, size in sizes.items() for word in (f"--{name}", size)]
    name = option.replace("-", "_")
    with pytest.raises(ValueError, match=f"{name}: got {count}, expected at most the {most}"):
        reproduce("pixel-likelihoods", *words, "--out", tmp_path)


def test_the_likelihoods_as_committed() -> None:
    study = PixelLikelihoods(out=DOCS)
    rows = study.kept()
    assert None not in rows.values()
    text = study.document(rows).markdown(study.command())
    assert text == (DOCS / "likelihoods.md").read_text()
