"""Several processes evaluate together: what one of them gives, digit for digit."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import get_rank

from pyro_vae import elbo, log_likelihood
from pyro_vae.evaluation import Elbo, LogLikelihood

from ..several import run
from ..vaes import bernoulli_vae

ESTIMATORS = [
    "importance",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("prior", "ais:4:2")),
]


def x(count: int = 150) -> Tensor:
    """Of three blocks, the last of which is smaller."""
    return (torch.rand(count, 6, generator=torch.Generator().manual_seed(5)) < 0.5).float()


def evaluated(estimator: str, seed: int | None, shared: bool) -> LogLikelihood:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    vae = bernoulli_vae()
    torch.set_rng_state(state)
    settings: dict[str, Any] = {"estimator": estimator, "seed": seed, "max_bytes": 2**20}
    return log_likelihood(vae, x(), 70, **settings, shared=shared)


def bounded(kl: Any, shared: bool) -> Elbo:
    torch.manual_seed(0)
    return elbo(bernoulli_vae(), x(), 9, kl=kl, seed=3, shared=shared)


def check_equal(found: object, expected: object) -> None:
    assert not isinstance(found, BaseException), found
    for name, value in vars(expected).items():
        own = getattr(found, name)
        if isinstance(value, Tensor):
            assert torch.equal(own.nan_to_num(), value.nan_to_num()), name
        else:
            assert own == value, name


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.filterwarnings("ignore::pyro_vae.evaluation.UnreliableWeights")
def test_the_log_likelihood_is_that_of_one_process(estimator: str, size: int) -> None:
    """With four processes, one has no block."""
    for found in run(evaluated, estimator, 7, True, size=size):
        check_equal(found, evaluated(estimator, 7, False))


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
def test_the_elbo_is_that_of_one_process(kl: str) -> None:
    for found in run(bounded, kl, True):
        check_equal(found, bounded(kl, False))


def test_without_a_seed_the_first_process_draws_one() -> None:
    """The blocks of the processes have other noise, and all processes get the same result."""
    first, second = run(evaluated, "importance", None, True)
    check_equal(first, second)
    assert first.seed is None
    first, second = run(evaluated, "importance", None, False)
    assert not torch.equal(first.values, second.values)


def wrong(case: str) -> None:
    rank, vae, data = get_rank(), bernoulli_vae(), x()
    settings: dict[str, Any] = {"num_samples": 70, "seed": 0}
    if case != "parameters":
        torch.manual_seed(0)
        vae = bernoulli_vae()
    if case == "x":
        data = data[rank:]
    elif case == "seed":
        settings["seed"] = rank
    elif case == "failing":

        def fail(*args: Any) -> None:
            if rank and len(args[1][0]) == 64:
                raise FloatingPointError("no number")

        vae.posterior.register_forward_hook(fail)
    elif case == "support":
        data[0] += 0.5 * rank
    if case == "programs":
        torch.manual_seed(rank)
        vae = bernoulli_vae()
        settings |= {"model": vae.model, "guide": vae.guide}
        log_likelihood(x=data, **settings, shared=True)
    if case == "exact":
        log_likelihood(vae, data[rank:], estimator="exact", shared=True)
    log_likelihood(vae, data, **settings, shared=True)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("x", "x: got .* in process . and .* in process ., expected the same in all of them"),
        ("seed", r"estimator, num_samples, seed: got \('importance', 70, ."),
        ("parameters", "vae: got parameters with the checksum"),
        ("programs", "vae: got parameters with the checksum"),
        ("exact", "x: got .* in process"),
        ("support", "x: got .* in process"),
        ("failing", "^no number"),
    ],
)
def test_what_differs_or_fails_is_said_in_all_processes(case: str, message: str) -> None:
    for error in run(wrong, case):
        assert isinstance(error, ValueError | RuntimeError | FloatingPointError)
        assert re.search(message, str(error)), error


def test_wrong_arguments() -> None:
    shared: Any = 1
    with pytest.raises(TypeError, match="shared: got 1, expected True or False"):
        log_likelihood(bernoulli_vae(), x(), 10, shared=shared)
    with pytest.raises(RuntimeError, match=r"shared: got True without torch\.distributed"):
        elbo(bernoulli_vae(), x(), 10, shared=True)
