"""Work that is recorded and repeated; on a GPU as a CUDA graph."""

import pytest
import torch
from torch import Tensor

from pyro_vae.compile import Recording, Repeated, Replayed, read_later, recorder

KINDS = [
    pytest.param(Repeated, "cpu", id="cpu"),
    pytest.param(Recording, "cuda", id="cuda", marks=pytest.mark.cuda),
]


@pytest.mark.parametrize(("kind", "device"), KINDS)
def test_work_is_repeated_on_the_values_of_the_time(kind: type, device: str) -> None:
    place = torch.device(device)
    total, added = torch.zeros(3, device=place), torch.ones(3, device=place)

    def work() -> None:
        total.add_(added)

    work()
    first = kind(work, place)

    def twice() -> None:
        work()
        work()

    both = kind(twice, place, first.pool)
    assert total.tolist() == [1.0] * 3  # Recording does nothing yet.
    first.replay()
    added.fill_(10.0)
    both.replay()
    assert total.tolist() == [22.0] * 3


@pytest.mark.parametrize(("kind", "device"), KINDS)
def test_noise_is_that_of_the_work_itself(kind: type, device: str) -> None:
    place = torch.device(device)
    out = torch.zeros(100, device=place)

    def work() -> None:
        out.copy_(torch.randn(100, device=place))

    def two() -> list[Tensor]:
        found = []
        for _ in range(2):
            work()
            found.append(out.clone())
        return found

    torch.manual_seed(3)
    plain = two()
    recording = kind(work, place)
    torch.manual_seed(3)
    for expected in plain:
        recording.replay()
        assert torch.equal(out, expected)


@pytest.mark.parametrize(("kind", "device"), KINDS)
def test_a_replayed_function_takes_arguments(kind: type, device: str) -> None:
    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        return [x + y, x * y]

    x, y = torch.ones(2, device=device), torch.full((2,), 3.0, device=device)
    function(x, y)
    replayed = Replayed(function, [x, y], kind)
    first = replayed(x, y)
    second = replayed(2 * x, y)
    assert [t.tolist() for t in first] == [[4.0, 4.0], [3.0, 3.0]]
    assert [t.tolist() for t in second] == [[5.0, 5.0], [6.0, 6.0]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_value_is_read_as_it_was(device: str) -> None:
    tensor = torch.ones(2, device=device)
    read = read_later(tensor)
    tensor.zero_()
    assert read().tolist() == [1.0, 1.0]
    assert (recorder(tensor.device) is None) == (device == "cpu")
