"""Bernoulli pixels, relaxed and continuous ones: exact values, gradients, draws."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import likelihoods
from pyro_vae.distributions import ContinuousBernoulli

from ..quadrature import nodes
from ..tolerances import assert_rounded, rounding, within


def bernoulli(logits: Tensor, dims: int = 1, relaxed: bool = False) -> dist.Distribution:
    """The distribution that a likelihood gives for these logits."""

    class Given(nn.Module):
        out_shape = torch.Size(logits.shape[logits.dim() - dims :])

        def forward(self, z: Tensor) -> Tensor:
            return logits

    return likelihoods.Bernoulli(Given(), relaxed)(torch.zeros(1))


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 32, 784])
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("spread", [0.1, 5.0, 40.0])
def test_bernoulli_is_exact_in_float32(pixels: int, relaxed: bool, spread: float) -> None:
    """Value and gradients against torch's in float64, pixels shared by the seven draws of z."""
    logits = (torch.randn(7, 3, pixels) * spread).requires_grad_()
    x = torch.rand(3, pixels) if relaxed else torch.bernoulli(torch.full((3, pixels), 0.3))
    if relaxed:
        x.requires_grad_()
    value = bernoulli(logits, relaxed=relaxed).log_prob(x)
    exact_logits, exact_x = (t.detach().double().requires_grad_() for t in (logits, x))
    log_sigmoid = nn.functional.logsigmoid
    exact = exact_x * log_sigmoid(exact_logits) + (1 - exact_x) * log_sigmoid(-exact_logits)
    exact = exact.sum(-1)
    # x l - max(l, 0) - log(1 + exp(-|l|)), whose first two terms cancel without error where x is
    # 0 or 1. exp(-|l|) has the relative error of its argument, |l| u, and below 2^-126 none.
    size = exact.abs()
    if relaxed:
        size = size + (exact_x * exact_logits).abs().sum(-1) + exact_logits.clamp_min(0).sum(-1)
    error = rounding(pixels + 20) + 2 * logits.abs().max().item() * rounding(1)
    assert ((value.double() - exact).abs() <= error * size.detach() + 2**-126).all()
    outer = torch.randn(7, 3)
    (value * outer).sum().backward()
    (exact * outer).sum().backward()
    # (x - sigmoid(l)) times an outer gradient; the slopes by x are summed over the seven draws.
    scale = outer.abs()[..., None]
    assert_rounded(logits.grad, exact_logits.grad, terms=8, magnitude=scale)
    if relaxed:
        terms = (logits.detach() * scale).abs().sum(0)
        assert_rounded(x.grad, exact_x.grad, terms=9, magnitude=terms)


def test_bernoulli_works_with_torchs_transforms() -> None:
    logits, x = torch.randn(5, 20).double(), torch.ones(20).double()

    def score(logits: Tensor) -> Tensor:
        return bernoulli(logits, 1).log_prob(x)

    curvature = -(logits.sigmoid() * (1 - logits.sigmoid()))
    with pyro.validation_enabled(False):
        gradient = torch.func.vmap(torch.func.grad(score))(logits)
        torch.testing.assert_close(gradient, x - logits.sigmoid())
        hessian = torch.func.hessian(score)(logits[0])
        torch.testing.assert_close(hessian, torch.diag(curvature[0]))
    assert torch.autograd.gradgradcheck(score, logits.clone().requires_grad_())


def test_bernoulli_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="Boolean"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.full((2, 4), 0.5))
    with pytest.raises(ValueError, match="Boolean"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.full((2, 4), float("nan")))
    with pytest.raises(ValueError, match=r"match event_shape|broadcastable"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.ones(2, 3))
    with pytest.raises(ValueError, match="broadcastable"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.ones(3, 4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        bernoulli(torch.zeros(2, 4), relaxed=True).log_prob(torch.full((2, 4), 1.5))
    assert bernoulli(torch.zeros(5), 0).log_prob(torch.ones(5)).shape == (5,)
    two = bernoulli(torch.zeros(3, 4, 5), 2)
    assert two.expand((6, 3)).log_prob(torch.ones(4, 5)).shape == (6, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_exact(dtype: torch.dtype) -> None:
    """Against the integral of exp(x l), at logits where torch's own is clamped or cut out too."""
    logits = [-300.0, -20.0, -1.0, -0.501, -0.499, -0.01, 1e-6, 0.0, 0.1, 0.6, 5.0, 20.0, 90.0]
    places, weights = nodes(box=True)
    for logit in logits:
        top = max(logit, 0.0)  # exp((x - 1) l) for l > 0, which does not overflow
        density = weights * (places * logit - top).exp()
        integral = density.sum().item()
        q = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
        for x in (0.0, 0.25, 1.0):
            expected = x * logit - top - math.log(integral)
            got = q.log_prob(torch.tensor(x, dtype=dtype)).item()
            size = abs(x * logit - top) + abs(math.log(integral)) + 1
            assert got == pytest.approx(expected, abs=rounding(10, dtype) * size + 1e-9)
        mean = (places * density).sum().item() / integral
        size = (logit > 0) + min(2.0, 1 / max(abs(logit), 0.5))  # 1, less about 1 / |l|
        assert q.mean.item() == pytest.approx(mean, abs=rounding(10, dtype) * size + 1e-9)
    known = ContinuousBernoulli(torch.tensor(20.0)).log_prob(torch.tensor(0.0))
    assert known.item() == pytest.approx(-17.00, abs=0.005)


def test_continuous_bernoulli_draws_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the least and the greatest numbers that ``torch.rand`` gives in float32."""
    u = torch.tensor([0.0, 2**-24, 2**-23, 0.5, 1 - 2**-23, 1 - 2**-24])
    for logit in (-1e4, -90.0, -18.0, -0.02, 0.0, 0.3, 15.0, 18.0, 39.0, 41.0, 90.0, 1e4):
        l = torch.full((6,), logit, requires_grad=True)  # noqa: E741
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *_, **__: u)
            x = ContinuousBernoulli(l).rsample()
        assert ((x >= 0) & (x <= 1)).all(), logit
        assert (x.diff() >= 0).all(), logit
        (gradient,) = torch.autograd.grad(x.sum(), l)
        assert torch.isfinite(gradient).all(), logit


def test_the_continuous_bernoulli_at_great_logits() -> None:
    """At x = 1 the log-density is log l, as far as float32 goes."""
    for logit in (1e5, 1e8, 3e9):
        for sign, x in ((1, 1.0), (-1, 0.0)):
            q = ContinuousBernoulli(torch.tensor(sign * logit, requires_grad=True))
            assert q.log_prob(torch.tensor(x)).item() == pytest.approx(
                math.log(logit), rel=rounding(8)
            )
            (gradient,) = torch.autograd.grad(q.mean, q.logits)
            assert torch.isfinite(gradient)


def test_the_continuous_bernoulli_has_its_gradients() -> None:
    for logit in (-20.0, -0.6, -0.3, -0.009, 0.0, 0.02, 0.4, 3.0, 40.0):
        l = torch.tensor([logit]).double().requires_grad_()  # noqa: E741
        x = torch.tensor([0.3]).double()
        assert torch.autograd.gradcheck(lambda l: ContinuousBernoulli(l).log_prob(x), (l,))  # noqa: B023, E741

        def draw(l: Tensor) -> Tensor:  # noqa: E741
            torch.manual_seed(2)
            return ContinuousBernoulli(l).rsample((5,))

        assert torch.autograd.gradcheck(draw, (l,))
        torch.manual_seed(2)
        u = torch.rand(5, 1, dtype=torch.float64)
        inverse = u if logit == 0 else torch.log1p(u * math.expm1(logit)) / logit
        torch.testing.assert_close(draw(l), inverse, rtol=1e-6, atol=1e-9)
        draws = ContinuousBernoulli(l.detach()).sample((20_000,))
        within(draws, ContinuousBernoulli(l.detach()).mean)
