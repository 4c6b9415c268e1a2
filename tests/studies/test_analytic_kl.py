"""The study of the closed-form KL: in short by the command, and as committed."""

import json
from pathlib import Path

import pytest

from pyro_vae.studies import analytic_kl, engine
from pyro_vae.studies.analytic_kl import AnalyticKL
from pyro_vae.studies.analytic_kl.results import (
    ANALYTIC,
    KINDS,
    LANDING,
    NOISE,
    PLAIN,
    SAMPLES,
    SIGNAL,
    STARVED,
    STICKING,
    TRACE,
)
from tests.studies.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"


SHORT = ("analytic-kl", "--epochs", 1, "--seeds", 2, "--num-samples", 3, "--draws", 20)


@pytest.mark.slow
def test_the_study_goes_on_where_it_was_left(
    tmp_path: Path, reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytic_kl, "DISTANCES", (1.0, 0.0))
    options = (*SHORT, "--out", tmp_path, "--only", PLAIN, "--only", LANDING)
    output = reproduce(*options)
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in output
    assert f"{PLAIN}: sticking_the_landing, seed 1: test -ELBO" in output
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert kept.keys() == {"50-latents-l-1-batch-128.json", "landing.json"}
    plain = AnalyticKL(out=tmp_path).kept()[PLAIN]
    assert plain is not None
    gains = [run[-1] for run in plain.gain(ANALYTIC)]
    costs = [[runs[-1] for runs in plain.test_cost[name]] for name in (TRACE, ANALYTIC)]
    assert gains == pytest.approx([a - b for a, b in zip(*costs, strict=True)])
    line = next(line for line in text.splitlines() if line.startswith(f"| {PLAIN}"))
    line = " ".join(line.split())
    spread = abs(gains[0] - gains[1]) / 2
    assert f"{sum(gains) / 2:.2f} ± {spread:.2f} |" in line
    assert f"| {plain.variance(0.0, ANALYTIC):.3f} |" in line
    assert "| L = 16 " in text
    assert text.lower().count("not run") == 8
    for name in ("variance", "gain", "landing"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0

    again = reproduce(*options)
    assert "seed 1" not in again
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.json")} == kept
    with pytest.raises(ValueError, match=r"json: was made with draws=20, expected draws=21"):
        reproduce(*options, "--draws", 21)
    row = json.loads(kept["landing.json"])
    del row["gradients"]["0.0"]["trace_elbo"]["encoder"]["norm"]
    (tmp_path / "landing.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"landing.json: damaged"):
        reproduce(*options)


@pytest.mark.slow
def test_the_other_rows_in_short(tmp_path: Path, reproduce: Command) -> None:
    names = (PLAIN, NOISE, SIGNAL, STARVED)
    reproduce(*SHORT, "--out", tmp_path, *(word for name in names for word in ("--only", name)))
    text = (tmp_path / "results.md").read_text()
    assert text.lower().count("not run") == 6
    rows = AnalyticKL(out=tmp_path).kept()
    for name, epochs in ((NOISE, [0, 1]), (SIGNAL, [1]), (STARVED, [0, 1])):
        row = rows[name]
        assert row is not None
        assert list(row.gradients) == epochs
    assert (tmp_path / "signal.png").stat().st_size > 0


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only: got 'L = 3', expected one of '50 latents"):
        AnalyticKL(only=["L = 3"])
    with pytest.raises(ValueError, match=r"draws: got 5, expected 20 or more"):
        AnalyticKL(draws=5)


def test_the_study_as_committed() -> None:
    """Its tables are those of its rows, and what the document says of them is so."""
    rows = {}
    study = AnalyticKL(out=DOCS / "analytic_kl")
    text = study.document(study.kept()).markdown(study.command())
    assert text == (DOCS / "analytic_kl" / "results.md").read_text()
    for name, row in study.kept().items():
        assert row is not None, f"{name} was not run"
        rows[name] = row
    settings = {name: rows[name] for name in analytic_kl.SETTINGS}
    tables = (
        engine.variance_table(settings, (ANALYTIC, STICKING)),
        engine.noise_table(rows[NOISE], rows[PLAIN]),
        engine.distance_table(rows[LANDING]),
        engine.signal_table(rows[SIGNAL], KINDS, SAMPLES),
        engine.gap_table(rows[STARVED]),
    )
    for table in tables:
        assert table in (DOCS / "analytic_kl.md").read_text()
    for row in settings.values():
        ratios = [row.variance(at, ANALYTIC) for at in row.gradients]
        assert max(ratios) < 1
        assert 0.12 <= ratios[0] < 0.18
        assert 0.3 < row.variance(40.0, STICKING) < 0.5
    for by_name in rows[SIGNAL].gradients.values():
        assert by_name["iwae:64"]["encoder"].snr < by_name["iwae:4"]["encoder"].snr
        assert by_name["dreg:64"]["encoder"].snr > 1.15 * by_name["iwae:64"]["encoder"].snr
    gaps = {name: sum(rows[STARVED].gap(name)) / 5 for name in rows[STARVED].elbo}
    assert gaps["iwae:16"] > gaps["trace_elbo"]


def test_a_guide_that_lands_has_no_noise_but_by_its_score() -> None:
    """The study's linear-Gaussian VAE: the exact posterior is where it says that it is."""
    row = AnalyticKL(draws=20).run(LANDING)
    variance = {
        name: [by_name[name]["encoder"].variance for by_name in row.gradients.values()]
        for name in (TRACE, ANALYTIC, STICKING)
    }
    assert list(row.gradients) == list(analytic_kl.DISTANCES)
    assert variance[STICKING][-1] < 1e-20
    assert variance[TRACE][-1] > 0.1
    assert variance[ANALYTIC][-1] > 0.1
    # Near the end its noise falls with the square of the distance.
    near = variance[STICKING][-3] / variance[STICKING][-2]
    assert near == pytest.approx((0.01 / 0.003) ** 2, rel=0.3)
