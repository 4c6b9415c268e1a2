"""Data of any kind: one order and one noise, whichever gives the batches."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from pyro_vae import Pair, fit
from pyro_vae.datasets import fresh_pixels
from pyro_vae.training.kinds import source_of
from pyro_vae.utils.random import seeded

from ..test_context import labelled
from ..vaes import bernoulli_vae, binary

SIZE, BATCH, EPOCHS = 30, 8, 2


class Items(Dataset):
    """A map-style data set of examples, as users write them."""

    def __init__(self, *entries: Tensor) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries[0])

    def __getitem__(self, index: int) -> Any:
        item = tuple(entry[index] for entry in self.entries)
        return item if len(item) > 1 else item[0]


class Order(Sampler[list[int]]):
    """The batches of indices that ``fit`` takes in each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return -(-SIZE // BATCH)

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        with seeded(0, self.epoch, 1):
            order = torch.randperm(SIZE)
        yield from (index.tolist() for index in order.split(BATCH))


class Stream(IterableDataset):
    """Examples one after another, in the order of ``fit``."""

    def __init__(self, *entries: Tensor) -> None:
        self.entries, self.order = entries, Order()

    def __iter__(self) -> Iterator[Any]:
        for batch in self.order:
            for index in batch:
                item = tuple(entry[index] for entry in self.entries)
                yield item if len(item) > 1 else item[0]


class Batches:
    """An iterable of batches that starts anew."""

    def __init__(self, *entries: Tensor) -> None:
        self.entries, self.order = entries, Order()

    def __iter__(self) -> Iterator[Any]:
        for index in self.order:
            yield tuple(entry[index] for entry in self.entries)


def on_disk(folder: Path, *entries: Tensor) -> Any:
    arrays = []
    for index, entry in enumerate(entries):
        path = folder / f"{index}.npy"
        np.save(path, entry.numpy())
        arrays.append(np.load(path, mmap_mode="r"))
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def arrays_of(*entries: Tensor) -> Any:
    return tuple(e.numpy() for e in entries) if len(entries) > 1 else entries[0].numpy()


SOURCES: dict[str, Callable[..., Any]] = {
    "array": lambda folder, *entries: arrays_of(*entries),
    "memmap": on_disk,
    "tensors": lambda folder, *entries: TensorDataset(*entries),
    "items": lambda folder, *entries: Items(*entries),
    "stream": lambda folder, *entries: Stream(*entries),
    "batches": lambda folder, *entries: Batches(*entries),
    "loader": lambda folder, *entries: DataLoader(Items(*entries), batch_sampler=Order()),
}
BATCHED = ("batches", "loader")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("with_context", [False, True])
def test_the_weights_are_the_same_from_each_source(
    source: str, with_context: bool, tmp_path: Path
) -> None:
    entries: tuple[Tensor, ...]
    if with_context:
        entries = (torch.rand(SIZE, 3, 2) < 0.5).float(), torch.randint(4, (SIZE,))
        start: Pair = labelled()
    else:
        entries, start = (binary(SIZE),), bernoulli_vae()
    pairs = [copy.deepcopy(start) for _ in range(2)]
    given = entries if with_context else entries[0]
    data = SOURCES[source](tmp_path, *entries)
    test = given if source in BATCHED else SOURCES[source](tmp_path, *entries)
    histories = [fit(pairs[0], given, test=given, epochs=EPOCHS, batch_size=BATCH)]
    sized = {} if source in BATCHED else {"batch_size": BATCH}
    if source == "stream":
        test = given
    histories.append(fit(pairs[1], data, test=test, epochs=EPOCHS, **sized))
    for a, b in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert histories[0].cost == histories[1].cost
    if not sized:  # The test set is then in batches of the default size.
        return
    assert histories[0].test_cost == histories[1].test_cost


def test_what_a_loader_draws_changes_no_noise() -> None:
    """Examples that are drawn as they are taken leave the noise of the steps as it was."""

    class Noisy(Items):
        def __getitem__(self, index: int) -> Any:
            torch.rand(3)
            return super().__getitem__(index)

    x, start = binary(SIZE), bernoulli_vae()
    vaes = [copy.deepcopy(start) for _ in range(2)]
    for vae, data in zip(vaes, (x, Noisy(x)), strict=True):
        fit(vae, data, epochs=EPOCHS, batch_size=BATCH)
    for a, b in zip(vaes[0].parameters(), vaes[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_shuffling_loader_repeats_by_the_seed() -> None:
    x, start = binary(SIZE), bernoulli_vae()
    vaes = [copy.deepcopy(start) for _ in range(3)]
    for vae, seed in zip(vaes, (1, 1, 2), strict=True):
        torch.rand(1)
        fit(vae, DataLoader(TensorDataset(x), BATCH, shuffle=True), epochs=EPOCHS, seed=seed)
    for a, b, c in zip(*(vae.parameters() for vae in vaes), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_transform_makes_x_and_draws_from_the_noise() -> None:
    levels, start = (255 * binary(SIZE)).byte(), bernoulli_vae()
    vaes = [copy.deepcopy(start) for _ in range(3)]
    fit(vaes[0], levels, epochs=EPOCHS, batch_size=BATCH, pixels="binary")

    def drawn(x: Tensor) -> Tensor:
        return fresh_pixels(x, "binary")

    fit(vaes[1], levels, epochs=EPOCHS, batch_size=BATCH, transform=drawn)
    fit(vaes[2], levels > 0, epochs=EPOCHS, batch_size=BATCH, transform=lambda x: x.float())
    one, two, three = ([*vae.parameters()] for vae in vaes)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_a_transform_may_leave_out_the_context() -> None:
    x, y = binary(SIZE), torch.randint(3, (SIZE,))
    vae = bernoulli_vae()
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        fit(vae, TensorDataset(x, y), epochs=1, batch_size=BATCH)
    fit(vae, TensorDataset(x, y), epochs=1, batch_size=BATCH, transform=lambda batch: batch[0])


def test_rows_of_a_memmap_are_those_asked_for(tmp_path: Path) -> None:
    x = torch.arange(20).reshape(10, 2)
    source = source_of(
        "train", on_disk(tmp_path, x, x[:, 0]), batch_size=3, seed=0, epochs=1, device=x.device
    )
    seen = [*source.epoch(1)]
    with seeded(0, 1, 1):
        order = torch.randperm(10)
    assert torch.equal(torch.cat([batch[0] for batch in seen]), x[order])
    assert torch.equal(torch.cat([batch[1] for batch in seen]), x[order, 0])
    assert [len(batch[0]) for batch in source.epoch(0)] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([batch[0] for batch in source.epoch(0)]), x)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_memmap_trains_without_being_in_memory(tmp_path: Path) -> None:
    """A file of 1 GiB adds less than 300 MiB of anonymous memory."""
    code = f"""
import re, numpy as np, torch
from pathlib import Path
from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
x = np.lib.format.open_memmap({str(tmp_path / "x.npy")!r}, "w+", np.uint8, (2**18, 4096))
x[::97, ::13] = 255
x.flush()
del x
x = np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r")
def run(data):
    vae = VAE(
        priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, (), 4096)),
        posteriors.Normal(networks.MLP(4096, (), 4)),
    )
    return fit(vae, data, epochs=1, batch_size=512, pixels="binary", compile=False)
run(np.array(x[:2048]))
before, most = anonymous(), 0.0
import threading
done = threading.Event()
def watch():
    global most
    while not done.wait(0.05):
        most = max(most, anonymous())
thread = threading.Thread(target=watch); thread.start()
run(x)
done.set(); thread.join()
print(most - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout.split()[-1]) < 300


def test_arrays_of_any_layout_are_taken() -> None:
    x, start = binary(SIZE), bernoulli_vae()
    backwards = x.numpy()[::-1].copy()[::-1]
    swapped = x.numpy().astype(">f4")
    fixed = x.numpy().copy()
    fixed.flags.writeable = False
    runs = []
    for data in (x, backwards, swapped, fixed, np.asfortranarray(x.numpy())):
        vae = copy.deepcopy(start)
        fit(vae, data, epochs=1, batch_size=BATCH)
        runs.append(torch.cat([p.flatten() for p in vae.parameters()]))
    assert all(torch.equal(runs[0], run) for run in runs[1:])


def test_a_subclass_gives_its_own_examples_and_a_list_its_batches() -> None:
    class Flipped(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return (1 - self.tensors[0][index],)

    x, start = binary(SIZE), bernoulli_vae()
    sources: list[Any] = [1 - x, Flipped(x)]
    runs = []
    for data in sources:
        vae = copy.deepcopy(start)
        fit(vae, data, epochs=1, batch_size=BATCH)
        runs.append(torch.cat([p.flatten() for p in vae.parameters()]))
    assert torch.equal(*runs)
    batches = [(part,) for part in x.split(BATCH)]
    assert len(fit(start, batches, epochs=2).cost) == 2


# What is refused, and when.


def test_fewer_examples_than_a_batch_are_one_batch() -> None:
    x, vae = binary(6), bernoulli_vae()
    with pytest.warns(UserWarning, match="batch_size: got 128 for 6 training examples, so each"):
        history = fit(vae, x, epochs=2)
    assert len(history.cost) == 2


def generator() -> Iterator[Tensor]:
    yield from binary(SIZE).split(BATCH)


class Ending:
    """Gives batches in its first iteration only."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __iter__(self) -> Iterator[Tensor]:
        self.left -= 1
        return iter(binary(SIZE).split(BATCH) if self.left >= 0 else ())


def test_streams_that_end_are_named() -> None:
    vae = bernoulli_vae()
    assert len(fit(vae, generator(), epochs=1).cost) == 1
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match="train: got a generator, which can be iterated once, fo"):
        fit(vae, generator(), epochs=2)
    with pytest.raises(ValueError, match="test: got a generator, which can be iterated once"):
        fit(vae, binary(8), test=generator(), epochs=2, batch_size=4)
    with pytest.raises(ValueError, match="train: got no batches, expected at least one"):
        fit(vae, Ending(0), epochs=2)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="train: got no batches in epoch 2, expected an iterable"):
        fit(vae, Ending(1), epochs=2)


def test_a_frame_is_named_before_its_columns_are() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    with pytest.raises(TypeError, match=r"train: got a DataFrame, .*Table\.from_frame"):
        fit(bernoulli_vae(), frame, epochs=1)


def test_wrong_data_are_named() -> None:
    vae, x = bernoulli_vae(), binary(8)
    for data, message in (
        ({"x": x}, "train: got a dict, expected a tensor, a NumPy array"),
        ("data.npy", "train: got a str, expected a tensor"),
        (3, "train: got an int, expected a tensor"),
        (DataLoader([{"x": row} for row in x], 4), "train: got a dict as a batch, expected a ten"),
        (x.to_sparse_csr(), "train: got a tensor of layout torch.sparse_csr, expected a dense on"),
        (x.to_sparse(), "train: got a tensor of layout torch.sparse_coo"),
        (x.long(), "train: got torch.int64, expected floating-point x, uint8 levels with pixels"),
        (x.bool(), "train: got torch.bool, expected floating-point x"),
        (np.ma.masked_array(x.numpy(), mask=x.bool().numpy()), "train: got a masked array"),
        (x.numpy().astype(object), "train: got an array of object, expected numbers"),
        (x.double(), "train: got torch.float64, expected the VAE's torch.float32"),
        ([x, "y"], "context: got a str as entry 0, expected a torch.Tensor"),
        (Items(x.double()), "train: got torch.float64, expected the VAE's torch.float32"),
    ):
        with pytest.raises(TypeError, match=message):
            fit(vae, data, epochs=1, **({} if isinstance(data, DataLoader) else {"batch_size": 4}))
    loader = DataLoader(TensorDataset(x), 4)
    with pytest.raises(ValueError, match="batch_size: got 128 with a DataLoader as train, which"):
        fit(vae, loader, epochs=1, batch_size=128)
    with pytest.raises(ValueError, match="train: got an empty data set"):
        fit(vae, Items(x[:0]), epochs=1, batch_size=4)
    other = (x, torch.zeros(8, device="meta"))
    with pytest.raises(ValueError, match="context: got entry 0 on meta, expected cpu, the device"):
        fit(vae, other, epochs=1, batch_size=4)


def test_each_batch_of_a_stream_is_checked() -> None:
    vae, x = bernoulli_vae(), binary(12)
    late = x.clone()
    late[9, 2] = 0.5
    for data in (DataLoader(TensorDataset(late), 4), Items(late)):
        sized = {} if isinstance(data, DataLoader) else {"batch_size": 4}
        with pytest.raises(ValueError, match=r"train: got 0\.5 at 1 of 24 places"):
            fit(vae, data, epochs=1, **sized)
