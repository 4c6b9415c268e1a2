"""Networks over sequences, whose lengths are the context: trained compiled and not."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, log_likelihood, networks, optim, posteriors, priors
from pyro_vae.objectives import Compiled, trace_elbo

STEPS, NUMBERS = 5, 3


class Recurrent(nn.Module):
    """The mean over time of a recurrent or a transformer layer, up to each sequence's length."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.out_shape = torch.Size((4,))
        self.up, self.out = nn.Linear(NUMBERS, 8), nn.Linear(8, 4)
        if kind == "Transformer":
            self.layer: nn.Module = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        else:
            self.layer = getattr(nn, kind)(8, 8, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch = x.shape[:-2]
        there = torch.arange(STEPS) < lengths[..., None]
        inputs = self.up(x.reshape(-1, STEPS, NUMBERS))
        if isinstance(self.layer, nn.TransformerEncoderLayer):
            hidden = self.layer(inputs, src_key_padding_mask=~there.reshape(-1, STEPS))
        else:
            hidden, _ = self.layer(inputs)
        weights = there.to(x.dtype)[..., None]
        mean = (hidden.reshape(*batch, STEPS, 8) * weights).sum(-2) / weights.sum(-2)
        return self.out(mean)


def sequences(kind: str) -> tuple[VAE, tuple[Tensor, Tensor]]:
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (8,), (STEPS, NUMBERS)), scale=1.0),
        posteriors.Normal(Recurrent(kind)),
    )
    return vae, (torch.randn(20, STEPS, NUMBERS), torch.randint(1, STEPS + 1, (20,)))


@pytest.mark.slow
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "Transformer"])
def test_networks_over_sequences_train_compiled_and_not(kind: str) -> None:
    vae, data = sequences(kind)
    twin = copy.deepcopy(vae)
    # Adam would make steps of the rounding in gradients that are zero, as those of keys' biases.
    compiled, plain = (
        fit(
            own,
            data,
            epochs=3,
            batch_size=10,
            compile=own is vae,
            optim=optim.from_torch(torch.optim.SGD, lr=1e-2),
        )
        for own in (vae, twin)
    )
    assert compiled.cost == pytest.approx(plain.cost, rel=1e-4)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert log_likelihood(vae, data, 20, seed=0).values.shape == (20,)


def test_numbers_after_the_end_of_a_sequence_do_not_matter() -> None:
    vae, (x, lengths) = sequences("RNN")
    beyond = torch.arange(STEPS) >= lengths[:, None]
    changed = torch.where(beyond[..., None], torch.full_like(x, 9.0), x)
    # A causal layer, whose mean leaves the rest out.
    torch.testing.assert_close(vae.embed(x, lengths), vae.embed(changed, lengths))
    assert not torch.equal(vae.embed(x, lengths), vae.embed(x, torch.full_like(lengths, STEPS)))


@pytest.mark.parametrize(
    "place",
    ["tracing", *(pytest.param(p, marks=pytest.mark.slow) for p in ("compiling", "running"))],
)
def test_auto_never_raises_where_uncompiled_code_runs(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, the steps are those of uncompiled code."""

    def fails(*args: Any) -> Any:
        raise KeyError(place)

    instead = {
        "tracing": ("pyro_vae.compile.graph.trace", fails),
        "compiling": ("pyro_vae.compile.inductor.compile_by_inductor", fails),
        "running": (
            "pyro_vae.compile.inductor.compile_by_inductor",
            lambda traced, inputs: lambda *tensors: (traced(*tensors), fails()),
        ),
    }[place]
    monkeypatch.setattr(*instead)
    vae, data = sequences("GRU")
    vae.posterior.network.layer.register_buffer("calls", torch.zeros(()))
    twin = copy.deepcopy(vae)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = Compiled(trace_elbo(), strict=False)
        history = fit(vae, data, epochs=2, batch_size=10, objective=own)
    assert ["the objective runs uncompiled" in str(w.message) for w in caught] == [True]
    plain = fit(twin, data, epochs=2, batch_size=10, compile=False)
    assert history.cost == plain.cost
    with pytest.raises(Exception, match=place):
        fit(twin, data, epochs=1, batch_size=10, compile=True)
