"""A conditional VAE of the full MNIST: it draws the digit that it is asked for."""

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import datasets, fit, log_likelihood, presets
from pyro_vae.datasets import Dataset


def classifier(images: Tensor, labels: Tensor) -> nn.Module:
    """A classifier of real grey digits."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(4):
        for index in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(network(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.mark.slow
@pytest.mark.mnist
def test_the_digits_drawn_are_those_asked_for(mnist: Dataset) -> None:
    vae = presets.build("conditional-mlp", shape=mnist.shape)
    train, test = (mnist.train, mnist.train_labels), (mnist.test, mnist.test_labels)
    fit(vae, train, test=test, epochs=15, pixels="binary")
    network = classifier(mnist.train / 255, mnist.train_labels)

    @torch.no_grad()
    def accuracy(images: Tensor, labels: Tensor) -> float:
        return (network(images).argmax(1) == labels).double().mean().item()

    real = accuracy(mnist.test / 255, mnist.test_labels)
    drawn = accuracy(vae.generate(1000, context=torch.arange(10)), torch.arange(10_000) // 1000)
    assert real > 0.97
    assert drawn > real - 0.02

    x, labels = datasets.binarize(mnist.test[:1000], seed=0), mnist.test_labels[:1000]
    permuted = labels[torch.randperm(len(labels))]
    right, wrong = (
        log_likelihood(vae, (x, y), num_samples=100, seed=0).values for y in (labels, permuted)
    )
    difference = right - wrong
    assert difference.mean() > 4 * difference.std() / len(difference) ** 0.5
