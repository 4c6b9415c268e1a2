"""The memory that `fit` takes before its first step."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from torch import nn
from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors

class Encoder(nn.Module):
    out_shape = (4,)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x.mean((-2, -1)))

def most():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def build(side):
    likelihood = likelihoods.Bernoulli(networks.MLP(2, (), (3, side, side)))
    return VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(Encoder()))

def trained(side):
    x = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    fit(build(side), x, epochs=1, batch_size=1, pixels="binary", compile=False)

trained(8)  # what Python and torch import on the way
before = most()
trained(512)
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the module resource")
def test_the_check_of_the_pixels_takes_them_in_parts() -> None:
    """All 256 levels at every pixel at once would take 0.8 GB in float32."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 256 * 2**20
