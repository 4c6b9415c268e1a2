"""The mixture VAE: the class in the guide or summed out of the model, and what it is worth."""

import copy
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

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
from pyro_vae.evaluation import certify, cluster_accuracy

from ..conftest import needs_compiler
from ..tolerances import CLOSE, within
from ..vaes import parameters

CLASSES, X_DIM = 3, 4


def mixture_vae(
    classifier: bool, context: int | None = None, covariance: Any = "diagonal"
) -> models.MixtureVAE:
    """A linear one, whose log p(x) is that of a mixture of normals."""
    own = CLASSES if classifier else 0
    network: nn.Module = networks.MLP(X_DIM + own, (), 2 * 2)
    if classifier:
        network = networks.Conditioned(network, (), classes=CLASSES)
    likelihood: nn.Module = networks.MLP(2 + (context or 0), (), X_DIM)
    if context:
        likelihood = networks.Conditioned(likelihood, (context,))
    return models.MixtureVAE(
        priors.GaussianMixture(2, CLASSES, covariance),
        likelihoods.Gaussian(likelihood, scale=0.5),
        posteriors.Normal(network),
        models.Classifier(networks.MLP(X_DIM, (), CLASSES)) if classifier else None,
    ).double()


def evidence(vae: models.MixtureVAE, x: Tensor) -> Tensor:
    """log p(x) of a linear decoder in closed form."""
    mixture, layer = vae.prior(), vae.likelihood.network.layers[0]
    normal = mixture.component_distribution
    full = isinstance(normal, dist.MultivariateNormal)
    covariance = normal.covariance_matrix if full else torch.diag_embed(normal.variance)
    noise = 0.25 * torch.eye(X_DIM).double()
    each = dist.MultivariateNormal(
        normal.mean @ layer.weight.T + layer.bias,
        layer.weight @ covariance @ layer.weight.T + noise,
    )
    return (each.log_prob(x[:, None]) + mixture.mixture_distribution.logits).logsumexp(-1)


def clusters(count: int) -> tuple[Tensor, Tensor]:
    """Three clusters that are far from each other, with their labels."""
    labels = torch.arange(count) % CLASSES
    centers = 4 * torch.eye(CLASSES, X_DIM).double()
    return centers[labels] + 0.5 * torch.randn(count, X_DIM).double(), labels


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize(
    "estimator", ["importance", pytest.param("ais:10:3", marks=pytest.mark.slow)]
)
def test_log_likelihood_is_that_of_the_mixture(
    classifier: bool, estimator: str, covariance: str
) -> None:
    vae = mixture_vae(classifier, covariance=covariance)
    if vae.prior.below is not None:
        torch.nn.init.normal_(vae.prior.below)
    x = torch.randn(6, X_DIM).double()
    result = log_likelihood(vae, x, 500, estimator=estimator, seed=0)
    expected = evidence(vae, x).mean().item()
    assert abs(result.mean - result.bias - expected) < 4 * result.mc_error
    certificate = certify(vae, x=x, num_samples=8, estimator="importance", seed=0)
    assert -5 * certificate.gap_error <= certificate.gap


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("classifier", [True, False])
def test_it_finds_clusters(classifier: bool, tmp_path: Any) -> None:
    """Compiled and not, the same steps; the classes are those of the data."""
    x, labels = clusters(120)
    runs = []
    for compile in (False, True):
        torch.manual_seed(2)
        vae = mixture_vae(classifier)
        _start_at_clusters(vae)
        history = fit(vae, x, epochs=10, batch_size=20, seed=0, compile=compile, test=x,
                      objective=objectives.enumerated(), optim=optim.Adam(lr=3e-2))  # fmt: skip
        runs.append((vae, history))
    (vae, history), (other, same) = runs
    torch.testing.assert_close(parameters(other), parameters(vae), rtol=CLOSE, atol=CLOSE)
    for column in ("cost", "reconstruction", "kl", "test_cost"):
        assert same[column] == pytest.approx(history[column], rel=CLOSE)
    assert history.test_cost[-1] < history.test_cost[0]
    # The held-out cost is the ELBO that `elbo` samples with classes from the guide.
    drawn = elbo(vae, x, 300, seed=0)
    spread = 5 * (drawn.mc_error + drawn.mc_error * 300**0.5)
    assert -history.test_cost[-1] == pytest.approx(drawn.mean, abs=spread)
    save(vae, tmp_path)
    again = load(tmp_path, into=mixture_vae(classifier))
    assert torch.equal(parameters(again), parameters(vae))
    assert cluster_accuracy(vae.classify(x), labels) > 0.95


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_fitted_prior_has_the_moments_of_the_average_posterior(covariance: str) -> None:
    """An M-step gives the mixture the mean and the covariance of the draws."""
    torch.manual_seed(3)
    vae, (x, _) = mixture_vae(False, covariance=covariance), clusters(4000)
    before = [parameters(part) for part in (vae.likelihood, vae.posterior)]
    vae.fit_prior(x, seed=1)
    mixture, q_z = vae.prior(), vae.posterior(x)
    draws = len(x) ** -0.5 * q_z.stddev.square().mean(0).sqrt()  # of the mean of one draw each
    assert ((mixture.mean - q_z.mean.mean(0)).abs() < 4 * draws + 1e-5).all()
    z = vae.prior().sample((200_000,))
    expected = torch.cov(q_z.sample((50,)).flatten(0, 1).T)
    found = torch.cov(z.T) if covariance == "full" else torch.diag(z.var(0))
    kept = expected if covariance == "full" else torch.diag(expected.diag())
    # Covariances of 4,000 draws, of which those within x are fixed: less than 1 / sqrt(4,000).
    spread = torch.outer(expected.diag().sqrt(), expected.diag().sqrt())
    assert ((found - kept).abs() < 4 * 2**0.5 * spread / 4000**0.5).all()
    again = [parameters(part) for part in (vae.likelihood, vae.posterior)]
    assert all(map(torch.equal, before, again))
    first = parameters(vae.prior)
    vae.fit_prior(x, seed=1)
    assert torch.equal(parameters(vae.prior), first)


def test_a_mixture_of_full_covariance_is_found_from_a_plain_vae() -> None:
    """A plain VAE, EM of its latents, and training: each step has the greater ELBO."""
    torch.manual_seed(0)
    vae, (x, labels) = mixture_vae(False, covariance="full"), clusters(600)
    plain = VAE(priors.StandardNormal(2), vae.likelihood, vae.posterior).double()
    how: dict[str, Any] = {"epochs": 30, "batch_size": 50, "optim": optim.Adam(lr=2e-2)}
    fit(plain, x, compile=False, **how)
    start = elbo(plain, x, 100, seed=0)
    vae.fit_prior(x)
    fitted = elbo(VAE(vae.prior, vae.likelihood, vae.posterior), x, 100, seed=0)
    assert fitted.mean - start.mean > 4 * (fitted.mc_error + start.mc_error)
    fit(vae, x, compile=False, objective=objectives.enumerated(), **how)
    trained = elbo(VAE(vae.prior, vae.likelihood, vae.posterior), x, 100, seed=0)
    assert trained.mean - fitted.mean > 4 * (fitted.mc_error + trained.mc_error)
    assert cluster_accuracy(vae.classify(x), labels) > 0.95


def test_what_cannot_be_fitted_is_refused() -> None:
    x = torch.randn(8, X_DIM).double()
    with pytest.raises(ValueError, match="classifier: got one, expected None"):
        mixture_vae(True).fit_prior(x)
    vae = mixture_vae(False)
    with pytest.raises(ValueError, match=r"x: got latent points of shape \(2, 2\), expected"):
        vae.fit_prior(x[:2])
    with pytest.raises(ValueError, match="x: got 2 different latent points, expected at least 3"):
        vae.fit_prior(x[[0, 1, 1, 0]])
    vae.fit_prior(x[:3])  # one for each component
    vae.prior = priors.StandardNormal(2)
    with pytest.raises(TypeError, match="prior: got a StandardNormal"):
        vae.fit_prior(x)


def _start_at_clusters(vae: models.MixtureVAE) -> None:
    """Normals far apart, and a decoder that maps their means to the centers of the clusters."""
    centers = 4 * torch.eye(CLASSES, X_DIM).double()
    layer = vae.likelihood.network.layers[0]
    with torch.no_grad():
        vae.prior.loc.copy_(2 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]))
        center = centers.mean(0)
        layer.weight.copy_((torch.linalg.pinv(vae.prior.loc) @ (centers - center)).T)
        layer.bias.copy_(center)


def test_classes_follow_from_z_without_a_classifier() -> None:
    """E_q(z|x)[p(y|z)] by quadrature over one latent."""
    torch.manual_seed(1)
    vae = models.MixtureVAE(
        priors.GaussianMixture(1, 2),
        likelihoods.Gaussian(networks.MLP(1, (), X_DIM), scale=0.5),
        posteriors.Normal(networks.MLP(X_DIM, (), 2)),
    ).double()
    x = torch.randn(3, X_DIM).double()
    found = torch.stack([vae.classify(x, num_samples=50) for _ in range(60)])
    q_z, mixture = vae.posterior(x).base_dist, vae.prior()
    z = torch.linspace(-12, 12, 4001).double()[:, None, None]
    weights = q_z.log_prob(z).exp()
    log_p = mixture.component_distribution.log_prob(z[..., None, :].expand(-1, 3, 1, 1))
    p_y = (log_p + mixture.mixture_distribution.logits).softmax(-1)
    exact = ((weights * p_y).sum(0) / weights.sum(0)).detach()
    within(found, exact)
    torch.testing.assert_close(found.sum(-1), torch.ones(60, 3).double())


def test_point_values() -> None:
    vae, x = mixture_vae(True), torch.randn(5, X_DIM).double()
    q_y = vae.classifier(x).probs
    means = torch.stack([
        vae.posterior(x, torch.full((5,), y)).mean for y in range(CLASSES)
    ], 1)  # fmt: skip
    torch.testing.assert_close(vae.embed(x), (q_y[..., None] * means).sum(1).detach())
    torch.testing.assert_close(vae.classify(x), q_y.detach())
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(vae.embed(x)))
    assert vae.model(num_samples=4).shape == (4, X_DIM)


def test_generated_examples_are_of_their_class() -> None:
    vae = mixture_vae(True)
    with torch.no_grad():
        vae.prior.loc.copy_(100 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]))
    centers = vae.decode(vae.prior.loc)

    def nearest(x: Tensor) -> Tensor:
        return torch.cdist(x, centers).argmin(1)

    assert (nearest(vae.generate(20, y=2)) == 2).all()
    y = torch.tensor([0, 2, 1, 1])
    assert torch.equal(nearest(vae.generate(4, sample=True, y=y)), y)
    assert set(nearest(vae.generate(100)).tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (3, ValueError, "y: got classes from 3 to 3, expected 0 to 2"),
        (-1, ValueError, "y: got classes from -1"),
        (torch.tensor([0, 3]), ValueError, "y: got classes from 0 to 3"),
        (torch.tensor([0, 1, 2]), ValueError, r"y: got shape \(3,\), expected \(2,\)"),
        (1.0, TypeError, "y: got a float"),
        (torch.tensor([0.0, 1.0]), TypeError, "y: got torch.float32, expected integer classes"),
    ],
)
def test_a_class_out_of_range_is_refused(y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixture_vae(True).generate(2, y=y)


def test_a_context_goes_to_the_parts_that_take_it() -> None:
    vae = mixture_vae(False, context=2)
    x, given = torch.randn(6, X_DIM).double(), torch.randn(6, 2).double()
    fit(vae, (x, given), epochs=1, batch_size=3, objective=objectives.enumerated())
    assert log_likelihood(vae, (x, given), 10, seed=0).values.shape == (6,)
    assert vae.classify(x, given).shape == (6, CLASSES)
    assert vae.reconstruct(x, given).shape == x.shape
    assert vae.generate(3, context=given, y=1).shape == (18, X_DIM)
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        mixture_vae(False).classify(x, given)


def test_a_copy_is_another_pair() -> None:
    vae, x = mixture_vae(True), torch.randn(6, X_DIM).double()
    other = copy.deepcopy(vae)
    fit(other, x, epochs=1, batch_size=3, objective=objectives.enumerated())
    assert not torch.equal(parameters(other), parameters(vae))


def test_parts_that_do_not_fit_are_refused() -> None:
    x = torch.randn(4, X_DIM)
    decoder = likelihoods.Gaussian(networks.MLP(2, (), X_DIM), scale=1.0)
    encoder = posteriors.Normal(networks.MLP(X_DIM, (), 4))
    mixture = priors.GaussianMixture(2, 3)
    for parts, error, message in (
        ((priors.StandardNormal(2), decoder, encoder), TypeError, "prior: got Independent"),
        ((mixture, decoder, posteriors.Normal(networks.MLP(X_DIM, (), 6))), ValueError,
         r"posterior: got batch_shape \(4,\) and event_shape \(3,\)"),
        ((mixture, decoder, encoder, models.Classifier(networks.MLP(X_DIM, (), 2))), ValueError,
         "classifier: got 2 classes, expected the prior's 3"),
        ((mixture, decoder, encoder, encoder), TypeError, "classifier: .* expected a Categorical"),
        ((mixture, decoder, encoder, lambda x: dist.Categorical(torch.ones(3))), ValueError,
         r"classifier: got batch_shape \(\), expected \(4,\)"),
    ):  # fmt: skip
        vae = models.MixtureVAE(*parts)
        with pytest.raises(error, match=message):
            objectives.enumerated().loss(vae.model, vae.guide, x)
    with pytest.raises(ValueError, match=r"network: got out_shape \(2, 3\)"):
        models.Classifier(networks.MLP(X_DIM, (), (2, 3)))


def test_a_plain_vae_with_the_same_prior_has_the_same_evidence() -> None:
    torch.manual_seed(0)
    vae, x = mixture_vae(False), torch.randn(6, X_DIM).double()
    plain = VAE(vae.prior, vae.likelihood, vae.posterior)
    own, other = (log_likelihood(each, x, 200, seed=0).values for each in (vae, plain))
    torch.testing.assert_close(own, other, rtol=CLOSE, atol=CLOSE)


class ByContext(nn.Module):
    """A prior of three normals, whose means depend on the context."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Linear(2, 6)

    def forward(self, c: Tensor) -> dist.Distribution:
        weights = dist.Categorical(logits=c.new_zeros(len(c), 3))
        normal = dist.Normal(self.loc(c).unflatten(-1, (3, 2)), 0.7).to_event(1)
        return dist.MixtureSameFamily(weights, normal)


def test_a_prior_may_take_the_context() -> None:
    """Its evidence is the mean over classes, each example with components of its own."""
    decoder = networks.MLP(2, (), 4)
    vae = models.MixtureVAE(
        ByContext(),
        likelihoods.Gaussian(decoder, scale=0.5),
        posteriors.Normal(networks.MLP(4, (), 4)),
    ).double()
    x, c = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    fit(vae, (x, c), epochs=100, batch_size=8, objective=objectives.enumerated())
    weight, bias = (p.detach() for p in decoder.parameters())
    loc = vae.prior.loc(c).detach().unflatten(-1, (3, 2)) @ weight.T + bias
    covariance = 0.49 * weight @ weight.T + 0.25 * torch.eye(4).double()
    normal = torch.distributions.MultivariateNormal(loc, covariance)
    exact = normal.log_prob(x.unsqueeze(1)).logsumexp(1) - math.log(3)
    result = log_likelihood(vae, (x, c), 20_000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 3 * result.mc_error


def test_a_classifier_that_is_set_later_is_trained() -> None:
    vae = mixture_vae(classifier=False)
    other = mixture_vae(classifier=True)
    vae.posterior, vae.classifier = other.posterior, other.classifier
    before = parameters(vae.classifier)
    x, _ = clusters(60)
    fit(vae, x, epochs=1, batch_size=20, objective=objectives.enumerated())
    assert not torch.equal(parameters(vae.classifier), before)


def test_a_context_beside_the_class_is_refused() -> None:
    """The posterior's network reads one entry, which is the class."""
    x, _ = clusters(20)
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        mixture_vae(classifier=True).guide(x, torch.zeros(20, dtype=torch.long))
