"""Descriptions of objectives: two that compute the same have the same, all others another."""

from functools import partial

import pytest
import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO
from torch import Tensor

from pyro_vae import fit, objectives
from pyro_vae.objectives import ImportanceWeightedELBO, described

from ..vaes import bernoulli_vae, binary

TEXTS = (
    "trace_elbo", "trace_elbo:6", "analytic_kl", "sticking_the_landing", "iwae:6", "dreg:6",
    "miwae:2:3", "miwae:3:2", "ciwae:0.05:6", "ciwae:0.5:6", "piwae:2:3", "piwae:3:2",
    "renyi:0.5:6", "renyi:2.0:6", "beta:1.0", "beta:2.0", "free_bits:0.1", "free_bits:0.2",
    "warm_up:5:trace_elbo", "warm_up:6:trace_elbo", "warm_up:5:analytic_kl",
)  # fmt: skip


def test_each_objective_has_a_description_of_its_own() -> None:
    made = [described(objectives.parse(text)) for text in TEXTS]
    assert made == [described(objectives.parse(text)) for text in TEXTS]
    assert len({str(each) for each in made}) == len(TEXTS)
    assert "0x" not in str(made)


def scaled(log_w: Tensor, scale: float) -> Tensor:
    return scale * log_w.mean(0)


def bound(scale: float) -> ELBO:
    return ImportanceWeightedELBO(2, lambda log_w: scaled(log_w, scale))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (bound(1.0), bound(2.0)),
        (
            ImportanceWeightedELBO(2, partial(scaled, scale=1.0)),
            ImportanceWeightedELBO(2, partial(scaled, scale=2.0)),
        ),
        (RenyiELBO(alpha=0.5), RenyiELBO(alpha=0.6)),
        (Trace_ELBO(), Trace_ELBO(num_particles=2)),
    ],
)
def test_numbers_of_a_user_s_objective_count(one: ELBO, other: ELBO) -> None:
    assert described(one) != described(other)


def test_training_and_compiling_change_no_description() -> None:
    objective = objectives.warm_up(objectives.trace_elbo(), 4)
    before = described(objective)
    fit(bernoulli_vae(), binary(40), epochs=1, batch_size=20, objective=objective)
    assert torch.equal(objective.taken, torch.tensor(2.0))
    assert described(objective) == before == described(objectives.compiled(objective))
