"""A process that is forked from one that has compiled: Inductor's workers are not in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import needs_compiler

PROGRAM = """
import json, multiprocessing, warnings
import torch
from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors

def trained(width, compile, epochs):
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (width,), 4)),
        posteriors.Normal(networks.MLP(4, (width,), 4)),
    )
    x = torch.bernoulli(torch.full((64, 4), 0.5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cost = fit(vae, x, epochs=epochs, batch_size=32, compile=compile).cost[-1]
        except RuntimeError as error:
            return type(error).__name__, [str(error)]
    return cost, [str(w.message) for w in caught]

trained(8, True, 2)
found = {"here": trained(6, False, 1010)}
with multiprocessing.get_context("fork").Pool(1) as pool:
    for name, compile, epochs in (("auto", "auto", 1010), ("strict", True, 2)):
        found[name] = pool.apply_async(trained, (6, compile, epochs)).get(120)
print(json.dumps(found))
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_it_runs_uncompiled_and_says_so(tmp_path: Path) -> None:
    """A cache of its own: code that lies there already would hide that nothing compiles."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["auto"][0] == found["here"][0]
    (line,) = found["auto"][1]
    assert line.startswith("the objective runs uncompiled: this process was forked")
    kind, (message,) = found["strict"]
    assert kind == "NotCompiled"
    assert "expected one that was spawned" in message
