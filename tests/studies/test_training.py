"""Training for a study: an interruption ends the row, and keeps no part of it."""

import pytest

from pyro_vae import VAE
from pyro_vae.studies.engine.training import scored

from ..models import Interrupted, bernoulli_vae, binary


def test_an_interrupted_estimate_is_not_that_of_a_row() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    assert scored(vae, binary(200), 100, seed=0).complete
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        scored(vae, binary(200), 100, seed=0)
