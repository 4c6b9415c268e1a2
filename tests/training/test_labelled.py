"""Batches with a share of labelled examples: weights that leave the objective as it is."""

import copy
import math
from typing import Any

import pytest
import torch

from pyro_vae import fit, objectives, optim
from pyro_vae.training.labelled import Labelled
from pyro_vae.training.sources import InMemory

from ..models.test_semi_supervised import case
from ..vaes import bernoulli_vae, binary


def source(known: int, examples: int, size: int, share: float, seed: int = 0) -> Labelled:
    labels = torch.where(torch.arange(examples) < known, 1, -1)
    x = torch.arange(float(examples))[:, None]
    return Labelled(InMemory("train", (x, labels), size, seed, torch.device("cpu")), share)


def test_batches_have_their_share() -> None:
    own = source(known=8, examples=40, size=10, share=0.4)
    assert (own.steps, own.examples) == (4, 40)
    for number in (1, 2):
        for batch in own.order(number).split(10):
            assert ((batch < 8).tolist()) == [True] * 4 + [False] * 6
    assert not torch.equal(own.order(1), own.order(2))
    assert torch.equal(own.order(2), source(8, 40, 10, 0.4).order(2))


def test_weights_undo_the_share() -> None:
    """The sum over a batch has the mean of that over as many examples at random."""
    own = source(known=8, examples=40, size=10, share=0.4)
    assert own.weights.sum().item() == pytest.approx(10)
    epochs = 400
    total = torch.zeros(40)
    for number in range(1, epochs + 1):
        total.index_add_(0, own.order(number), own.weights.repeat(4))
    mean = total / epochs
    torch.testing.assert_close(mean[:8], torch.ones(8))  # each labelled one passes twice
    # Of 32 others 24 pass, each with probability 3/4 and weight 4/3.
    error = 4 / 3 * math.sqrt(3 / 16 / epochs)
    assert (mean[8:] - 1).abs().max() < 4.5 * error


def test_the_cost_is_that_of_the_data() -> None:
    """At the exact posterior each example costs -log p, whatever its noise."""
    own = case(examples=40)
    few = torch.where(torch.arange(40) < 4, own.labels.clamp(min=0), -1)
    own.labels = few
    epochs = 60
    history = fit(
        own.vae,
        (own.x, own.labels),
        epochs=epochs,
        batch_size=10,
        labelled=0.3,
        objective=objectives.enumerated(),
        optim=optim.from_torch(torch.optim.SGD, lr=0.0),
    )
    cost = torch.tensor(history.cost).double()
    error = cost.std().item() / math.sqrt(epochs)
    assert abs(cost.mean().item() + own.exact.mean().item()) < 4 * error
    assert error < 0.1


def test_gradients_have_the_mean_of_those_of_all_data() -> None:
    own = case(off=0.3, examples=40)
    own.labels[4:] = -1
    x, labels = own.x, own.labels
    objective = objectives.classified(2.0, objectives.enumerated(50))
    vae = own.vae
    objective.loss_and_grads(vae.model, vae.guide, x, labels)
    whole = vae.classifier.shift.grad / 40
    batches = source(4, 40, 10, 0.3)
    batches = Labelled(InMemory("train", (x, labels), 10, 0, torch.device("cpu")), 0.3)
    from pyro_vae.training.labelled import weighted

    model, guide = weighted((vae.model, vae.guide), batches.weights)
    found = []
    for number in range(1, 41):
        for index in batches.order(number).split(10):
            vae.zero_grad()
            objective.loss_and_grads(model, guide, x[index], labels[index])
            found.append(vae.classifier.shift.grad / 10)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    assert ((mean - whole).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labelled": 0.0}, ValueError, "labelled: got 0.0, expected a number between 0"),
        ({"labelled": "some"}, TypeError, "labelled: got 'some'"),
        ({"labelled": 0.01}, ValueError, "which are 0 labelled examples"),
        ({"batch_size": 64}, ValueError, "labelled: got 40 examples, expected at least a batch"),
        ({"objective": objectives.iwae(3)}, ValueError, "labelled: got it with Importance"),
        ({"accumulate": 2}, ValueError, "labelled: got it with batches that are cut"),
    ],
)
def test_wrong_shares_are_named(changes: dict[str, Any], error: type, message: str) -> None:
    own = case(examples=40)
    arguments: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 10,
        "labelled": 0.3,
        "objective": objectives.enumerated(),
    }
    with pytest.raises(error, match=message):
        fit(own.vae, (own.x, own.labels), **(arguments | changes))


def test_wrong_data_are_named() -> None:
    own = case(examples=40)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (own.x, ValueError, "labelled: got data without labels"),
        ((own.x, own.labels.double()), ValueError, "labelled: got torch.float64"),
        ((own.x, own.labels.clamp(min=0)), ValueError, "labelled: got 40 labels for 40"),
        ((own.x, own.labels.clamp(max=-1)), ValueError, "labelled: got 0 labels for 40"),
    ]
    for data, error, message in wrong:
        with pytest.raises(error, match=message):
            fit(
                own.vae, data, epochs=1, batch_size=10, labelled=0.3,
                objective=objectives.enumerated(),
            )  # fmt: skip
    with pytest.raises(
        TypeError, match="labelled: got train as a dataset, a loader or another iterable"
    ):
        fit(
            own.vae,
            [(own.x, own.labels)],
            epochs=1,
            labelled=0.3,
            objective=objectives.enumerated(),
        )
    with pytest.raises(ValueError, match="which no part takes"):
        fit(bernoulli_vae(), (binary(40), own.labels), epochs=1, batch_size=10)


def test_one_labelled_example_in_a_batch_is_enough() -> None:
    own = source(known=1, examples=40, size=10, share=0.1)
    assert [int((batch < 1).sum()) for batch in own.order(1).split(10)] == [1, 1, 1, 1]


def test_a_warm_up_may_be_inside() -> None:
    own = case(examples=40)
    own.labels[4:] = -1
    objective = objectives.classified(1.0, objectives.warm_up(objectives.enumerated(), 5))
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 10, "labelled": 0.3}
    history = fit(own.vae, (own.x, own.labels), objective=objective, **arguments)
    assert math.isfinite(history.cost[-1])


def test_arrays_are_data_in_memory() -> None:
    own = case(examples=40)
    own.labels[4:] = -1
    costs = []
    for data in ((own.x, own.labels), (own.x.numpy(), own.labels.numpy())):
        vae = copy.deepcopy(own.vae)
        arguments: dict[str, Any] = {"epochs": 1, "batch_size": 10, "labelled": 0.3}
        costs.append(fit(vae, data, objective=objectives.enumerated(), **arguments).cost)
    assert costs[0] == costs[1]
