"""The studies of parts: small ones by the command, the committed ones as files."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pyro_vae import networks, pairs, plots, studies
from pyro_vae.cli import app
from pyro_vae.datasets import Dataset

ROOT = Path(__file__).parent.parent


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


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


def test_richer_parts_on_a_few_digits(digits: Dataset, tmp_path: Path) -> None:
    """The table's differences are those of the same images, and each row comes as it is done."""
    train, test = digits.train[:600], digits.test[:20]
    results = []
    makers = studies.richer_parts(train)
    assert set(studies.TRAINED_PRIORS) < set(makers)
    for name in ("StandardNormal, Normal", "VampPrior(500)"):
        results.append(
            studies.run(
                name,
                makers[name],
                train,
                test,
                pixels="binary",
                epochs=2,
                plain_epochs=int("Vamp" in name),
                num_samples=5,
            )
        )
        text, data = studies.save_richer_parts(results, tmp_path, "the command", 2, 1)
        assert len(rows(data)) == len(results)
    first, second = (r.log_likelihood for r in results)
    assert first.data_hash == second.data_hash
    gain = (second.values - first.values).mean().item()
    assert f"{gain:+.2f} ± " in text.read_text()
    assert "`the command`" in text.read_text()
    written = rows(data)[1]
    assert float(written["log_likelihood"]) == pytest.approx(second.mean, abs=1e-4)


def test_likelihoods_of_pixels_by_the_command(tmp_path: Path) -> None:
    output = command(
        "reproduce", "pixel-likelihoods", "--data", "digits", "--epochs", 1,
        "--train-examples", 256, "--examples", 10, "--num-samples", 3,
        "--only", "Gaussian", "--only", "DiscretizedLogistic", "--out", tmp_path,
    )  # fmt: skip
    table = (tmp_path / "likelihoods.md").read_text()
    assert table.strip() in output
    assert "≤" in next(line for line in table.splitlines() if line.startswith("| Gaussian"))
    assert "≤" not in next(line for line in table.splitlines() if line.startswith("| Discretized"))
    for row in rows(tmp_path / "likelihoods.csv"):
        bits = -float(row["log_likelihood"]) / (28 * 28 * torch.tensor(2.0).log().item())
        bits += 8 if row["pixels"] == "dequantized" else 0
        assert f"{bits:.3f} ±" in table
    assert (tmp_path / "likelihoods.png").stat().st_size > 0


@pytest.mark.parametrize("study", ["parts", "pixel-likelihoods"])
def test_rows_that_do_not_exist_are_named(study: str, tmp_path: Path) -> None:
    arguments = ["reproduce", study, "--data", "digits", "--only", "Cauchy", "--out", tmp_path]
    with pytest.raises(ValueError, match=r"only: got 'Cauchy', expected one of .*, "):
        command(*arguments)
    assert not list(tmp_path.iterdir())


def test_richer_parts_beat_the_plain_vae_as_committed() -> None:
    """By much more than the error of a paired difference, as in the papers."""
    first, *richer = rows(ROOT / "docs" / "results.csv")
    assert first["name"] == "StandardNormal, Normal"
    assert richer
    for row in richer:
        assert float(row["log_likelihood"]) > float(first["log_likelihood"]) + 0.3, row["name"]


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
