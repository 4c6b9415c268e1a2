"""Models with discrete latents, of which everything is known, in float64."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import Pair

CLASSES, Z_DIM, X_DIM = 3, 2, 4


class Classes(nn.Module):
    r"""A mixture of linear-Gaussian models, whose log p(x) and posterior are known.

    .. math:: y \sim \pi, \quad z|y \sim N(\mu_y, diag(s_y^2)), \quad x|z \sim N(W z, 0.6^2)

    Arguments:
        shift: By how much the guide's means of z are off; with `width` 1 and 0, it is exact.
        width: The guide's covariance of z over the exact one.
    """

    def __init__(self, shift: float = 0.0, width: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.logits = nn.Parameter(torch.tensor([0.1, 0.8, -0.4], dtype=torch.float64))
        self.loc = nn.Parameter(2 * draw(CLASSES, Z_DIM).detach())
        self.scale = nn.Parameter(draw(CLASSES, Z_DIM).detach().abs() + 0.5)
        self.weight = draw(Z_DIM, X_DIM)
        self.noise = 0.6
        self.shift, self.width = shift, width
        self.scores = nn.Linear(X_DIM, CLASSES).double()  # of a guide that is trained
        self.means = nn.Linear(X_DIM, Z_DIM).double()
        self.by_class = draw(CLASSES, Z_DIM)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.loc[y], self.scale[y]).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, self.noise).to_event(1), obs=x)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) of each class, of shape ``(N, CLASSES)``."""
        eye = self.noise**2 * torch.eye(X_DIM).double()
        each = [
            MultivariateNormal(
                loc @ self.weight, self.weight.T @ scale.square().diag() @ self.weight + eye
            ).log_prob(x)
            for loc, scale in zip(self.loc, self.scale, strict=True)
        ]
        return torch.stack(each, -1) + self.logits.log_softmax(-1)

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x)."""
        return self.log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means of p(z|x, y), of shape ``(N, CLASSES, Z_DIM)``, and covariances."""
        precision = self.scale.square().reciprocal()
        gain = self.weight @ self.weight.T / self.noise**2
        covariance = torch.linalg.inv(torch.diag_embed(precision) + gain)
        terms = (x @ self.weight.T / self.noise**2)[:, None] + self.loc * precision
        return torch.einsum("nki,kij->nkj", terms, covariance), covariance

    def exact_guide(self, x: Tensor) -> None:
        """p(y|x) p(z|x, y), or off by `shift` and `width`."""
        means, covariance = self.posterior(x)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.log_joint(x)))
            own = (y[..., None, None] == torch.arange(CLASSES)[:, None]).double()
            loc = (own * means).sum(-2) + self.shift
            pyro.sample("z", dist.MultivariateNormal(loc, self.width * covariance[y]))

    def trained_guide(self, x: Tensor) -> None:
        """q(y|x) q(z|x, y) of networks."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.scores(x)))
            loc = self.means(x) + self.by_class[y]
            pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))

    def guide_of_z(self, x: Tensor) -> None:
        """q(z|x), without the class."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.means(x), 0.7).to_event(1))

    def pair(self, guide: str) -> Pair:
        return Pair(self.model, getattr(self, guide))

    @torch.no_grad()
    def data(self, count: int) -> Tensor:
        y = dist.Categorical(logits=self.logits).sample((count,))
        z = self.loc[y] + self.scale[y] * torch.randn(count, Z_DIM).double()
        return z @ self.weight + self.noise * torch.randn(count, X_DIM).double()

    def given_noise(self, x: Tensor, eps: Tensor, alone: bool = False) -> tuple[Tensor, Tensor]:
        """The ELBO and its KL from a given noise of z for each class, or of one for all.

        Arguments:
            x: The data.
            eps: Of shape ``(CLASSES, N, Z_DIM)``; of ``(N, Z_DIM)`` if the guide is of z alone.
            alone: Whether the guide is of z alone.
        """
        log_pi, log_q_y = self.logits.log_softmax(-1), self.scores(x).log_softmax(-1).T
        loc = self.means(x) + (0 if alone else self.by_class[:, None])
        z = loc + 0.7 * eps
        log_q_z = normal(z, loc, x.new_tensor(0.7))
        log_x = normal(x, z @ self.weight, x.new_tensor(self.noise))
        log_z = normal(z, self.loc[:, None], self.scale[:, None]) + log_pi[:, None]
        if alone:
            log_p_z = log_z.logsumexp(0)
            return (log_p_z + log_x - log_q_z).sum(), (log_q_z - log_p_z).sum()
        q_y = log_q_y.exp()
        kl = (q_y * (log_q_y + log_q_z - log_z)).sum()
        return (q_y * log_x).sum() - kl, kl


def normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-densities of vectors, from the formula."""
    square = ((x - loc) / scale).square()
    return (-0.5 * square - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


class OneClass(nn.Module):
    """y ~ Categorical, x|y ~ N(mu_y, 1), with a guide q(y|x) from logits for each example."""

    def __init__(self, examples: int, classes: int = 4, kind: Any = dist.Categorical) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.randn(classes).double())
        self.loc = nn.Parameter(torch.randn(classes).double())
        self.logits = nn.Parameter(torch.randn(examples, classes).double())
        self.kind = kind

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.kind(logits=self.prior))
            loc = self.loc[y] if self.kind is dist.Categorical else y @ self.loc
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", self.kind(logits=self.logits[: len(x)]))

    def no_guide(self, x: Tensor) -> None:
        """All is summed out of the model."""

    def log_joint(self, x: Tensor) -> Tensor:
        log_p = dist.Normal(self.loc, 1.0).log_prob(x[:, None])
        return log_p + self.prior.log_softmax(-1)

    def elbo(self, x: Tensor) -> Tensor:
        log_q = self.logits.log_softmax(-1)
        return (log_q.exp() * (self.log_joint(x) - log_q)).sum()
