"""Labels for some of the data: classes of linear Gaussians, of which everything is known."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    load,
    log_likelihood,
    models,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
    save,
)
from pyro_vae.evaluation import calibration, certify, elbo_gap

from ..conftest import needs_compiler
from ..vaes import parameters

K, Z, X, S = 3, 2, 4, 0.6


class Likelihood(nn.Module):
    """x ~ N(W_y z + b_y, S^2)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, z: Tensor, y: Tensor) -> dist.Distribution:
        loc = (self.weight[y] @ z.unsqueeze(-1)).squeeze(-1) + self.bias[y]
        return dist.Normal(loc, S).to_event(1)


class Posterior(nn.Module):
    """The exact q(z|x, y), or one whose mean is `off` and whose scale is wider."""

    def __init__(self, likelihood: Likelihood, off: float) -> None:
        super().__init__()
        weight = likelihood.weight.detach()
        precision = torch.eye(Z).double() + weight.mT @ weight / S**2
        self.covariance = nn.Parameter(precision.inverse() * (1 + off) ** 2)
        self.gain = nn.Parameter(precision.inverse() @ weight.mT / S**2)
        self.bias, self.off = nn.Parameter(likelihood.bias.detach().clone()), off

    def forward(self, x: Tensor, y: Tensor) -> dist.Distribution:
        loc = (self.gain[y] @ (x - self.bias[y]).unsqueeze(-1)).squeeze(-1) + self.off
        return dist.MultivariateNormal(loc, self.covariance[y])


class Prior(nn.Module):
    def forward(self) -> dist.Distribution:
        return dist.Normal(torch.zeros(Z).double(), 1.0).to_event(1)


class Classifier(nn.Module):
    """The exact q(y|x), with other logits where it is not to be exact."""

    def __init__(self, evidence: MultivariateNormal, log_p_y: Tensor, off: float) -> None:
        super().__init__()
        self.evidence, self.log_p_y = evidence, log_p_y
        self.shift = nn.Parameter(off * torch.tensor([1.0, 0.0, -1.0]).double())

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Categorical(
            logits=self.evidence.log_prob(x.unsqueeze(-2)) + self.log_p_y + self.shift
        )


@dataclass
class Case:
    """y ~ Cat(p), z ~ N(0, I), x ~ N(W_y z + b_y, S^2), with the exact log p(x, y)."""

    vae: models.SemiSupervisedVAE
    log_p: Tensor  # of each class, shape (N, K)
    x: Tensor
    labels: Tensor  # -1 for every other example

    @property
    def exact(self) -> Tensor:
        """log p(x, y) where there is a label, and log p(x) elsewhere."""
        labelled = self.log_p.gather(1, self.labels.clamp(min=0)[:, None]).squeeze(1)
        return torch.where(self.labels >= 0, labelled, self.log_p.logsumexp(1))


def case(off: float = 0.0, examples: int = 12) -> Case:
    likelihood = Likelihood(torch.randn(K, X, Z).double(), 1.5 * torch.randn(K, X).double())
    weight = likelihood.weight.detach()
    log_p_y = torch.tensor([0.2, 0.3, 0.5]).double().log()
    covariance = weight @ weight.mT + S**2 * torch.eye(X).double()
    evidence = MultivariateNormal(likelihood.bias.detach(), covariance)
    vae = models.SemiSupervisedVAE(
        Prior(),
        likelihood,
        Posterior(likelihood, off),
        Classifier(evidence, log_p_y, off),
        classes=K,
        class_prior=lambda: dist.Categorical(logits=log_p_y),
    )
    y = torch.arange(examples) % K
    x = MultivariateNormal(evidence.loc[y], covariance[y]).sample()
    labels = torch.where(torch.arange(examples) % 2 == 0, y, -1)
    log_p = evidence.log_prob(x.unsqueeze(1)) + log_p_y
    return Case(vae, log_p, x, labels)


def test_exact_posteriors_have_no_error() -> None:
    """With a label log p(x, y), without one log p(x), and no variance."""
    own = case()
    result = log_likelihood(own.vae, (own.x, own.labels), 5, seed=0)
    torch.testing.assert_close(result.values, own.exact)
    assert result.mc_error < 1e-7  # the root of float64's rounding
    bound = elbo(own.vae, (own.x, own.labels), num_samples=3, seed=0).values
    labelled = own.labels >= 0
    torch.testing.assert_close(bound[labelled], own.exact[labelled])
    torch.testing.assert_close(own.vae.classify(own.x), own.log_p.softmax(1))


def test_without_labels_it_is_the_evidence_of_x() -> None:
    own = case(off=0.1)
    none = torch.full_like(own.labels, -1)
    alone, missing = (log_likelihood(own.vae, x, 3000, seed=0) for x in (own.x, (own.x, none)))
    torch.testing.assert_close(alone.values, missing.values)
    exact = own.log_p.logsumexp(1).mean().item()
    assert abs(alone.mean - exact) < 3 * alone.mc_error
    assert alone.mc_error > 0


def test_the_log_likelihood_is_the_closed_form() -> None:
    own = case(off=0.15)
    result = log_likelihood(own.vae, (own.x, own.labels), 4000, seed=0)
    assert abs(result.mean - own.exact.mean().item()) < 3 * result.mc_error
    ais = log_likelihood(own.vae, (own.x, own.labels), 60, estimator="ais:10:2", seed=0)
    assert abs(ais.mean - own.exact.mean().item()) < 3 * ais.mc_error


def test_a_batch_has_both_kinds_of_terms() -> None:
    """The enumerated loss is that of labelled and of unlabelled examples."""
    own = case()
    loss = objectives.enumerated(2).loss(own.vae.model, own.vae.guide, own.x, own.labels)
    assert loss == pytest.approx(-own.exact.sum().item())
    other = case(off=0.3)
    both = objectives.enumerated(4000)
    losses = []
    for index in (other.labels >= 0, other.labels < 0, other.labels > -9):
        torch.manual_seed(0)
        batch = other.x[index], other.labels[index]
        losses.append(both.loss(other.vae.model, other.vae.guide, *batch))
    # The scatter of a draw is below 3 nats an example.
    assert sum(losses[:2]) == pytest.approx(losses[2], abs=5 * 3 * (2 * 12 / 4000) ** 0.5)


def below() -> VAE:
    return VAE(
        priors.StandardNormal(3),
        likelihoods.Gaussian(networks.MLP(3, (), X), scale=S),
        posteriors.Normal(networks.MLP(X, (), 2 * 3)),
    )


def stacked() -> models.SemiSupervisedVAE:
    """M1+M2, all linear, with normals of which log p(x, y) is known."""
    down = networks.Conditioned(networks.MLP(Z + K, (), 2 * 3), (), classes=K)
    up = networks.Conditioned(networks.MLP(3 + K, (), 2 * Z), (), classes=K)
    return models.SemiSupervisedVAE(
        priors.StandardNormal(Z),
        posteriors.Normal(down),
        posteriors.Normal(up),
        models.Classifier(networks.MLP(3, (), K)),
        classes=K,
        below=below(),
    ).double()


def test_a_stack_has_the_evidence_of_its_normals() -> None:
    """z1 ~ N(A z2 + a_y, D), where only the mean depends on z2: its scale is that of a bias."""
    vae = stacked()
    down = vae.likelihood.network.network.layers[0]
    x = torch.randn(5, X).double()
    y = torch.arange(5) % K
    # Trained a little, so that the guide's draws are where the posterior is.
    fit(
        vae,
        (x, y),
        epochs=300,
        batch_size=5,
        objective=objectives.classified(1.0, objectives.enumerated()),
        optim=optim.Adam(lr=2e-2),
    )
    with torch.no_grad():
        down.weight[3:] = 0.0
    p_1 = vae.likelihood(torch.zeros(5, Z).double(), y)
    a = down.weight[:3, :Z].detach()
    w, b = (p.detach() for p in vae.below_likelihood.network.parameters())
    inner = a @ a.T + torch.diag_embed(p_1.stddev.detach().square())
    covariance = w @ inner @ w.T + S**2 * torch.eye(X).double()
    loc = p_1.mean.detach() @ w.T + b
    exact = MultivariateNormal(loc, covariance).log_prob(x) - math.log(K)
    result = log_likelihood(vae, (x, y), 20_000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 3 * result.mc_error
    assert [name for name, _ in vae.named_children()] == [
        "prior", "likelihood", "posterior", "classifier", "below_likelihood", "below_posterior",
    ]  # fmt: skip
    assert vae.reconstruct(x).shape == (5, X)
    assert vae.generate(4, y=1, sample=True).shape == (4, X)


@pytest.mark.parametrize("particles", [1, 3])
def test_classified_adds_the_loss_of_the_classifier(particles: int) -> None:
    own = case(off=0.3)
    vae, batch = own.vae, (own.x, own.labels)
    plain = objectives.enumerated(particles)
    added = objectives.classified(2.5, objectives.enumerated(particles))
    values, gradients = [], []
    for objective in (plain, added):
        objective.loss(vae.model, vae.guide, *batch)  # Pyro counts the plates.
        vae.zero_grad()
        torch.manual_seed(0)
        values.append(objective.loss_and_grads(vae.model, vae.guide, *batch))
        gradients.append(vae.classifier.shift.grad.clone())
        torch.manual_seed(0)
        assert objective.loss(vae.model, vae.guide, *batch) == pytest.approx(values[-1])
    vae.zero_grad()
    known = own.labels >= 0
    loss = -vae.classifier(own.x[known]).log_prob(own.labels[known]).sum()
    loss.backward()
    assert values[1] - values[0] == pytest.approx(2.5 * loss.item())
    torch.testing.assert_close(gradients[1] - gradients[0], 2.5 * vae.classifier.shift.grad)


def test_classified_in_a_stack_is_the_mean_over_draws() -> None:
    vae = stacked()
    x, y = torch.randn(6, X).double(), torch.arange(6) % K
    many, draws = 2000, []
    torch.manual_seed(0)
    for objective in (objectives.enumerated(many), None):
        chosen = objective or objectives.classified(1.0, objectives.enumerated(many))
        torch.manual_seed(0)
        draws.append(chosen.loss(vae.model, vae.guide, x, y))
    with torch.no_grad():
        z1 = vae.below_posterior(x).sample((many,))
        log_q = vae.classifier(z1).log_prob(y)
    error = log_q.var(0).sum().div(many).sqrt().item() * math.sqrt(2)
    assert draws[1] - draws[0] == pytest.approx(-log_q.mean(0).sum().item(), abs=4 * error)


@needs_compiler
@pytest.mark.slow
def test_compiled_training_is_the_uncompiled_one() -> None:
    torch.manual_seed(0)
    first = case(off=0.3, examples=40)
    runs = []
    for compile in (False, True):
        vae = copy.deepcopy(first.vae)
        objective = objectives.classified(2.0, objectives.enumerated())
        history = fit(
            vae,
            (first.x, first.labels),
            epochs=4,
            batch_size=10,
            labelled=0.4,
            objective=objective,
            optim=optim.Adam(lr=1e-2),
            compile=compile,
        )
        runs.append((parameters(vae), history))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-9, atol=1e-9)
    assert runs[0][1].cost == pytest.approx(runs[1][1].cost, rel=1e-9)


def test_every_tool_takes_it(tmp_path: Any) -> None:
    own = case(off=0.1)
    vae, batch = own.vae, (own.x, own.labels)
    gap = elbo_gap(vae, batch, num_samples=20, steps=2, seed=0)
    assert math.isfinite(gap.approximation_mean)
    assert vae.generate(6).shape == (6, X)
    assert vae.embed(own.x, y=2).shape == (12, Z)
    assert vae.decode(torch.zeros(3, Z), y=torch.arange(3)).shape == (3, X)
    save(vae, tmp_path / "run")
    other = case(off=0.2).vae
    load(tmp_path / "run", into=other)
    assert torch.equal(parameters(other), parameters(vae))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.full((12,), 3), ValueError, "labels: got values from 3 to 3, expected -1"),
        (torch.full((12,), -2), ValueError, "labels: got values from -2 to -2"),
        (torch.zeros(12), TypeError, "labels: got torch.float32, expected integers"),
        (torch.zeros(12, 1).long(), ValueError, r"labels: got shape \(12, 1\)"),
    ],
)
def test_wrong_labels_are_named(labels: Tensor, error: type[Exception], message: str) -> None:
    own = case()
    with pytest.raises(error, match=message):
        own.vae.model(own.x, labels)
    with pytest.raises(error, match=message):
        own.vae.guide(own.x, labels)


def test_parts_that_do_not_fit_are_named() -> None:
    own = case()
    arguments: dict[str, Any] = {
        "prior": own.vae.prior,
        "likelihood": own.vae.likelihood,
        "posterior": own.vae.posterior,
        "classifier": own.vae.classifier,
        "classes": K,
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"classes": 4}, "classifier: got 3 classes, expected 4"),
        ({"classifier": lambda x: dist.Normal(x, 1.0)}, "classifier: its forward returned a Norm"),
        (
            {"classifier": lambda x: dist.Categorical(logits=torch.zeros(K))},
            r"classifier: got batch_shape \(\), expected \(12,\)",
        ),
        ({"prior": lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1)}, "posterior: got"),
    ]
    for changes, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            models.SemiSupervisedVAE(**(arguments | changes)).guide(own.x)
    with pytest.raises(TypeError, match="below: got"):
        models.SemiSupervisedVAE(**arguments, below=nn.Identity())
    with pytest.raises(ValueError, match="classes: got 0"):
        models.SemiSupervisedVAE(**(arguments | {"classes": 0}))


def test_a_likelihood_that_drops_the_class_is_refused() -> None:
    """At once, and after a swap; any signature that takes it passes."""
    plain = likelihoods.Gaussian(networks.MLP(2, (4,), X), scale=1.0)
    network = networks.Conditioned(networks.MLP(2 + K, (4,), X), (), classes=K)

    class WithDefault(nn.Module):
        def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
            return likelihood(z, y)

    def made(likelihood: Any) -> models.SemiSupervisedVAE:
        return models.SemiSupervisedVAE(
            priors.StandardNormal(2),
            likelihood,
            posteriors.Normal(networks.MLP(X, (4,), 4)),
            models.Classifier(networks.MLP(X, (4,), K)),
            classes=K,
        )

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.of_y = networks.MLP(2, (), X), nn.Embedding(K, X)

        def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
            return dist.Normal(self.network(z) + self.of_y(context[0]), 1.0).to_event(1)

    likelihood = likelihoods.Gaussian(network, scale=1.0)
    for right in (
        likelihood,
        WithDefault(),
        Added(),
        lambda z, y: likelihood(z, y),
        lambda *a: likelihood(*a),
    ):
        vae = made(right)
        assert vae.guide(torch.randn(3, X)).shape == (3, 2)
    with pytest.raises(
        ValueError, match="likelihood: got a Gaussian that does not take the class"
    ):
        made(plain)
    vae.likelihood = plain
    with pytest.raises(ValueError, match="does not take the class, expected likelihood"):
        vae.guide(torch.randn(3, X))


def test_classified_needs_a_classifier() -> None:
    plain, x = below().double(), torch.randn(4, X).double()
    with pytest.raises(ValueError, match="classified: got a guide without a classifier"):
        objectives.classified(1.0).loss(plain.model, plain.guide, x)
    own = case()
    with pytest.raises(ValueError, match="classified: got a guide without a classifier"):
        objectives.classified(1.0).loss(own.vae.model, own.vae.guide, own.x)
    with pytest.raises(ValueError, match="alpha: got -1"):
        objectives.classified(-1.0)
    with pytest.raises(TypeError, match="objective: got a compiled objective"):
        objectives.classified(1.0, objectives.compiled(objectives.trace_elbo()))


class Blind(nn.Module):
    """A part whose distribution depends on nothing, so that the prior is the posterior."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size))

    def forward(self, value: Tensor, y: Tensor) -> dist.Distribution:
        return dist.Normal(self.loc.expand(*y.shape, len(self.loc)), 1.0).to_event(1)


def blind() -> models.SemiSupervisedVAE:
    classifier = models.Classifier(networks.MLP(X, (), K))
    nn.init.zeros_(classifier.network.layers[0].weight)
    nn.init.zeros_(classifier.network.layers[0].bias)
    prior = priors.StandardNormal(Z)
    return models.SemiSupervisedVAE(prior, Blind(X), Blind(Z), classifier, classes=K)


@pytest.mark.parametrize("labelled", [True, False])
def test_simulated_data_have_labels_of_their_own(labelled: bool) -> None:
    """The guide is exact, so ranks are uniform only if x and its label are of one draw."""
    labels = torch.arange(60) % K if labelled else torch.full((60,), -1)
    x = torch.randn(60, X)
    ranks = calibration(blind(), 400, 19, x=(x, labels), seed=1)
    assert min(ranks.p_values) > 1e-3
    own = case()
    sides = certify(own.vae, x=(own.x, own.labels), num_samples=3, estimator="importance", seed=0)
    torch.testing.assert_close(sides.lower, sides.upper)  # exact posteriors of what was simulated


def test_a_masked_example_has_no_classifiers_loss() -> None:
    own, mask = case(off=0.3), torch.arange(12) < 6
    programs = [pyro.poutine.mask(each, mask=mask) for each in (own.vae.model, own.vae.guide)]
    losses = []
    for label in (0, 1):
        labels = torch.where(mask, own.labels, label)
        torch.manual_seed(0)
        objective = objectives.classified(1.0, objectives.enumerated())
        objective.loss(*programs, own.x, labels)
        torch.manual_seed(0)
        losses.append(objective.loss(*programs, own.x, labels))
    assert losses[0] == pytest.approx(losses[1])


def test_a_context_that_no_part_takes_is_refused() -> None:
    """The one entry that the networks read is the class, or the layer above."""
    own = stacked()
    x, y = torch.randn(5, X).double(), torch.arange(5) % K
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        own.guide(x, y, torch.randn(5, 2).double())
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        own.classify(x, y)


def test_a_class_prior_that_is_set_later_is_trained() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(K))

        def forward(self) -> dist.Distribution:
            return dist.Categorical(logits=self.logits)

    vae = blind()
    vae.class_prior = Learned()
    x, labels = torch.randn(40, X), torch.zeros(40, dtype=torch.long)
    rate = optim.Adam(lr=0.1)
    fit(vae, (x, labels), epochs=5, batch_size=20, objective=objectives.enumerated(), optim=rate)
    assert vae.class_prior.logits.argmax() == 0
    assert vae.class_prior.logits.max() > 0.1
    vae.class_prior = None
    assert vae.generate(5).shape == (5, X)


def test_holes_labels_and_a_context_go_together() -> None:
    joined: dict[str, Any] = {"context_shape": (), "classes": K}
    down = networks.Conditioned(
        networks.Conditioned(networks.MLP(Z + K + 2, (), X), (2,), entry=1), **joined
    )
    encoder = networks.Observed(networks.MLP((2, X), (), 2 * Z))
    vae = models.SemiSupervisedVAE(
        priors.StandardNormal(Z),
        likelihoods.Observed(likelihoods.Gaussian(down, scale=1.0)),
        posteriors.Normal(encoder),
        models.Classifier(networks.Observed(networks.MLP((2, X), (), K))),
        classes=K,
    )
    x = torch.randn(40, X).masked_fill(torch.rand(40, X) < 0.3, math.nan)
    labels, context = torch.arange(40) % K, torch.randn(40, 2)
    objective = objectives.enumerated()
    history = fit(vae, (x, labels, context), epochs=1, batch_size=20, objective=objective)
    assert math.isfinite(history.cost[0])


def test_labels_without_minus_one_and_later_batches_are_named() -> None:
    own = case(examples=40)
    with pytest.raises(TypeError, match=r"labels: got torch\.uint8, which has no -1"):
        fit(
            own.vae,
            (own.x, own.labels.clamp(min=0).to(torch.uint8)),
            epochs=1,
            batch_size=20,
            objective=objectives.enumerated(),
        )
    for wrong in (K, -2):
        batches = [(own.x, own.labels), (own.x, torch.full_like(own.labels, wrong))]
        with pytest.raises(ValueError, match=f"labels: got values from {wrong} to {wrong}"):
            fit(own.vae, batches, epochs=1, objective=objectives.enumerated())
