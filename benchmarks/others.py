"""Epochs of other libraries: NumPyro, jitted whole, and Pythae's trainer."""

import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from jax.example_libraries import stax
from numpyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE

from .programs import networks


class NumPyro:
    """The VAE of NumPyro's example, 784-400-50 with softplus, an epoch in one jitted loop."""

    def __init__(self, levels: Tensor, batch_size: int) -> None:
        self._size = batch_size
        self._data = jnp.asarray(levels.flatten(1).numpy(), jnp.float32) / 255
        encoder = stax.serial(
            stax.Dense(400),
            stax.Softplus,
            stax.FanOut(2),
            stax.parallel(stax.Dense(50), stax.serial(stax.Dense(50), stax.Softplus)),
        )
        decoder = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(784))

        def model(x: Any) -> None:
            decode = numpyro.module("decoder", decoder, (x.shape[0], 50))
            with numpyro.plate("data", x.shape[0]):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([50]).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

        def guide(x: Any) -> None:
            encode = numpyro.module("encoder", encoder, (x.shape[0], 784))
            loc, scale = encode(x)
            with numpyro.plate("data", x.shape[0]):
                numpyro.sample("z", dist.Normal(loc, scale + 1e-4).to_event(1))

        self._svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
        self._key = jax.random.PRNGKey(0)
        self._state = self._svi.init(self._key, self._data[:batch_size])
        self._train = jax.jit(self._epoch)
        self._evaluate = jax.jit(self._test)

    def _binary(self, key: Any, x: Any) -> Any:
        return jax.random.bernoulli(key, x).astype(x.dtype)

    def _epoch(self, state: Any, key: Any, data: Any) -> Any:
        # Data that are no argument would be a constant, which XLA folds for minutes.
        batches = len(data) // self._size
        order = jax.random.permutation(key, len(data))

        def step(i: Any, carried: Any) -> Any:
            loss, state = carried
            index = jax.lax.dynamic_slice_in_dim(order, i * self._size, self._size)
            x = self._binary(jax.random.fold_in(key, i), data[index])
            state, cost = self._svi.update(state, x)
            return loss + cost, state

        return jax.lax.fori_loop(0, batches, step, (0.0, state))

    def _test(self, state: Any, key: Any, x: Any) -> Any:
        parameters = self._svi.get_params(state)
        return self._svi.loss.loss(key, parameters, self._svi.model, self._svi.guide, x)

    def epoch(self) -> float:
        """Trains for an epoch, on a fresh draw of binary pixels; the cost per example."""
        self._key, key = jax.random.split(self._key)
        loss, self._state = self._train(self._state, key, self._data)
        return float(loss) / len(self._data)

    def test_cost(self, x: Tensor) -> float:
        """-ELBO per example of binary pixels."""
        data = jnp.asarray(x.flatten(1).numpy())
        return float(self._evaluate(self._state, self._key, data)) / len(x)


def pythae_epoch(vae: VAE, x: Tensor, batch_size: int) -> Callable[[], object]:
    """An epoch of Pythae's trainer over the same networks and fixed binary pixels."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    encoder, decoder = networks(vae)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(decoder, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    config = VAEConfig(tuple(x.shape[1:]), latent_dim=50, reconstruction_loss="bce")
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch_size,
        num_epochs=1,
        optimizer_cls="Adam",
        learning_rate=1e-3,
        no_cuda=True,
    )
    labels = torch.from_numpy(np.zeros(len(x)))
    trainer = BaseTrainer(
        PythaeVAE(config, encoder=Encoder(), decoder=Decoder()),
        BaseDataset(x, labels),
        training_config=settings,
    )
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []
    return lambda: trainer.train_step(1)
