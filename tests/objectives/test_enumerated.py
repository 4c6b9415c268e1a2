"""Discrete latents that are summed out: values, gradients and terms are the closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_vae import Pair, fit, objectives, optim

from ..conftest import needs_compiler
from ..discrete import CLASSES, Z_DIM, Classes, OneClass
from ..tolerances import CLOSE, same_mean, within


def gradients(owner: torch.nn.Module) -> Tensor:
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in owner.parameters()]
    return torch.cat([gradient.flatten() for gradient in found])


def autograd(value: Tensor, owner: torch.nn.Module) -> Tensor:
    found = torch.autograd.grad(value, list(owner.parameters()), materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    return torch.cat([gradient.flatten() for gradient in found])


def loss_of(objective: Any, pair: Any, x: Tensor, owner: torch.nn.Module) -> tuple[float, Tensor]:
    """A loss and its gradients from one seed; the plates are known before."""
    objective.loss(pair.model, pair.guide, x)
    owner.zero_grad()
    torch.manual_seed(7)
    loss = objective.loss_and_grads(pair.model, pair.guide, x)
    return loss, gradients(owner)


@pytest.mark.parametrize("kind", [dist.Categorical, dist.OneHotCategorical])
def test_a_sum_over_classes_is_the_closed_form(kind: Any) -> None:
    x = torch.randn(6).double()
    case = OneClass(6, kind=kind)
    loss, gradient = loss_of(objectives.enumerated(), case, x, case)
    elbo = case.elbo(x)
    assert loss == pytest.approx(-elbo.item(), rel=CLOSE)
    torch.testing.assert_close(gradient, autograd(-elbo, case), rtol=CLOSE, atol=CLOSE)


def test_without_a_guide_it_is_the_evidence() -> None:
    """With the same y in the guide it is as large where q(y|x) is p(y|x), and else smaller."""
    x = torch.randn(6).double()
    case = OneClass(6)
    evidence = case.log_joint(x).logsumexp(-1).sum()
    alone = Pair(case.model, case.no_guide)
    loss, gradient = loss_of(objectives.enumerated(), alone, x, case)
    assert loss == pytest.approx(-evidence.item(), rel=CLOSE)
    torch.testing.assert_close(gradient, autograd(-evidence, case), rtol=CLOSE, atol=CLOSE)
    assert objectives.enumerated().loss(case.model, case.guide, x) > loss
    with torch.no_grad():
        case.logits.copy_(case.log_joint(x))
    assert objectives.enumerated().loss(case.model, case.guide, x) == pytest.approx(
        loss, rel=CLOSE
    )


@pytest.mark.parametrize("guide", ["trained_guide", "guide_of_z"])
def test_given_the_noise_of_z_it_is_the_closed_form(guide: str) -> None:
    """Value, gradient and both terms, with the class in the guide and in the model alone."""
    case, alone = Classes(), guide == "guide_of_z"
    x, pair = case.data(5), case.pair(guide)
    watched = objectives.WithTerms(objectives.enumerated())
    loss, gradient = loss_of(watched, pair, x, case)
    torch.manual_seed(7)
    eps = torch.randn(*(() if alone else (CLASSES,)), 5, Z_DIM, dtype=torch.float64)
    elbo, kl = case.given_noise(x, eps, alone)
    assert loss == pytest.approx(-elbo.item(), rel=CLOSE)
    torch.testing.assert_close(gradient, autograd(-elbo, case), rtol=CLOSE, atol=CLOSE)
    assert watched.terms is not None
    assert watched.terms == pytest.approx(((elbo + kl).item(), kl.item()), rel=CLOSE)


@pytest.mark.parametrize("guide", ["trained_guide", "guide_of_z"])
def test_a_warm_up_weighs_the_kl_of_the_expectation(guide: str) -> None:
    case, alone = Classes(), guide == "guide_of_z"
    x, pair = case.data(5), case.pair(guide)
    watched = objectives.WithTerms(
        objectives.warm_up(objectives.enumerated(), steps=10, start=0.25, end=0.25)
    )
    loss, gradient = loss_of(watched, pair, x, case)
    torch.manual_seed(7)
    eps = torch.randn(*(() if alone else (CLASSES,)), 5, Z_DIM, dtype=torch.float64)
    elbo, kl = case.given_noise(x, eps, alone)
    expected = -(elbo + kl) + 0.25 * kl
    assert loss == pytest.approx(expected.item(), rel=CLOSE)
    torch.testing.assert_close(gradient, autograd(expected, case), rtol=CLOSE, atol=CLOSE)
    assert watched.terms == pytest.approx(((elbo + kl).item(), kl.item()), rel=CLOSE)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("guide", ["trained_guide", "guide_of_z"])
def test_it_is_pyros_of_marked_sites(guide: str, particles: int) -> None:
    case = Classes()
    x, pair = case.data(5), case.pair(guide)
    own = loss_of(objectives.enumerated(particles), pair, x, case)

    class Marked:
        model, guide = config_enumerate(pair.model), config_enumerate(pair.guide)

    theirs = loss_of(TraceEnum_ELBO(particles, vectorize_particles=particles > 1), Marked, x, case)
    assert own[0] == pytest.approx(theirs[0], rel=CLOSE)
    torch.testing.assert_close(own[1], theirs[1], rtol=CLOSE, atol=CLOSE)


TABLE = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])


def chain(x: Tensor, guide: str | None = None) -> None:
    """Three classes that depend on each other, and a number for each pixel given the last.

    Arguments:
        x: The data.
        guide: The classes that the guide draws, "b" from its prior; None for the model.
    """
    with pyro.plate("data", len(x), dim=-2):
        p_a = torch.full((len(x), 1), 0.3 if guide is None else 0.5)
        a = pyro.sample("a", dist.Bernoulli(p_a))
        b = pyro.sample("b", dist.Categorical(TABLE[a.long()]))
        if guide == "ab":
            return
        with pyro.plate("pixels", 3, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.2 + 0.3 * b if guide is None else 0.4))
            if guide is None:
                pyro.sample("x", dist.Normal(2 * c + a, 1.0), obs=x)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("guide", ["ab", "abc"])
def test_classes_that_depend_on_each_other_in_several_plates(guide: str) -> None:
    """c is in a plate of pixels: a sum in each pixel, for each a and b."""
    x, total = torch.randn(4, 3), 0.0
    table = TABLE.double()
    loss = objectives.enumerated().loss(chain, lambda x: chain(x, guide), x)
    for a, p_a in enumerate((0.7, 0.3)):
        total += 0.5 * 4 * math.log(p_a / 0.5)
        for b in range(3):
            c = torch.tensor([0.8 - 0.3 * b, 0.2 + 0.3 * b])[:, None, None].log()
            log_p = c + dist.Normal(torch.tensor([a, 2.0 + a])[:, None, None], 1.0).log_prob(x)
            q = torch.tensor([0.6, 0.4])[:, None, None]
            terms = log_p.logsumexp(0) if guide == "ab" else (q * (log_p - q.log())).sum(0)
            total += 0.5 * table[a, b].item() * terms.sum().item()
    assert loss == pytest.approx(-total, rel=1e-6)


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("sharp", [math.inf, 2000.0])
def test_probabilities_of_zero_and_one(sharp: float) -> None:
    """Values of the classes that are left, and finite gradients, uncompiled and compiled."""
    x = torch.randn(2).double()
    case = OneClass(2)
    with torch.no_grad():
        case.logits.copy_(
            torch.tensor([[0.0, -sharp, -sharp, 0.5], [-sharp, 0.0, -sharp, -sharp]])
        )
        log_p = case.log_joint(x)
        q = x.new_tensor([0.0, 0.5]).softmax(0)
        elbo = (q * (log_p[0, [0, 3]] - q.log())).sum() + log_p[1, 1]
    for objective in (objectives.enumerated(), objectives.compiled(objectives.enumerated())):
        loss, gradient = loss_of(objective, case, x, case)
        assert loss == pytest.approx(-elbo.item(), rel=CLOSE)
        assert torch.isfinite(gradient).all()
        # Where the class is certain, its logit has no gradient.
        assert gradient[-4:].abs().max() < 1e-12


def test_a_class_that_the_model_excludes() -> None:
    """p(y) = 0 is no term of a sum in the model, and an infinite KL of a guide that has it."""
    x = torch.randn(3).double()
    case = OneClass(3)
    with torch.no_grad():
        case.prior[1] = -math.inf
    evidence = case.log_joint(x).logsumexp(-1).sum()
    loss, gradient = loss_of(objectives.enumerated(), Pair(case.model, case.no_guide), x, case)
    assert loss == pytest.approx(-evidence.item(), rel=CLOSE)
    assert torch.isfinite(gradient).all()
    assert objectives.enumerated().loss(case.model, case.guide, x) == math.inf


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("guide", ["trained_guide", "guide_of_z"])
@pytest.mark.parametrize("particles", [1, 3])
def test_compiled_steps_are_the_uncompiled_ones(guide: str, particles: int) -> None:
    def run(wrap: Callable[[Any], Any]) -> tuple[list[float], Tensor]:
        torch.manual_seed(5)
        case = Classes()
        x, pair = case.data(8), case.pair(guide)
        svi = SVI(pair.model, pair.guide, optim.Adam(1e-2), wrap(objectives.enumerated(particles)))
        losses = [svi.step(x) for _ in range(4)]
        return losses, torch.cat([p.detach().flatten() for p in case.parameters()])

    (own, parameters), (expected, theirs) = run(objectives.compiled), run(lambda elbo: elbo)
    assert own == pytest.approx(expected, rel=CLOSE)
    torch.testing.assert_close(parameters, theirs, rtol=CLOSE, atol=CLOSE)


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("guide", ["trained_guide", "guide_of_z"])
def test_fit_has_the_same_epochs_compiled_or_not(guide: str) -> None:
    """Stepwise, and recorded; cost = reconstruction + KL, and the costs of held-out data."""
    histories = []
    for compile in (False, True):
        torch.manual_seed(3)
        case = Classes()
        x = case.data(24)
        histories.append(
            fit(case.pair(guide), x, test=x, epochs=3, batch_size=8, seed=0, compile=compile,
                objective=objectives.enumerated())
        )  # fmt: skip
    for column in ("cost", "reconstruction", "kl", "test_cost"):
        assert histories[0][column] == pytest.approx(histories[1][column], rel=CLOSE)
    for cost, reconstruction, kl in zip(
        histories[0].cost, histories[0].reconstruction, histories[0].kl, strict=True
    ):
        assert cost == pytest.approx(reconstruction + kl, rel=CLOSE)


def test_the_mean_is_that_of_the_score_function() -> None:
    """Value and gradient of a sampled class have the means of the sum over classes."""
    case = Classes()
    x, pair = case.data(2), case.pair("trained_guide")

    def draws(objective: Any) -> Tensor:
        found = []
        for _ in range(400):
            case.zero_grad()
            loss = objective.loss_and_grads(pair.model, pair.guide, x)
            found.append(torch.cat([torch.tensor([loss]).double(), gradients(case)]))
        return torch.stack(found)

    same_mean(draws(objectives.enumerated()), draws(Trace_ELBO()))


def counts(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        n = pyro.sample("n", dist.Poisson(torch.tensor(2.0).double()))
        y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.3).double()))
        pyro.sample("x", dist.Normal(n + y, 1.0), obs=x)


def test_other_discrete_sites_have_the_score_function() -> None:
    """A Poisson in the guide is drawn, with an unbiased gradient by its rate."""
    rate = torch.tensor(0.8).double().requires_grad_()
    x = torch.tensor([1.5]).double()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("n", dist.Poisson(rate.exp()))
            pyro.sample("y", dist.Bernoulli(torch.tensor(0.4).double()))

    n, y = torch.arange(60.0).double(), torch.tensor([0.0, 1.0]).double()
    q_n, q_y = dist.Poisson(rate.exp()).log_prob(n), dist.Bernoulli(0.4).log_prob(y)
    p = dist.Poisson(2.0).log_prob(n)[:, None] + dist.Bernoulli(0.3).log_prob(y)
    p = p + dist.Normal(n[:, None] + y, 1.0).log_prob(x)
    log_q = q_n[:, None] + q_y
    (exact,) = torch.autograd.grad((log_q.exp() * (log_q - p)).sum(), rate)
    objective, found = objectives.enumerated(), []
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(objective.differentiable_loss(counts, guide, x), rate)
        found.append(gradient)
    within(torch.stack(found), exact)


def test_a_masked_class_counts_nothing_and_its_values_add_up() -> None:
    """Where y is masked it has no KL, and x is the mean over q(y), as with a y that is drawn."""
    x = torch.randn(3).double()
    case, mask = OneClass(3), torch.tensor([True, False, True])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=mask):
                y = pyro.sample("y", dist.Categorical(logits=case.prior))
            pyro.sample("x", dist.Normal(case.loc[y], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Categorical(logits=case.logits))

    log_q = case.logits.log_softmax(-1)
    log_x = dist.Normal(case.loc, 1.0).log_prob(x[:, None])
    kl = (log_q.exp() * (log_q - case.prior.log_softmax(-1))).sum(-1)
    expected = -(log_q.exp() * log_x).sum() + (kl * mask).sum()
    assert objectives.enumerated().loss(model, guide, x) == pytest.approx(
        expected.item(), rel=CLOSE
    )


# What is refused.


def site(fn: Any, **infer: Any) -> Callable[[Tensor], None]:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("z", fn, infer=infer)

    return program


@pytest.mark.parametrize(
    ("fn", "infer", "message"),
    [
        (dist.Normal(0.0, 1.0), {"enumerate": "parallel"},
         r'guide: the site "z" is marked for enumeration and has Normal, expected a distribution'),
        (dist.Bernoulli(0.5), {"enumerate": "sequential"}, r"infer=\{'enumerate': 'sequential'\}"),
        (dist.Normal(0.0, 1.0), {"enumerate": "parallel", "num_samples": 3}, "'num_samples': 3"),
        (dist.Bernoulli(0.5).mask(torch.tensor(True)), {}, "has a mask in its distribution"),
    ],
)  # fmt: skip
def test_other_enumerations_are_refused(fn: Any, infer: dict[str, Any], message: str) -> None:
    program = site(fn, **infer)
    with pytest.raises(ValueError, match=message):
        objectives.enumerated().loss(program, program, torch.zeros(2))


def test_a_pair_without_a_class_is_refused() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r'the latents "z" \(Normal\), expected a site with'):
        objectives.enumerated().loss(program, program, torch.zeros(2))


def test_a_latent_of_the_model_alone_has_to_be_countable() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5)))

    model = site(dist.Normal(0.0, 1.0))
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(
            ValueError,
            match=r'site "z": latent in the model, and not in the guide, and has Normal',
        ),
    ):
        objectives.enumerated().loss(model, guide, torch.zeros(2))


def test_a_site_may_be_left_to_chance() -> None:
    """``infer={"enumerate": None}`` draws it."""
    program = site(dist.Bernoulli(0.5), enumerate=None)
    objective = objectives.enumerated()
    assert objective.loss(program, program, torch.zeros(2)) == 0
    trace, _ = next(objective._get_traces(program, program, (torch.zeros(2),), {}))
    assert trace.nodes["z"]["value"].shape == (2,)
    assert trace.nodes["y"]["value"].shape == (2, 1)


def test_other_objectives_refuse_a_class_of_the_model_alone() -> None:
    case = Classes()
    x, pair = case.data(5), case.pair("guide_of_z")
    with pytest.raises(ValueError, match=r'site "y": .* or objectives.enumerated\(\), which sums'):
        fit(pair, x, epochs=1, batch_size=5)
    with pytest.raises(ValueError, match="latent in the model, and not in the guide"):
        fit(pair, x, epochs=1, batch_size=5, objective=objectives.warm_up(Trace_ELBO(), 3))
    fit(pair, x, epochs=1, batch_size=5, objective=objectives.warm_up(objectives.enumerated(), 3))
    marked = Pair(config_enumerate(case.model), case.guide_of_z, case=case)
    history = fit(marked, x, epochs=1, batch_size=5, objective=TraceEnum_ELBO(), test=x)
    assert history.cost[0] == pytest.approx(history.reconstruction[0] + history.kl[0], rel=CLOSE)
