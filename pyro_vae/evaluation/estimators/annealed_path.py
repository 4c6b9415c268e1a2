"""Chains of Hamiltonian moves between prior and posterior, for annealed importance sampling."""

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import (
    Completed,
    describe_distribution,
    describe_support,
    same_support,
    support_of,
)
from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.log_densities import Latents
from pyro_vae.utils.context import Examples, rows

_ACCEPTED = 0.65  # the share of accepted moves that step sizes are adapted to
_FACTOR = 1.1  # by which an adaptation multiplies or divides a step size
_FIRST_STEP = 0.1  # the step size before any adaptation
_ADAPTATION_CHAINS = 8  # chains of the run that finds the step sizes
_WARM_UP = 20  # moves of that run at the first temperature
_ADAPT, _FORWARD, _BACKWARD = 1, 2, 3  # random streams of a block
_STEEPNESS = 4.0  # the sigmoid that spaces the temperatures is taken from -4 to 4


def schedule(temperatures: int) -> Tensor:
    r"""Returns :math:`\beta_0 = 0, \dots, \beta_T = 1` along a sigmoid, denser at both ends.

    Source: Wu et al. (2017), arXiv 1611.04273, section 4.1.
    """
    line = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64)
    values = line.sigmoid()
    return (values - values[0]) / (values[-1] - values[0])


class Path:
    r"""The annealed densities :math:`f_\beta(z) \propto p(z)\, p(x|z)^\beta` of a block.

    Chains move unconstrained vectors u with z = T(u). The density of u includes the Jacobian of T.
    The step sizes are adapted when the path is made.

    Arguments:
        block: The examples, with their random streams.
        temperatures: The number of steps from :math:`\beta = 0` to 1.
        leapfrog_steps: The number of leapfrog steps of each move.
        warm_up: The number of moves at the first temperature by which its step size is adapted.

    Raises:
        ValueError: A latent is discrete or on a circle, or its support depends on the sample or
            the example.
        FloatingPointError: The density has a derivative of NaN.
    """

    def __init__(
        self, block: Block, temperatures: int, leapfrog_steps: int, warm_up: int = _WARM_UP
    ) -> None:
        self.block = block
        self.warm_up = warm_up
        self.betas = schedule(temperatures).tolist()
        self.leapfrog_steps = leapfrog_steps
        with block.stream(_ADAPT):
            z, _ = block.draw_prior(2)
        self.transforms = _transforms(block, z)
        priors = block.densities.distributions("model", block.batch, z)
        self._completed = {n: p for n, p in priors.items() if isinstance(p, Completed)}
        with block.stream(_ADAPT):
            self.step_sizes = self._adapted()  # at each temperature but the first, shape (N,)

    def _adapted(self) -> list[Tensor]:
        """Finds the step sizes at which 65 % of the moves are accepted, in a run of its own."""
        state = self._start(_ADAPTATION_CHAINS)
        step = state.log_prior.new_full((len(self.block.x),), _FIRST_STEP)
        found = []
        for beta in (*[self.betas[1]] * self.warm_up, *self.betas[1:]):
            found.append(step)
            accepted = self._move(state, beta, step).mean(0)
            step = torch.where(accepted > _ACCEPTED, step * _FACTOR, step / _FACTOR)
        return found[self.warm_up :]

    def forward(self, start: int, count: int) -> Tensor:
        """Runs `count` chains from the prior to the posterior.

        Arguments:
            start: The index of the first sample, which selects the random stream.
            count: The number of chains.

        Returns:
            Log-weights in nats, shape ``(count, N)``.
        """
        return self.weighted(start, count)[1]

    def weighted(self, start: int, count: int) -> tuple[Latents, Tensor]:
        """The ends of the chains of :meth:`forward`, and their log-weights."""
        with self.block.stream(_FORWARD, start):
            state = self._start(count)
            log_w = torch.zeros_like(state.log_prior, dtype=torch.float64)
            for last, beta, step in self._steps():
                log_w += (beta - last) * state.log_likelihood.double()
                if beta < 1:  # no weight comes after the last temperature
                    self._move(state, beta, step)
        return self._latents(state), log_w

    def moved(self, start: int, count: int, moves: int) -> Latents:
        """The ends of `count` chains that begin at draws of the prior and move at the posterior.

        Arguments:
            start: The index of the first sample, which selects the random stream.
            count: The number of chains.
            moves: The number of moves of each.
        """
        with self.block.stream(_FORWARD, start):
            state = self._start(count)
            for _ in range(moves):
                # Moves of all sizes, since a chain may start where the density is steep.
                factor = 10 ** -torch.rand((), device=self.block.x.device)
                self._move(state, 1.0, self.step_sizes[-1] * factor)
        return self._latents(state)

    def _latents(self, state: "_State") -> Latents:
        z = {name: self.transforms[name](value) for name, value in state.u.items()}
        # Chains move all numbers, also those that are known, of which no density depends.
        return z | {name: p.complete(z[name]) for name, p in self._completed.items()}

    def backward(self, z: Latents) -> Tensor:
        """Runs reversed chains, which start at exact draws z of the posterior.

        The mean of the reciprocal weights is 1 / p(x). So the mean of the log-weights is an upper
        bound of log p(x).

        Returns:
            Log-weights in nats, shape ``(samples, N)``.
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
                    "prior, expected numbers, which Hamiltonian moves need"
                )
        return state

    def _unconstrained(self, z: Latents) -> dict[str, Tensor]:
        return {name: transform.inv(z[name]) for name, transform in self.transforms.items()}

    def _move(self, state: "_State", beta: float, step: Tensor) -> Tensor:
        """Makes a Hamiltonian move that leaves the density invariant.

        Returns:
            1 for the chains that accepted the move and 0 for the others, shape ``(samples, N)``.
        """
        densities = self.block.densities
        momenta = {name: torch.randn_like(value) for name, value in state.u.items()}
        threshold = torch.rand_like(state.log_prior).log()
        size = {n: densities.broadcastable(step[None], value) for n, value in state.u.items()}
        new, p = state, {n: m + 0.5 * size[n] * state.slope(n, beta) for n, m in momenta.items()}
        for i in range(self.leapfrog_steps):
            new = _State(self, {n: value + size[n] * p[n] for n, value in new.u.items()})
            half = 0.5 if i == self.leapfrog_steps - 1 else 1.0
            p = {n: m + half * size[n] * new.slope(n, beta) for n, m in p.items()}
        change = new.log_density(beta) - state.log_density(beta)
        for name, momentum in momenta.items():
            change = change + 0.5 * densities.sum_per_draw(momentum.square() - p[name].square())
        accepted = threshold < change  # a change of NaN compares as False
        state.take(accepted, new)
        return accepted.to(step.dtype)


class _State:
    """The position of chains: unconstrained latents, their log-densities and derivatives."""

    def __init__(self, path: Path, u: dict[str, Tensor]) -> None:
        self.path = path
        self.u = u
        self.log_prior, self.log_likelihood, *slopes = path.block.in_steps(self._evaluate, u)
        self.prior_slopes = dict(zip(u, slopes[: len(u)], strict=True))
        self.likelihood_slopes = dict(zip(u, slopes[len(u) :], strict=True))

    def log_density(self, beta: float) -> Tensor:
        """Returns the log of the annealed density of u, shape ``(samples, N)``."""
        return self.log_prior + beta * self.log_likelihood

    def slope(self, name: str, beta: float) -> Tensor:
        """Returns the derivative of :meth:`log_density` by one of the latents."""
        return self.prior_slopes[name] + beta * self.likelihood_slopes[name]

    def take(self, accepted: Tensor, new: "_State") -> None:
        """Moves the chains that are `accepted` to the position in another state."""
        self.log_prior = torch.where(accepted, new.log_prior, self.log_prior)
        self.log_likelihood = torch.where(accepted, new.log_likelihood, self.log_likelihood)
        for own, other in (
            (self.u, new.u),
            (self.prior_slopes, new.prior_slopes),
            (self.likelihood_slopes, new.likelihood_slopes),
        ):
            for name in own:
                mask = self.path.block.densities.broadcastable(accepted, own[name])
                own[name] = torch.where(mask, other[name], own[name])

    def _evaluate(self, batch: Examples, u: Latents) -> tuple[Tensor, ...]:
        densities, transforms = self.path.block.densities, self.path.transforms
        # A move beyond the range of floats is rejected; Pyro's validation would raise instead.
        with torch.enable_grad(), pyro.validation_enabled(False):
            u = {name: value.detach().requires_grad_() for name, value in u.items()}
            z = {name: transforms[name](value) for name, value in u.items()}
            log_prior, log_likelihood = densities.score(batch, z, nan=True)
            for name, value in u.items():
                log_det = transforms[name].log_abs_det_jacobian(value, z[name])
                log_prior = log_prior + densities.sum_per_draw(log_det)
            slopes = [
                slope
                for term in (log_prior, log_likelihood)
                for slope in _slopes(term, list(u.values()))
            ]
        return log_prior.detach(), log_likelihood.detach(), *slopes


def _slopes(term: Tensor, by: list[Tensor]) -> tuple[Tensor, ...]:
    """Returns derivatives, which are zero for a term that does not depend on the latents."""
    if not term.requires_grad:
        return tuple(torch.zeros_like(value) for value in by)
    return torch.autograd.grad(
        term.sum(), by, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _transforms(block: Block, z: Latents) -> dict[str, Transform]:
    """Returns the transform from unconstrained vectors to the support of each latent."""
    densities = block.densities
    if not densities.latents:
        raise ValueError(
            "model: all its latents are summed out, expected a continuous one, which Hamiltonian "
            'moves need; estimator="importance" is exact without'
        )
    one = slice(1)
    wide = densities.distributions("model", block.batch, z)
    narrow = densities.distributions("model", rows(block.batch, one), densities.part(z, one, one))
    transforms = {}
    for name in densities.latents:
        prior = narrow[name]
        support = _support(prior)
        if "VonMises" in describe_distribution(prior):
            raise ValueError(
                f'site "{name}": a latent on a circle, expected one on the reals or an interval, '
                "which Hamiltonian moves need"
            )
        if support.is_discrete:
            raise ValueError(
                f'site "{name}": a latent on {describe_support(support)} is discrete, expected a '
                "continuous one, which Hamiltonian moves need"
            )
        if not same_support(support, _support(wide[name])):
            raise ValueError(
                f'site "{name}": the support of a latent changes with the sample or the example, '
                "expected the same for all, which Hamiltonian moves need"
            )
        try:
            transforms[name] = biject_to(support)
        except NotImplementedError as error:
            raise ValueError(
                f'site "{name}": a latent on {describe_support(support)}, onto which torch has no '
                "transform, expected a support with one, which Hamiltonian moves need"
            ) from error
    return transforms


def _support(prior: Distribution) -> Constraint:
    """Returns a prior's support, which for torch's mixtures is that of the components."""
    support = support_of(prior)
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return support.base_constraint
    return support
