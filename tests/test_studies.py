"""The studies of parts: small ones by the command, the committed ones as files."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pyro_vae import networks, plots
from pyro_vae.cli import pairs
from pyro_vae.cli.main import app
from pyro_vae.studies import analytic_kl as kl_study
from pyro_vae.studies import engine as study
from pyro_vae.studies import iwae_table
from pyro_vae.studies import likelihoods as pixel_likelihoods
from pyro_vae.studies import parts as richer_parts
from pyro_vae.studies.engine import Result

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


def kl_of_digits(folder: Path, *more: object) -> str:
    return command(
        "reproduce", "analytic-kl", "--epochs", 1, "--seeds", 2, "--num-samples", 3,
        "--draws", 20, "--out", folder, *more,
    )  # fmt: skip


def test_the_study_of_the_closed_form_goes_on(tmp_path: Path) -> None:
    rows = ("--only", kl_study.PLAIN, "--only", kl_study.NOISE,
            "--only", kl_study.LANDING)  # fmt: skip
    output = kl_of_digits(tmp_path, *rows)
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in output
    assert "sticking_the_landing, seed 1: test -ELBO" in output
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert len(kept) == 3
    plain = kl_study.load(tmp_path, kl_study.PLAIN, {})
    assert plain is not None
    gains = [run[-1] for run in plain.gain(kl_study.ANALYTIC)]
    costs = [
        [runs[-1] for runs in plain.test_cost[n]] for n in (kl_study.TRACE, kl_study.ANALYTIC)
    ]
    assert gains == pytest.approx([a - b for a, b in zip(*costs, strict=True)])
    line = next(line for line in text.splitlines() if line.startswith(f"| {kl_study.PLAIN}"))
    line = " ".join(line.split())
    spread = abs(gains[0] - gains[1]) / 2
    assert f"{sum(gains) / 2:.2f} ± {spread:.2f} |" in line
    assert f"| {plain.variance(0.0, kl_study.ANALYTIC):.3f} |" in line
    assert "| L = 16 " in text
    assert text.lower().count("not run") == 7
    for name in ("variance", "gain", "landing"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0

    again = kl_of_digits(tmp_path, *rows)
    assert "seed 1" not in again
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.json")} == kept
    with pytest.raises(ValueError, match=r"json: was made with draws=20, expected draws=21"):
        kl_of_digits(tmp_path, *rows, "--draws", 21)
    with pytest.raises(ValueError, match=r"only: got 'L = 3', expected one of '50 latents"):
        kl_of_digits(tmp_path, "--only", "L = 3")
    with pytest.raises(ValueError, match=r"draws: got 5, expected 20 or more"):
        kl_of_digits(tmp_path, "--draws", 5)
    row = json.loads(kept["landing.json"])
    del row["gradients"]["0.0"]["trace_elbo"]["encoder"]["norm"]
    (tmp_path / "landing.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"landing.json: damaged"):
        kl_of_digits(tmp_path, *rows)


def test_the_study_of_the_closed_form_as_committed() -> None:
    """Its tables are those of its rows, and what the document says of them is so."""
    folder = DOCS / "analytic_kl"
    rows = {}
    for name in kl_study.NAMES:
        row = kl_study.load(folder, name, {})
        assert row is not None, f"{name} was not run"
        rows[name] = row
    tables = (
        kl_study.table(rows),
        kl_study.noise_table(rows[kl_study.NOISE], rows[kl_study.PLAIN]),
        kl_study.landing_table(rows[kl_study.LANDING]),
        kl_study.signal_table(rows[kl_study.SIGNAL]),
        kl_study.starved_table(rows[kl_study.STARVED]),
    )
    for text in ((folder / "results.md").read_text(), (DOCS / "analytic_kl.md").read_text()):
        for table in tables:
            assert table in text
    for name in kl_study.SETTINGS:
        ratios = [rows[name].variance(at, kl_study.ANALYTIC) for at in rows[name].gradients]
        assert max(ratios) < 1
        assert 0.12 <= ratios[0] < 0.18
        assert 0.3 < rows[name].variance(40.0, kl_study.STICKING) < 0.5
    signal, starved = rows[kl_study.SIGNAL], rows[kl_study.STARVED]
    for by_name in signal.gradients.values():
        assert by_name["iwae:64"]["encoder"].snr < by_name["iwae:4"]["encoder"].snr
        assert by_name["dreg:64"]["encoder"].snr > 1.15 * by_name["iwae:64"]["encoder"].snr
    gaps = {
        name: sum(a - b for a, b in zip(values, starved.elbo[name], strict=True)) / len(values)
        for name, values in starved.log_likelihood.items()
    }
    assert gaps["iwae:16"] > gaps["trace_elbo"]


def test_a_guide_that_lands_has_no_noise_but_by_its_score() -> None:
    """The study's linear-Gaussian VAE: the exact posterior is where it says that it is."""
    row = kl_study.run(kl_study.LANDING, torch.empty(0), torch.empty(0), {"draws": 50})
    variance = {
        name: [by_name[name]["encoder"].variance for by_name in row.gradients.values()]
        for name in (kl_study.TRACE, kl_study.ANALYTIC, kl_study.STICKING)
    }
    assert list(row.gradients) == list(kl_study.DISTANCES)
    assert variance[kl_study.STICKING][-1] < 1e-20
    assert variance[kl_study.TRACE][-1] > 0.1
    assert variance[kl_study.ANALYTIC][-1] > 0.1
    # Near the end its noise falls with the square of the distance.
    near = variance[kl_study.STICKING][-3] / variance[kl_study.STICKING][-2]
    assert near == pytest.approx((0.01 / 0.003) ** 2, rel=0.3)


def test_the_papers_table_in_short(tmp_path: Path) -> None:
    """Rows of it, then more beside them, which are not run again."""
    quick = ("reproduce", "iwae-table", "--quick", "--out", tmp_path)
    assert "Each against the next" not in command(*quick, "--only", "VAE")
    output = command(*quick, "--only", "VAE", "--only", "PIWAE (8, 8)")
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in output
    assert "`pyro-vae reproduce iwae-table --quick`" in text
    assert text.count("not run") == len(iwae_table.ENTRIES) - 2
    folder = tmp_path / "iwae_table"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept.keys() == {"vae.json", "piwae-8-8.json"}
    vae, piwae = (study.kept(folder, name, {}) for name in ("VAE", "PIWAE (8, 8)"))
    assert vae is not None
    assert piwae is not None
    assert [point[0] for point in piwae.curve] == [1, 2]  # an epoch of each stage
    assert piwae.curve[0][1] < piwae.curve[1][1]
    gain, error = richer_parts.gain(piwae, vae)
    line = next(line for line in text.splitlines() if line.startswith("| PIWAE"))
    line = " ".join(line.split())
    assert f"| {-piwae.mean:.2f} ± {piwae.stderr:.2f} |" in line
    assert f"| {gain:.2f} ± {error:.2f} |" in line
    assert "| 84.46 | 84.58 |" in line
    assert text.count("Each against the next") == 1
    assert f"| VAE | 2.30 | {gain:.2f} ± {error:.2f} |" in " ".join(text.split())
    assert "| 1 trace_elbo, 1 piwae:8:8 |" in line
    command(*quick, "--only", "VampPrior(500)")
    for name, before in kept.items():
        assert (folder / name).read_bytes() == before
    assert "not run" not in next(
        line
        for line in (tmp_path / "results.md").read_text().splitlines()
        if line.startswith("| VampPrior")
    )


def test_the_papers_table_as_committed() -> None:
    """It is that of its rows, which are those that the command would make."""
    folder = DOCS / "iwae_table"
    rows = {name: study.kept(folder, name, {}) for name in iwae_table.ENTRIES}
    done = {name: row for name, row in rows.items() if row is not None}
    assert {study.file_of(folder, name) for name in done} == set(folder.iterdir())
    for text in (DOCS / "results.md", ROOT / "README.md"):
        assert f"\n\n{iwae_table.table(rows)}\n\n" in text.read_text()
    assert f"\n\n{iwae_table.order(rows)}\n\n" in (DOCS / "results.md").read_text()
    for name, row in done.items():
        assert row.settings["stages"] == [asdict(s) for s in iwae_table.ENTRIES[name].stages]
        assert (len(row.values), row.settings["num_samples"]) == (10_000, 5000)
        assert row.values.mean().item() == pytest.approx(row.mean, abs=1e-3)
    assert -done["VAE"].mean < 87.3
    assert -done["IWAE (k = 50)"].mean < 86.3
