"""Threads in turns: evaluations beside each other, and beside a training."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from pyro_vae import VAE, elbo, fit, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.pair import Pair
from pyro_vae.training import History
from pyro_vae.utils import turns
from pyro_vae.utils.turns import offer_turn, one_training, others_turn, turn

X = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))


def noisy() -> VAE:
    """A VAE whose embedding differs in train mode."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(networks.Folded(nn.Sequential(*layers), 6, 4)),
    )


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """What some functions return, or raise, each in a thread of its own."""
    found: list[Any] = [None] * len(work)

    def run(index: int) -> None:
        try:
            found[index] = work[index]()
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture(autouse=True)
def _free() -> Iterator[None]:
    yield
    assert in_threads(lambda: turns._turns.lock.acquire(timeout=10)) == [True]
    turns._begin_anew()  # The thread that has taken it is gone.


def test_point_values_from_several_threads() -> None:
    vae = noisy().train()
    expected = vae.embed(X), vae.decode(vae.embed(X))

    def work() -> bool:
        return all(
            torch.equal(vae.embed(X), expected[0]) and torch.equal(vae.reconstruct(X), expected[1])
            for _ in range(40)
        )

    assert in_threads(work, work, work) == [True] * 3
    assert vae.training


def test_evaluations_from_several_threads() -> None:
    vae = noisy().train()
    values, bounds = log_likelihood(vae, X, 30, seed=0).values, elbo(vae, X, seed=0).values

    def first() -> bool:
        return all(torch.equal(log_likelihood(vae, X, 30, seed=0).values, values) for _ in "abcd")

    def second() -> bool:
        return all(torch.equal(elbo(vae, X, seed=0).values, bounds) for _ in "abcd")

    assert in_threads(first, second, first) == [True] * 3


def test_an_evaluation_beside_a_training_changes_neither() -> None:
    alone = fit(noisy(), X, epochs=30, batch_size=8)
    vae, begun = noisy(), threading.Event()
    other = noisy()
    expected = log_likelihood(other, X, 30, seed=0).values

    def train() -> list[float]:
        return fit(vae, X, epochs=30, batch_size=8, callbacks=[lambda *_: begun.set()]).cost

    def evaluate() -> list[bool]:
        begun.wait(60)
        log_likelihood(vae, X, 30, seed=0)
        return [torch.equal(log_likelihood(other, X, 30, seed=0).values, expected) for _ in "abc"]

    costs, same = in_threads(train, evaluate)
    assert costs == alone.cost
    assert same == [True] * 3


def test_a_second_training_beside_a_first_is_refused() -> None:
    refused: list[Any] = []

    def beside(pair: Pair, history: History) -> None:
        if len(history.epoch) == 1:
            refused.extend(in_threads(lambda: fit(noisy(), X, epochs=1, batch_size=40)))

    alone = fit(noisy(), X, epochs=3, batch_size=8)
    history = fit(noisy(), X, epochs=3, batch_size=8, callbacks=[beside])
    assert history.cost == alone.cost
    (error,) = refused
    assert isinstance(error, RuntimeError)
    assert "fit: another thread of this process trains" in str(error)
    # One training after another is right, in any thread, and so is one inside a callback.
    assert isinstance(in_threads(lambda: fit(noisy(), X, epochs=1, batch_size=40))[0], History)

    def inside(pair: Pair, history: History) -> None:
        fit(noisy(), X, epochs=1, batch_size=40)

    fit(noisy(), X, epochs=2, batch_size=40, callbacks=[inside])


def test_a_callback_may_wait_for_a_thread() -> None:
    found: list[Any] = []

    def evaluates(pair: Pair, history: History) -> None:
        found.extend(in_threads(lambda: elbo(pair, X, seed=0).mean))

    fit(noisy(), X, epochs=2, batch_size=40, callbacks=[evaluates])
    assert all(isinstance(each, float) for each in found)
    assert len(found) == 2


def test_threads_have_their_turns_when_they_are_offered() -> None:
    order: list[int] = []

    def work(index: int) -> None:
        with turn(), turn():
            order.append(index)

    with turn(), turn():
        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        while len(turns._turns.present) < 2 + 4:
            time.sleep(1e-3)
        assert order == []
        for _ in range(1000):  # as after the steps of a training
            offer_turn()
        assert sorted(order) == [0, 1, 2, 3]
        with others_turn():
            in_threads(lambda: work(4))
        assert order[-1] == 4
        assert turns._turns.lock._is_owned()
    for thread in threads:
        thread.join(60)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_ctrl_c_at_any_moment_loses_no_turn() -> None:
    """An alarm interrupts this thread some thousand times while it takes and gives its turn."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @turns.one_at_a_time
    def work() -> None:
        pass

    before, draw = signal.signal(signal.SIGALRM, interrupt), random.Random(0)
    end, interrupted = time.monotonic() + 1, 0
    try:
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 2e-4))
                while True:
                    work()
            except KeyboardInterrupt:
                interrupted += 1
            assert not turns._turns.lock._is_owned()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100


def test_an_error_gives_the_turn_back() -> None:
    @one_training
    def fails() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        fails()
