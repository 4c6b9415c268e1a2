"""Labels of which some are kept."""

import pytest
import torch

from pyro_vae.datasets import keep_labels


def test_few_labels_are_of_each_class() -> None:
    labels = torch.randint(5, (400,))
    kept = keep_labels(labels, 20, seed=0)
    known = kept >= 0
    assert kept[known].bincount().tolist() == [4] * 5
    assert torch.equal(kept[known], labels[known])
    assert torch.equal(kept, keep_labels(labels, 20, seed=0))
    assert not torch.equal(kept, keep_labels(labels, 20, seed=1))
    everything = keep_labels(labels[:5].new_tensor([0, 1, 2, 2]), 3, seed=None)
    assert sorted(everything.tolist()) == [-1, 0, 1, 2]


def test_counts_that_do_not_fit_are_named() -> None:
    labels = torch.tensor([0, 0, 1, -1])
    with pytest.raises(ValueError, match="count: got 3 for 2 classes, expected as many"):
        keep_labels(labels, 3, seed=0)
    with pytest.raises(ValueError, match="count: got 4, which are 2 of each class"):
        keep_labels(labels, 4, seed=0)
    with pytest.raises(TypeError, match=r"labels: got torch\.float32"):
        keep_labels(labels.float(), 2, seed=0)
