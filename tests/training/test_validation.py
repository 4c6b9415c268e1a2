"""Pyro validates the first loss of each shape and mode, and explains a later one that is NaN."""

import pytest
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors
from pyro_vae.training import History, NonFiniteLoss


class Seen(nn.Module):
    """Notes whether Pyro validates, and passes on NaN for a mark."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append((len(x), is_validation_enabled()))
        return self.layer(x + torch.where(x[..., :1] == 2.0, torch.nan, 0.0))


def made() -> VAE:
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), (6,)), scale=0.5),
        posteriors.Normal(Seen()),
    )


def test_the_first_loss_of_each_shape_and_mode_is_validated() -> None:
    vae = made()

    def freeze(pair: VAE, history: History) -> None:
        pair.likelihood.eval()

    fit(vae, torch.randn(20, 6), epochs=3, batch_size=8, compile=False, callbacks=[freeze])
    first = [(8, True), (8, False), (4, True)]
    # The callback changes a mode after the first epoch, and nothing after the second.
    seen = vae.posterior.network.seen
    assert seen[0] == (4, True), "the check of the last batch"
    assert seen[1:] == [*first, *first, (8, False), (8, False), (4, False)]
    assert is_validation_enabled()


def test_a_later_loss_is_explained_by_validation() -> None:
    x, vae = torch.randn(80, 6), made()
    fit(vae, x, epochs=1, batch_size=8, compile=False)
    x[70, 0] = 2.0  # in the last batches of the order of seed 0, as the next line holds
    with pytest.raises(NonFiniteLoss, match=r"batch ([2-9]|10): .*: .*Expected parameter loc"):
        fit(vae, x, epochs=1, batch_size=8, compile=False)


class Rare(nn.Module):
    """NaN for one draw of z in some hundred, and so for the noise of one loss alone."""

    out_shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 6)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z) + torch.where(z[..., :1] > 3.0, torch.nan, 0.0)


def test_the_explanation_is_of_the_same_noise() -> None:
    vae = made()
    vae.likelihood = likelihoods.Gaussian(Rare(), scale=0.5)
    with pytest.raises(NonFiniteLoss, match="Expected parameter loc"):
        fit(vae, torch.randn(4000, 6), epochs=5, batch_size=8, compile=False)
