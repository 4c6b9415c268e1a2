"""A page of each kind of pair and run has what it is to have, and no more."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyro_vae import (
    VAE,
    Pair,
    datasets,
    fit,
    likelihoods,
    log_likelihood,
    networks,
    posteriors,
    presets,
    priors,
)
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset
from pyro_vae.report import explore, report
from tests.pairs import fine, guide
from tests.report.pages import spec_of, texts, without_scripts
from tests.vaes import IMAGE_PRESETS

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'&",
    "</script><img src=x onerror=alert(1)>",
    "É 数 $$x$$",
)
MOST_BYTES = 4_000_000
SHORT = "two-layers-mlp", "semi-supervised-mlp"


def examples(digits: Dataset, count: int = 40) -> tuple[Tensor, Tensor]:
    return datasets.binarize(digits.test[:count], seed=0), digits.test_labels[:count]


def test_the_page_of_make_runs_vae(digits: Dataset, tmp_path: Path) -> None:
    vae = presets.build("bernoulli-mlp", shape=(28, 28))
    x, y = examples(digits, 500)
    history = fit(vae, x[:128], epochs=2, seed=0, compile=False)
    result = log_likelihood(vae, x[:50], num_samples=50, seed=0)
    page = report(
        vae, x, out=tmp_path / "a" / "page.html", labels=y, history=history, result=result
    )
    assert page.stat().st_size < MOST_BYTES
    text = texts(page)
    assert f"log p(x) = {result.mean:.2f} ± {result.stderr:.2f} nats" in text
    assert f"{history['cost'][-1]:.2f}" in text
    for title in ("Summary", "Explore", "Training", "Log-likelihood", "What it makes", "Latents"):
        assert title in text
    assert "default-src 'none'; img-src data:;" in page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", without_scripts(page))


@pytest.mark.parametrize(
    "name",
    [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.slow)
        for name in IMAGE_PRESETS
    ],
)
def test_each_preset_has_a_page(
    name: str, preset: Callable[[str], Composed], digits: Dataset, tmp_path: Path
) -> None:
    x, y = examples(digits)
    chosen = presets.get(name)
    given = (x, y) if chosen.conditional or chosen.labelled else x
    page = report(preset(name), given, out=tmp_path / "page.html", labels=y)
    assert "layers" in spec_of(page)
    buttons = page.read_text(encoding="utf-8").count("data-class=")
    assert buttons == (10 if name in ("conditional-mlp", "semi-supervised-mlp") else 0)
    assert "Reconstructed worst of 40" in texts(page)


def test_a_plain_pair_has_a_page_without_an_explorer(tmp_path: Path) -> None:
    page = report(Pair(fine, guide), torch.randn(20, 3), out=tmp_path / "page.html")
    text = texts(page)
    assert "There is no explorer: the pair is not composed of parts" in text
    assert "ELBO of 20 examples" in text
    assert "of 1 latents are active" in text


def test_without_x_what_needs_none_is_there(tmp_path: Path) -> None:
    page = report(presets.build("pyro-mlp", shape=(28, 28)), out=tmp_path / "page.html")
    assert "layers" in spec_of(page)
    assert "No examples of the data." in texts(page)
    assert "draws of the prior" in texts(page)


def test_a_decoder_that_is_unknown_has_a_grid(tmp_path: Path) -> None:
    levels = 4
    network = networks.MLP(3, (4,), (levels, 8, 8))
    vae = VAE(
        priors.StandardNormal(3),
        likelihoods.Categorical(network, levels=levels),
        posteriors.Normal(networks.MLP((8, 8), (4,), 6)),
    )
    page = report(vae, torch.randint(levels, (9, 8, 8)).float(), out=tmp_path / "page.html")
    spec = spec_of(page)
    assert "layers" not in spec
    assert len(spec["grids"]) == 1
    assert "since the page does not compute the mean of a Categorical likelihood" in texts(page)
    assert explore(vae).page.count("data-latent=") == 2


def test_a_decoder_that_is_too_long_has_a_grid_for_each_class() -> None:
    network = networks.Conditioned(networks.MLP(2 + 3, (30_000,), (8, 8)), (), classes=3)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(network),
        posteriors.Normal(networks.Conditioned(networks.MLP(64 + 3, (4,), 4), (), classes=3)),
    )
    page = explore(vae).page
    assert "MB, more than 4" in page
    assert page.count("data-class=") == 3
    assert page.count("data:image/png") == 3


def test_a_vae_that_takes_covariates_shows_its_context(tmp_path: Path) -> None:
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.Conditioned(networks.MLP(2 + 3, (4,), (8, 8)), 3)),
        posteriors.Normal(networks.Conditioned(networks.MLP(64 + 3, (4,), 4), 3)),
    )
    batch = torch.zeros(7, 8, 8), torch.randn(7, 3)
    text = texts(report(vae, batch, out=tmp_path / "page.html"))
    assert "There is no explorer: it takes a context" in text
    assert "5 for each of the contexts of 7 examples" in text
    hidden = texts(report(vae, batch, out=tmp_path / "page.html", data=False))
    assert "for each of the contexts" not in hidden


def test_a_page_without_data_has_none(digits: Dataset, tmp_path: Path) -> None:
    vae = presets.build("bernoulli-mlp", shape=(28, 28))
    x, y = examples(digits)
    names = [f"label-{label}" for label in y.tolist()]
    full, bare = (
        report(vae, x, out=tmp_path / f"{data}.html", labels=names, data=data)
        for data in (True, False)
    )
    shown, hidden = (page.read_text(encoding="utf-8") for page in (full, bare))
    for there in (
        "label-",
        "--examples: url",
        "data-points",
        "Reconstructed worst",
        "latent point",
    ):
        assert there in shown, there
    for gone in (
        "label-",
        "--examples: url",
        "data-points=",
        "Reconstructed worst",
        "and the latent",
    ):
        assert gone not in hidden, gone
    assert "No examples of the data: this page was made without them." in hidden
    assert without_scripts(bare).count("<img ") == 1  # those that it makes
    assert "latents are active" in hidden


def test_hostile_names_are_text(digits: Dataset, tmp_path: Path) -> None:
    x, _ = examples(digits, 8)
    vae = presets.build("pyro-mlp", shape=(28, 28))
    vae.name = HOSTILE[0]
    folder = tmp_path / 'a "quoted" <b>'
    page = report(vae, x, out=folder / "é.html", labels=[*HOSTILE, *HOSTILE])
    written = page.read_text(encoding="utf-8")
    # Scripts apart, each "<" of a name is escaped; in scripts, no name ends them.
    assert "<script>alert" not in written
    assert "<img src=x" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written


def test_a_labels_mistake_is_an_error(digits: Dataset, tmp_path: Path) -> None:
    vae = presets.build("pyro-mlp", shape=(28, 28))
    x, y = examples(digits, 4)
    out = tmp_path / "page.html"
    with pytest.raises(ValueError, match="labels: got 3, expected one for each of 4"):
        report(vae, x, out=out, labels=y[:3])
    with pytest.raises(TypeError, match="labels: got an int among them"):
        report(vae, x, out=out, labels=["a", "b", "c", 3])
    assert not out.exists()
    report(vae, x, out=out, labels=["a", "b", "c", "c"])


def test_explore_orders_latents_by_their_activity(digits: Dataset) -> None:
    vae = presets.build("pyro-mlp", z_dim=4, shape=(28, 28))
    x, _ = examples(digits, 30)
    order = vae.embed(x).var(0).argsort(descending=True).tolist()
    found = explore(vae, x)
    assert [int(d) for d in re.findall(r'data-latent="(\d+)"', found.page)] == order
    assert found._repr_html_().startswith("<iframe srcdoc=")


def test_what_cannot_be_explored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="vae: got a Pair"):
        explore(Pair(fine, guide))
    row = presets.build("pyro-mlp", z_dim=2, shape=6)
    with pytest.raises(ValueError, match="no image"):
        explore(row)
    square = presets.build("pyro-mlp", z_dim=2, shape=64)
    assert explore(square).save(tmp_path / "page.html").exists()
