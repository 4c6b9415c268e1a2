"""Agreement of clusters with labels, by the best matching."""

import itertools

import pytest
import torch

from pyro_vae.evaluation import cluster_accuracy


def test_it_is_the_best_over_all_matchings() -> None:
    clusters, labels = torch.randint(4, (50,)), torch.randint(4, (50,))
    best = max(
        (torch.tensor(matching)[clusters] == labels).double().mean().item()
        for matching in itertools.permutations(range(4))
    )
    assert cluster_accuracy(clusters, labels) == pytest.approx(best)


def test_names_of_clusters_do_not_matter() -> None:
    labels = torch.randint(5, (40,))
    assert cluster_accuracy(10 - labels, labels) == 1.0
    probabilities = torch.nn.functional.one_hot(labels, 7).double() + 0.1
    assert cluster_accuracy(probabilities, labels) == 1.0


def test_more_clusters_than_labels_and_fewer() -> None:
    """A label for each of some clusters; the others are wrong."""
    clusters, labels = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 1, 1, 0, 0])
    assert cluster_accuracy(clusters, labels) == 4 / 5
    assert cluster_accuracy(labels, clusters) == 4 / 5
    assert cluster_accuracy(torch.zeros(5, dtype=torch.long), labels) == 3 / 5


@pytest.mark.parametrize(
    ("clusters", "labels", "error", "message"),
    [
        (torch.tensor([0, 1]), torch.tensor([0]), ValueError, "labels: got 1 for 2 clusters"),
        (torch.tensor([0, -1]), torch.tensor([0, 1]), ValueError, "clusters: got -1"),
        (torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), TypeError, "labels: got torch.float32"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), TypeError, "clusters: got torch.float32"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), ValueError, "some of them NaN"),
        (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), ValueError,
         "clusters: got no examples"),
        ([0, 1], torch.tensor([0, 1]), TypeError, "clusters: got a list, expected a torch.Tensor"),
    ],
)  # fmt: skip
def test_what_is_no_clustering_is_refused(
    clusters: torch.Tensor, labels: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cluster_accuracy(clusters, labels)
