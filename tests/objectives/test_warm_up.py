"""KL annealing: the weight of each step, and the terms without it."""

import warnings

import pyro
import pytest
import torch

from pyro_vae import fit, objectives, presets
from pyro_vae.objectives import Annealed, WithTerms

from ..losses import Program, gradient, program_of
from ..pairs import two_layers, two_layers_evidence, two_layers_guide
from ..vaes import bernoulli_vae, linear_gaussian

ELBOS = {
    "trace_elbo": objectives.trace_elbo,
    "analytic_kl": objectives.analytic_kl,
    "sticking_the_landing": objectives.sticking_the_landing,
}


@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.parametrize("particles", [1, 3])
def test_warm_up_at_weight_one_is_the_plain_objective_bit_for_bit(
    name: str, particles: int
) -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((20, 6), 0.5))
    program: Program = (vae.model, vae.guide, (x,), list(vae.parameters()))
    plain = gradient(ELBOS[name](particles), program)
    ended = objectives.warm_up(ELBOS[name](particles), steps=2)
    for _ in range(2):
        gradient(ended, program)
    for annealed in (ended, objectives.warm_up(ELBOS[name](particles), 7, start=1.0)):
        loss, own = gradient(annealed, program)
        assert loss == plain[0]
        assert all(torch.equal(a, b) for a, b in zip(own, plain[1], strict=True))


@pytest.mark.parametrize("name", ELBOS)
def test_warm_up_weighs_the_kl_alone(name: str) -> None:
    """In each step its own weight, and the recorded terms are those without one."""
    program = program_of(linear_gaussian(exact=False))
    model, guide, args, _ = program
    annealed = objectives.warm_up(ELBOS[name](), steps=4, start=0.2)
    plain, watched = WithTerms(ELBOS[name]()), WithTerms(annealed)
    for step, weight in enumerate((0.2, 0.4, 0.6, 0.8, 1.0, 1.0)):
        whole, _ = gradient(plain, program, step)
        assert plain.terms is not None
        likelihood, kl = plain.terms
        if name == "analytic_kl":  # its own KL, not that of the samples
            kl = whole + likelihood
        loss, _ = gradient(watched, program, step)
        assert loss == pytest.approx(-likelihood + weight * kl, rel=1e-6)
        assert watched.terms == pytest.approx(plain.terms, rel=1e-9)
        torch.manual_seed(step)
        annealed.loss(model, guide, *args)  # looks, and takes no step
    assert annealed.taken == 6


def test_warm_up_from_zero_leaves_the_reconstruction() -> None:
    program = program_of(linear_gaussian(exact=False))
    annealed = WithTerms(objectives.warm_up(objectives.trace_elbo(2), 10))
    loss, _ = gradient(annealed, program)
    assert annealed.terms is not None
    assert loss == pytest.approx(-annealed.terms[0])
    assert annealed.terms[1] != 0


def test_a_warm_up_that_is_over_is_noticed() -> None:
    """Its training would have no warm-up; one that is not over goes on without a word."""
    vae, x = presets.build("bernoulli-mlp", shape=6), torch.rand(8, 6).round()
    annealed = objectives.warm_up(objectives.trace_elbo(), steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            fit(vae, x, epochs=1, batch_size=4, objective=annealed, compile=False)
    with pytest.warns(UserWarning, match="objective: got a warm_up whose 4 steps are taken"):
        fit(vae, x, epochs=1, batch_size=4, objective=annealed, compile=False)


def test_a_warm_up_by_name() -> None:
    objective = objectives.parse("warm_up:500:sticking_the_landing:4")
    assert isinstance(objective, Annealed)
    assert objective.steps == 500
    assert objective.num_particles == 4
    assert "warm_up:steps:objective" in objectives.names()


@pytest.mark.parametrize("name", ["trace_elbo", "sticking_the_landing"])
def test_each_layer_warms_up_by_its_own_steps(name: str) -> None:
    """Its KL is the log-density of its site in the guide less that in the model."""
    torch.manual_seed(0)
    x = two_layers_evidence().sample((9,))
    program: Program = (two_layers, two_layers_guide, (x,), [])
    annealed = objectives.warm_up(ELBOS[name](), {"z1": 2, "z2": 4}, start=0.5)
    for step, (one, two) in enumerate([(0.5, 0.5), (0.75, 0.625), (1.0, 0.75), (1.0, 0.875)]):
        torch.manual_seed(step)
        q = pyro.poutine.trace(two_layers_guide).get_trace(x)
        p = pyro.poutine.trace(pyro.poutine.replay(two_layers, trace=q)).get_trace(x)
        for trace in (q, p):
            trace.compute_log_prob()
        kl = {n: q.nodes[n]["log_prob_sum"] - p.nodes[n]["log_prob_sum"] for n in ("z1", "z2")}
        expected = one * kl["z1"] + two * kl["z2"] - p.nodes["x"]["log_prob_sum"]
        torch.manual_seed(step)
        loss = annealed.loss_and_grads(*program[:2], x)
        assert loss == pytest.approx(expected.item(), rel=1e-9)
    only = objectives.warm_up(objectives.trace_elbo(), {"z2": 4}, start=0.5)
    assert (only.weight_of("z1"), float(only.weight_of("z2"))) == (1.0, 0.5)


def test_steps_of_layers_that_are_wrong() -> None:
    x = two_layers_evidence().sample((9,))
    unknown = objectives.warm_up(objectives.trace_elbo(), {"z3": 2})
    with pytest.raises(ValueError, match="steps: got the sites z3, expected some of z1, z2"):
        unknown.loss(two_layers, two_layers_guide, x)
    with pytest.raises(ValueError, match=r"steps\['z1'\]: got 0, expected a positive integer"):
        objectives.warm_up(objectives.trace_elbo(), {"z1": 0})
    with pytest.raises(ValueError, match="steps: got a mapping for an objective that sums"):
        objectives.warm_up(objectives.enumerated(), {"y": 2})
