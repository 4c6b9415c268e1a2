"""``pyro-vae pairs``: the table of priors and posteriors, and what it says of some."""

from pathlib import Path

import pytest

from pyro_vae.cli import pairs
from tests.cli.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_parts_has_the_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pairs") == 0
    assert capsys.readouterr().out.strip() in (DOCS / "swapping_parts.md").read_text()


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
def test_combinations_are_what_is_known_of_them(prior: str, posterior: str, kl: str) -> None:
    assert pairs.kl_of(prior, posterior) == kl
