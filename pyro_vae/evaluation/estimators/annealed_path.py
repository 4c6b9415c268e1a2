"""Annealed importance sampling: chains of Hamiltonian moves between prior and posterior."""

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import (
    describe_distribution,
    describe_support,
    same_support,
    support_of,
)
from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.log_densities import Latents

_ACCEPTED = 0.65  # of moves, which step sizes are adapted to
_FACTOR = 1.1  # by which they are
_FIRST_STEP = 0.1
_ADAPTING = 8  # chains of the run that finds step sizes
_WARM_UP = 20  # of its moves, at the first temperature
_ADAPT, _FORWARD, _BACKWARD = 1, 2, 3  # random streams
_STEEPNESS = 4.0  # of the sigmoid that spaces the temperatures


def schedule(temperatures: int) -> Tensor:
    r""":math:`\beta_0 = 0, \dots, \beta_T = 1`, a sigmoid's values, denser at both ends.

    Source: Wu et al. (2017), arXiv 1611.04273, section 4.1.
    """
    line = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64)
    values = line.sigmoid()
    return (values - values[0]) / (values[-1] - values[0])


class Path:
    r"""The annealing :math:`f_\beta(z) \propto p(z)\, p(x|z)^\beta` of some examples.

    Latents move as unconstrained vectors u, z = T(u), with T's Jacobian in the density.

    Arguments:
        block: The examples.
        temperatures: Steps from :math:`\beta = 0` to 1.
        leapfrog_steps: Of each move.

    Raises:
        ValueError: A latent is discrete, or the set that it is on depends on others.
    """

    def __init__(self, block: Block, temperatures: int, leapfrog_steps: int) -> None:
        self.block = block
        self.betas = schedule(temperatures).tolist()
        self.leapfrog_steps = leapfrog_steps
        with block.stream(_ADAPT):
            z, _ = block.draw_prior(2)
        self.transforms = _transforms(block, z)
        with block.stream(_ADAPT):
            self.step_sizes = self._adapted()
        """At each temperature but the first, shape ``(N,)``."""

    def _adapted(self) -> list[Tensor]:
        """Step sizes that accept as many moves as they should, by a run of its own noise."""
        state = self._start(_ADAPTING)
        step = state.log_prior.new_full((len(self.block.x),), _FIRST_STEP)
        found = []
        for beta in (*[self.betas[1]] * _WARM_UP, *self.betas[1:]):
            found.append(step)
            accepted = self._move(state, beta, step).mean(0)
            step = torch.where(accepted > _ACCEPTED, step * _FACTOR, step / _FACTOR)
        return found[_WARM_UP:]

    def forward(self, start: int, count: int) -> Tensor:
        """Log-weights of so many chains from the prior to the posterior, ``(count, N)``."""
        with self.block.stream(_FORWARD, start):
            state = self._start(count)
            log_w = torch.zeros_like(state.log_prior, dtype=torch.float64)
            for last, beta, step in self._steps():
                log_w += (beta - last) * state.log_likelihood.double()
                if beta < 1:  # behind the last weight a move would change nothing
                    self._move(state, beta, step)
        return log_w

    def backward(self, z: Latents) -> Tensor:
        """Log-weights of the chains that end in z, for draws z of the posterior, reversed.

        The mean of their reciprocals is 1 / p(x), so that of the log-weights is an upper bound.
        """
        with self.block.stream(_BACKWARD):
            state = _State(self, self._unconstrained(z))
            log_w = torch.zeros_like(state.log_prior, dtype=torch.float64)
            for last, beta, step in reversed(self._steps()):
                if beta < 1:
                    self._move(state, beta, step)
                log_w += (beta - last) * state.log_likelihood.double()
        return log_w

    def _steps(self) -> list[tuple[float, float, Tensor]]:
        return list(zip(self.betas[:-1], self.betas[1:], self.step_sizes, strict=True))

    def _start(self, count: int) -> "_State":
        z, _ = self.block.draw_prior(count)
        state = _State(self, self._unconstrained(z))
        for name in state.u:
            wrong = torch.isnan(state.prior_slopes[name] + state.likelihood_slopes[name])
            if wrong.any():
                raise FloatingPointError(
                    f'site "{name}": the density has a derivative that is NaN at a draw of the '
                    "prior, expected numbers, by which Hamiltonian moves go"
                )
        return state

    def _unconstrained(self, z: Latents) -> dict[str, Tensor]:
        return {name: transform.inv(z[name]) for name, transform in self.transforms.items()}

    def _move(self, state: "_State", beta: float, step: Tensor) -> Tensor:
        """A Hamiltonian move that leaves the density alone; which chains accepted it."""
        densities = self.block.densities
        momenta = {name: torch.randn_like(value) for name, value in state.u.items()}
        threshold = torch.rand_like(state.log_prior).log()
        size = {n: densities.beside(step[None], value) for n, value in state.u.items()}
        new, p = state, {n: m + 0.5 * size[n] * state.slope(n, beta) for n, m in momenta.items()}
        for i in range(self.leapfrog_steps):
            new = _State(self, {n: value + size[n] * p[n] for n, value in new.u.items()})
            half = 0.5 if i == self.leapfrog_steps - 1 else 1.0
            p = {n: m + half * size[n] * new.slope(n, beta) for n, m in p.items()}
        change = new.log_density(beta) - state.log_density(beta)
        for name, momentum in momenta.items():
            change = change + 0.5 * densities.per_pair(momentum.square() - p[name].square())
        accepted = threshold < change  # and a move to what is no number is below nothing
        state.take(accepted, new)
        return accepted.to(step.dtype)


class _State:
    """Where chains are: unconstrained latents, their log-densities, and slopes of these."""

    def __init__(self, path: Path, u: dict[str, Tensor]) -> None:
        self.path = path
        self.u = u
        self.log_prior, self.log_likelihood, *slopes = path.block.in_parts(self._evaluate, u)
        self.prior_slopes = dict(zip(u, slopes[: len(u)], strict=True))
        self.likelihood_slopes = dict(zip(u, slopes[len(u) :], strict=True))

    def log_density(self, beta: float) -> Tensor:
        """The logarithm of the annealed density of u, shape ``(samples, N)``."""
        return self.log_prior + beta * self.log_likelihood

    def slope(self, name: str, beta: float) -> Tensor:
        """Its derivative by one of the latents."""
        return self.prior_slopes[name] + beta * self.likelihood_slopes[name]

    def take(self, accepted: Tensor, new: "_State") -> None:
        """Goes where another state is, for some of the chains."""
        self.log_prior = torch.where(accepted, new.log_prior, self.log_prior)
        self.log_likelihood = torch.where(accepted, new.log_likelihood, self.log_likelihood)
        for own, other in (
            (self.u, new.u),
            (self.prior_slopes, new.prior_slopes),
            (self.likelihood_slopes, new.likelihood_slopes),
        ):
            for name in own:
                mask = self.path.block.densities.beside(accepted, own[name])
                own[name] = torch.where(mask, other[name], own[name])

    def _evaluate(self, x: Tensor, u: Latents) -> tuple[Tensor, ...]:
        densities, transforms = self.path.block.densities, self.path.transforms
        # Where a move leaves what floats can hold it is rejected, and no argument is wrong.
        with torch.enable_grad(), pyro.validation_enabled(False):
            u = {name: value.detach().requires_grad_() for name, value in u.items()}
            z = {name: transforms[name](value) for name, value in u.items()}
            log_prior, log_likelihood = densities.score(x, z, nan=True)
            for name, value in u.items():
                log_det = transforms[name].log_abs_det_jacobian(value, z[name])
                log_prior = log_prior + densities.per_pair(log_det)
            slopes = [
                slope
                for term in (log_prior, log_likelihood)
                for slope in _slopes(term, list(u.values()))
            ]
        return log_prior.detach(), log_likelihood.detach(), *slopes


def _slopes(term: Tensor, by: list[Tensor]) -> tuple[Tensor, ...]:
    """Derivatives, which are zero of what does not depend on the latents."""
    if not term.requires_grad:
        return tuple(torch.zeros_like(value) for value in by)
    return torch.autograd.grad(
        term.sum(), by, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _transforms(block: Block, z: Latents) -> dict[str, Transform]:
    """From unconstrained vectors to the set that each latent is on."""
    densities = block.densities
    one = slice(1)
    wide = densities.priors(block.x, z)
    narrow = densities.priors(block.x[:1], densities.part(z, one, one))
    transforms = {}
    for name, prior in narrow.items():
        support = _support(prior)
        if "VonMises" in describe_distribution(prior):
            raise ValueError(
                f'site "{name}": a latent on a circle, expected one on a box or on all reals, on '
                "which Hamiltonian moves stay"
            )
        if support.is_discrete:
            raise ValueError(
                f'site "{name}": a latent on {describe_support(support)} is discrete, expected a '
                "continuous one, which Hamiltonian moves need"
            )
        if not same_support(support, _support(wide[name])):
            raise ValueError(
                f'site "{name}": the set that a latent is on changes with sample or example, '
                "expected one set, on which Hamiltonian moves stay"
            )
        try:
            transforms[name] = biject_to(support)
        except NotImplementedError as error:
            raise ValueError(
                f'site "{name}": torch has no transform onto {describe_support(support)}, expected a set '
                "that it has one onto, on which Hamiltonian moves stay"
            ) from error
    return transforms


def _support(prior: Distribution) -> Constraint:
    """A prior's support; that of torch's mixtures is their components'."""
    support = support_of(prior)
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return support.base_constraint
    return support
