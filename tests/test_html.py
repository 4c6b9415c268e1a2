"""What a notebook shows of pairs and results: their own numbers, and names as text."""

import dataclasses
import math

import pytest
import torch

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    log_likelihood,
    networks,
    posteriors,
    presets,
    priors,
)
from pyro_vae.comparison import Comparison, compare
from pyro_vae.evaluation import LogLikelihood, elbo_gap
from pyro_vae.training import History

from .page import HOSTILE, read
from .test_pair import pair_of
from .vaes import bernoulli_vae, binary

PRESETS = [name for name in presets.names() if name != "table-mlp"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_pair_shows_its_parts(name: str) -> None:
    vae = presets.build(name, z_dim=2, shape=(8, 8))
    page = read(vae._repr_html_())
    header, *rows = page.rows()
    assert header == ["part", "module", "shapes", "parameters"]
    shown = {part: own for part, *own in rows}
    for part in ("likelihood", "prior", "posterior"):
        lines = {key: own for key, own in shown.items() if key.startswith(part)}
        module = getattr(vae, part, None) or getattr(vae, f"{part}s")
        own = sum(int(line[2].split()[0].replace(",", "")) for line in lines.values())
        assert own == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert "→ " in shown["likelihood"][1]
    assert "8, 8)" in shown["likelihood"][1]
    assert page.all("pre")[0].text == repr(vae)


def test_a_vae_shows_shapes() -> None:
    vae = VAE(
        priors.GaussianMixture(2, components=3),
        likelihoods.Gaussian(networks.MLP(2, (4,), 5), scale="shared"),
        posteriors.Normal(networks.MLP(5, (), 4)),
        name=HOSTILE,
    )
    page = read(vae._repr_html_())
    assert HOSTILE in page.all("b")[0].text.replace("\\'", "'")
    assert page.rows()[1:] == [
        [
            "prior",
            "GaussianMixture(z_dim=2, components=3, covariance=diagonal)",
            "logits: (3,)\nloc: (3, 2)\nraw_scale: (3, 2)",
            "15 trained",
        ],
        [
            "likelihood",
            "Gaussian(scale='shared')",
            "raw_scale: ()\nMLP: (2,) → (5,)",
            "38 trained",
        ],
        ["posterior", "Normal", "MLP: (5,) → (4,)", "24 trained"],
    ]


def test_a_plain_pair_shows_its_modules() -> None:
    pair = pair_of()
    assert [row[0] for row in read(pair._repr_html_()).rows()[1:]] == ["decoder", "encoder"]
    pair.setup(torch.zeros(3, 5))
    rows = read(pair._repr_html_()).rows()[1:]
    assert [row[0] for row in rows] == ["params", "decoder", "encoder"]
    assert rows[0][3] == "3 trained"


def test_to_show_a_vae_changes_nothing() -> None:
    """Neither the noise that follows, nor modes and parameters."""
    vae = presets.build("conv", z_dim=2, shape=(8, 8))
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in vae.state_dict().items()}
    vae.likelihood.eval()
    vae._repr_html_()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in vae.state_dict().items())
    assert (vae.training, vae.likelihood.training, vae.posterior.training) == (True, False, True)


def test_a_history_shows_both_ends() -> None:
    epochs = list(range(1, 31))
    costs = [100.0 / epoch for epoch in epochs]
    history = History(
        {"epoch": epochs, "cost": costs, "test_cost": costs, "seconds": [1.0] * 30},
        ended="stopped",
        recoveries=[HOSTILE],
    )
    page = read(history._repr_html_())
    header, *rows = page.rows()
    assert header == list(history)
    assert 2 < len(rows) < 12
    for row in rows:
        own = history.rows()[int(row[0]) - 1]
        assert row[1:] == [f"{own[name]:.2f}" for name in header[1:]]
    assert (rows[0][0], rows[-1][0]) == ("1", "30")
    assert f"{len(rows)} of 30 epochs; stopped" in page.text
    assert page.all("p")[-1].text == HOSTILE
    assert len(page.all("polyline")) == 2
    assert "100.00 to 3.33" in (page.all("svg")[0].attributes["aria-label"] or "")


@pytest.mark.parametrize("costs", [[], [2.0], [math.nan], [1.0, math.nan, 3.0]])
def test_a_history_of_little_is_shown(costs: list[float]) -> None:
    page = read(History({"epoch": range(1, len(costs) + 1), "cost": costs})._repr_html_())
    assert len(page.rows()) == len(costs) + 1


def of(values: list[float], khat: float, **others: object) -> LogLikelihood:
    own = torch.tensor(values)
    result = log_likelihood(bernoulli_vae(), binary(len(values)), 30, seed=0)
    return dataclasses.replace(result, values=own, khat=torch.full_like(own, khat), **others)


def test_a_log_likelihood_shows_number_error_and_verdict() -> None:
    fine, doubtful = of([-3.0, -4.0], 0.1, mean=-3.5, complete=False), of([-3.0, -4.0], 0.9)
    page = read(fine._repr_html_())
    assert fine.doubt is None
    expected = [f"{n:.6g}" for n in (fine.mean, fine.stderr, fine.mc_error)]
    assert page.rows()[1] == ["log-likelihood", *expected]
    assert "not in doubt: k-hat is at most 0.32 for all 2 examples" in page.text
    assert "interrupted: only the first 2 examples" in page.text
    assert page.all("pre")[0].text == repr(fine)
    assert doubtful.doubt is not None
    page = read(doubtful._repr_html_())
    assert f"in doubt: {doubtful.doubt}" in page.text
    assert "not in doubt" not in page.text
    assert "interrupted" not in page.text
    assert "nothing is sampled" in of([-3.0], math.nan, estimator="exact")._repr_html_()
    assert HOSTILE in read(
        of([-3.0], 0.1, estimator_settings={"a": HOSTILE})._repr_html_()
    ).text.replace("\\'", "'")


def test_an_elbo_and_its_gap_show_their_terms() -> None:
    vae, x = bernoulli_vae(), binary(6)
    bound, gap = elbo(vae, x, seed=0), elbo_gap(vae, x, 30, steps=2, seed=0)
    rows = read(bound._repr_html_()).rows()
    assert rows[0][1:] == ["mean", "error over examples", "Monte Carlo error"]
    assert rows[3] == [
        "KL",
        *(f"{n:.6g}" for n in (bound.kl_mean, bound.kl_stderr, bound.kl_mc_error)),
    ]
    assert float(rows[1][1]) == pytest.approx(-float(rows[2][1]) - float(rows[3][1]), rel=1e-5)
    rows = read(gap._repr_html_()).rows()
    assert rows[0][1:] == ["mean", "error over examples"]
    assert rows[1][1:] == [f"{gap.approximation_mean:.6g}", f"{gap.approximation_stderr:.6g}"]
    assert rows[2][1:] == [f"{gap.amortization_mean:.6g}", f"{gap.amortization_stderr:.6g}"]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    x = binary(12)
    return compare(bernoulli_vae, x, x, seeds=(0, 1), epochs=2, batch_size=6, draws=20)


def test_a_comparison_shows_the_numbers_of_its_tables(comparison: Comparison) -> None:
    page = read(comparison._repr_html_())
    printed = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in f"{comparison.table()}\n{comparison.gradient_table()}".splitlines()
        if not line.startswith("| --")
    ]
    assert page.rows() == printed
    assert (comparison.doubt or "nats") in page.text
    assert "2 objectives on 2 seeds" in page.text


def test_objectives_with_hostile_names_are_text(comparison: Comparison) -> None:
    def renamed(own: dict) -> dict:
        return {HOSTILE if name == "trace_elbo" else name: value for name, value in own.items()}

    other = dataclasses.replace(
        comparison,
        histories=renamed(comparison.histories),
        log_likelihoods=renamed(comparison.log_likelihoods),
        peak_bytes=renamed(comparison.peak_bytes),
        gradients={e: renamed(own) for e, own in comparison.gradients.items()},
        complete=False,
    )
    page = read(other._repr_html_())
    assert page.rows()[1][0] == HOSTILE
    assert "; interrupted" in page.text


def test_a_trained_history_is_shown() -> None:
    history = fit(bernoulli_vae(), binary(), epochs=2, batch_size=4)
    page = read(history._repr_html_())
    assert [row[1] for row in page.rows()[1:]] == [f"{cost:.2f}" for cost in history.cost]
