"""The studies of parts: small ones by the command, the committed ones as files."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pyro_vae import networks, pairs, pixel_likelihoods, plots, richer_parts, study
from pyro_vae.cli import app
from pyro_vae.study import Result

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_readme_has_the_table_of_pairs() -> None:
    table = command("pairs").strip()
    assert table == pairs.table()
    assert table in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("prior", "posterior", "kl"),
    [
        ("StandardNormal", "LowRankNormal", "exact"),
        ("Laplace", "Normal", "exact"),
        ("Uniform", "Normal", "-"),  # supports differ; torch registers an infinite KL
        ("Uniform", "Squashed", "sampled"),
        ("VampPrior", "Flow", "-"),
        ("GaussianMixture", "Normal", "sampled"),
    ],
)
def test_pairs_are_what_is_known_of_them(prior: str, posterior: str, kl: str) -> None:
    assert pairs.kl_of(prior, posterior) == kl


def parts_of_digits(folder: Path, *more: object) -> str:
    return command(
        "reproduce", "parts", "--data", "digits", "--epochs", 2, "--num-samples", 5,
        "--plain-epochs", 1, "--out", folder, *more,
    )  # fmt: skip


def test_a_study_goes_on_where_it_was_left(tmp_path: Path) -> None:
    """Rows are kept as they were; the table's differences are those of the same images."""
    vamp = ("--only", "VampPrior(500)")
    output = parts_of_digits(tmp_path, *vamp)
    text = (tmp_path / "parts.md").read_text()
    assert text.strip() in output
    assert (
        "`pyro-vae reproduce parts --data digits --epochs 2 --num-samples 5 --plain-epochs 1`"
        in text
    )
    kept = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert kept.keys() == {"standardnormal-normal.json", "vampprior-500.json"}
    first, second = (json.loads(kept[name])["values"] for name in sorted(kept))
    gain = torch.tensor(second) - torch.tensor(first)
    line = next(line for line in text.splitlines() if line.startswith("| VampPrior(500)"))
    error = gain.std().item() / len(gain) ** 0.5
    assert f"| {gain.mean().item():+.2f} ± {error:.2f} |" in line
    assert text.count("not run") == len(richer_parts.makers(torch.zeros(1, 4, 4))) - 2

    assert parts_of_digits(tmp_path, *vamp) == output
    assert {p.name: p.read_bytes() for p in (tmp_path / "parts").iterdir()} == kept

    with pytest.raises(ValueError, match=r"normal.json: was made with num_samples=5, expected nu"):
        parts_of_digits(tmp_path, *vamp, "--num-samples", 6)
    (tmp_path / "parts" / "vampprior-500.json").write_text("{}")
    with pytest.raises(ValueError, match=r"vampprior-500.json: damaged"):
        parts_of_digits(tmp_path, *vamp)
    damages: list[dict[str, Any]] = [
        {"name": "other"}, {"settings": []}, {"samples": [[999]]}, {"mean": "x"}
    ]  # fmt: skip
    for damage in damages:
        row = json.loads(kept["vampprior-500.json"]) | damage
        (tmp_path / "parts" / "vampprior-500.json").write_text(json.dumps(row))
        with pytest.raises(ValueError, match=r"vampprior-500.json: damaged"):
            parts_of_digits(tmp_path, *vamp)
    assert (tmp_path / "parts.md").read_text() == text


def test_what_a_row_cannot_know_is_null(tmp_path: Path) -> None:
    arguments = [
        "reproduce", "pixel-likelihoods", "--data", "digits", "--epochs", 1,
        "--train-examples", 128, "--examples", 1, "--num-samples", 1,
        "--only", "ContinuousBernoulli", "--out", tmp_path,
    ]  # fmt: skip
    command(*arguments)
    path = tmp_path / "likelihoods" / "continuousbernoulli.json"
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row["stderr"] is None
    assert row["mc_error"] is None
    command(*arguments)  # and is read again


@pytest.mark.parametrize(
    ("option", "count", "most"), [("train-examples", 10_001, 10_000), ("examples", 2001, 2000)]
)
def test_no_more_images_than_there_are(option: str, count: int, most: int, tmp_path: Path) -> None:
    name = option.replace("-", "_")
    with pytest.raises(ValueError, match=f"{name}: got {count}, expected at most the {most}"):
        command("reproduce", "pixel-likelihoods", "--data", "digits",
                f"--{option}", count, "--out", tmp_path)  # fmt: skip


def test_plain_epochs_are_fewer_than_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plain_epochs: got 2, expected .* from 0 to 1"):
        parts_of_digits(tmp_path, "--plain-epochs", 2)
    assert not list(tmp_path.iterdir())


def test_trained_priors_are_among_the_rows() -> None:
    assert set(richer_parts.TRAINED_PRIORS) < set(richer_parts.makers(torch.zeros(1, 4, 4)))


def test_likelihoods_of_pixels_by_the_command(tmp_path: Path) -> None:
    output = command(
        "reproduce", "pixel-likelihoods", "--data", "digits", "--epochs", 1,
        "--train-examples", 256, "--examples", 10, "--num-samples", 3,
        "--only", "Gaussian", "--only", "DiscretizedLogistic", "--out", tmp_path,
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


@pytest.mark.parametrize("name", ["parts", "pixel-likelihoods"])
def test_rows_that_do_not_exist_are_named(name: str, tmp_path: Path) -> None:
    arguments = ["reproduce", name, "--data", "digits", "--only", "Cauchy", "--out", tmp_path]
    with pytest.raises(ValueError, match=r"only: got 'Cauchy', expected one of '.*', '"):
        command(*arguments)
    assert not list(tmp_path.iterdir())


def kept_rows(folder: Path, names: Iterable[str]) -> dict[str, Result]:
    rows = {}
    for name in names:
        row = study.kept(folder, name, {})
        assert row is not None, f"{name} was not run"
        rows[name] = row
    return rows


def test_richer_parts_beat_the_plain_vae_as_committed() -> None:
    """By much more than the error of a paired difference, as in the papers."""
    rows = kept_rows(DOCS / "parts", richer_parts.makers(torch.zeros(1, 4, 4)))
    assert richer_parts.table(rows) in (DOCS / "parts.md").read_text()
    plain = rows.pop(richer_parts.PLAIN)
    for row in rows.values():
        gain, error = richer_parts.gain(row, plain)
        assert gain > 5 * error, row.name
        assert row.settings["test"] == plain.settings["test"]


def test_the_likelihoods_as_committed() -> None:
    rows = kept_rows(DOCS / "likelihoods", pixel_likelihoods.makers((4, 4)))
    assert pixel_likelihoods.table(rows) in (DOCS / "likelihoods.md").read_text()


def test_a_network_behind_a_factor() -> None:
    network = networks.MLP(3, (), 2)
    x = torch.rand(4, 3)
    torch.testing.assert_close(networks.Scaled(network)(255 * x), network(x))
    assert networks.Scaled(network).out_shape == (2,)
    with pytest.raises(TypeError, match="out_shape"):
        networks.Scaled(nn.Identity())


def test_rows_of_images_are_of_one_number() -> None:
    ax = plots.side_by_side({"a": torch.rand(3, 4, 4), "b": torch.rand(3, 4, 4)})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.images[0].get_array().shape == (8, 12)
    with pytest.raises(
        ValueError, match=r"rows: got images of shapes \[\(2, 4, 4\), \(3, 4, 4\)\]"
    ):
        plots.side_by_side({"a": torch.rand(3, 4, 4), "b": torch.rand(2, 4, 4)})
