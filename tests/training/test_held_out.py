"""Validation data: their -ELBO, and shares of the training data that are not trained on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit, optim
from pyro_vae.training import History

from ..vaes import bernoulli_vae, binary, parameters


def trained(data: Any, **settings: Any) -> tuple[VAE, History]:
    torch.manual_seed(3)
    vae = bernoulli_vae()
    settings = {"epochs": 2, "batch_size": 8, **settings}
    return vae, fit(vae, data, **settings)


def test_validation_changes_nothing_else() -> None:
    x, other = binary(40), binary(30)
    plain, alone = trained(x, test=other)
    watched, history = trained(x, test=other, validation=other[:20])
    assert torch.equal(parameters(plain), parameters(watched))
    assert history.test_cost == alone.test_cost
    assert list(history) == [
        "epoch",
        "cost",
        "reconstruction",
        "kl",
        "validation_cost",
        "test_cost",
        "seconds",
    ]
    # The same data have another noise as validation data.
    _, both = trained(x, test=other, validation=other)
    assert both.validation_cost != both.test_cost


def rows_seen(data: Any, fraction: float, seed: int | None = 0) -> tuple[set[int], set[int]]:
    """The examples that are trained on and those that are held out; x holds their numbers."""
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    vae = bernoulli_vae()

    def look(x: Tensor) -> Tensor:
        seen[vae.training] |= set(x[:, 0].long().tolist())
        return torch.zeros_like(x)

    fit(
        vae,
        data,
        validation=fraction,
        epochs=2,
        batch_size=8,
        transform=look,
        seed=seed,
    )
    return seen[True], seen[False]


def test_a_fraction_splits_the_data(tmp_path: Path) -> None:
    numbered = torch.arange(40.0).unsqueeze(1).expand(40, 6).contiguous()
    np.save(tmp_path / "x.npy", numbered.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    splits = []
    for data in (numbered, numbered.numpy(), mapped, TensorDataset(numbered), Mapped(numbered)):
        train, held = rows_seen(data, 0.25)
        # The first batch, of which the checks look at some, is in train mode or not.
        assert len(held) == 10
        assert held | train == set(range(40))
        splits.append(held)
    assert all(other == splits[0] for other in splits)
    assert rows_seen(numbered, 0.25, seed=1)[1] != splits[0]


class Mapped(torch.utils.data.Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def test_held_out_examples_are_not_trained_on() -> None:
    """Those of a fraction are those of data that lack them."""
    x, context = binary(40), torch.arange(40)
    seen: list[Tensor] = []

    class Watching(Mapped):
        def __getitem__(self, index: int) -> Tensor:
            seen.append(torch.tensor(index))
            return super().__getitem__(index)

    trained(Watching(x), validation=0.25, epochs=1)
    counts = torch.stack(seen).bincount(minlength=40)
    assert len(context) == len(counts)
    # One look at the first batch of each of the two, and then each example once.
    assert int(counts.sum()) == 40 + 8 + 8
    assert set(counts.tolist()) == {1, 2}


def test_a_plateau_advances_by_the_validation_cost() -> None:
    costs: list[float] = []

    class Plateau(ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
            costs.append(float(metrics))
            super().step(metrics)

    adam = optim.Adam(1e-2, schedule=Plateau)
    _, history = trained(binary(40), test=binary(9), validation=0.25, optim=adam)
    assert costs == history.validation_cost
    adam = optim.Adam(1e-2, schedule=ReduceLROnPlateau)
    with pytest.raises(ValueError, match="expected validation= or test="):
        trained(binary(40), optim=adam)


def test_wrong_validation_is_named() -> None:
    x = binary(40)
    for wrong in (0.0, 1.0, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match=r"validation: got .* fraction between 0 and 1"):
            trained(x, validation=wrong)
    with pytest.raises(TypeError, match="validation: got True, expected a fraction, data or None"):
        trained(x, validation=True)
    for small in (0.01, 0.99):
        with pytest.raises(ValueError, match="at least one example for training and one"):
            trained(x, validation=small)
    with pytest.raises(TypeError, match=r"validation: got the fraction 0.5, and train data"):
        fit(bernoulli_vae(), DataLoader(TensorDataset(x), 8), validation=0.5, epochs=1)
    with pytest.raises(ValueError, match="validation: "):
        trained(x, validation=x[:, :3])
    with pytest.raises(ValueError, match="validation"):
        trained(x, validation=x + 0.5)


class Drawn(torch.utils.data.IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(40):
            yield (torch.rand(6) > 0.5).float()


@pytest.mark.parametrize("argument", ["validation", "test"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(TensorDataset(binary(40)), 8, shuffle=True),
        lambda: DataLoader(TensorDataset(binary(40)), 8, num_workers=1, persistent_workers=True),
        Drawn,
    ],
)
def test_random_streams_are_alike_after_each_epoch(make: Callable[[], Any], argument: str) -> None:
    rest = optim.from_torch(torch.optim.SGD, lr=0.0)
    _, history = trained(binary(40), epochs=3, optim=rest, **{argument: make()})
    assert len(set(history[f"{argument}_cost"])) == 1


def test_a_loader_with_one_iterator_serves_one_purpose() -> None:
    loader = DataLoader(TensorDataset(binary(40)), 8, num_workers=1, persistent_workers=True)
    for argument in ("validation", "test"):
        with pytest.raises(ValueError, match=f"{argument}: got the loader that train has"):
            fit(bernoulli_vae(), loader, epochs=1, **{argument: loader})


@pytest.mark.slow
def test_two_purposes_may_share_a_loader_that_is_not_trained_on() -> None:
    data = TensorDataset(binary(40))
    rest = optim.from_torch(torch.optim.SGD, lr=0.0)
    costs = []
    for persistent in (False, True):
        loader = DataLoader(data, 8, num_workers=1, persistent_workers=persistent)
        history = trained(binary(40), validation=loader, test=loader, optim=rest)[1]
        costs.append((history.validation_cost, history.test_cost))
    assert costs[0] == costs[1]
