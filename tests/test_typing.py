"""What mypy says of a user's script: nothing, or where a call is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = '''"""A VAE of digits, from training to its log-likelihood."""

from pyro_vae import (
    VAE, datasets, elbo, fit, likelihoods, load, log_likelihood, networks, posteriors, priors,
    save,
)

data = datasets.load("digits")
vae = VAE(
    priors.StandardNormal(2),
    likelihoods.Bernoulli(networks.MLP(2, (100,), (28, 28))),
    posteriors.Normal(networks.MLP((28, 28), (100,), 4)),
)
history = fit(vae, data.train, epochs=2, pixels="binary", test=data.test)
x = datasets.binarize(data.test, seed=0)
result = log_likelihood(vae, x, num_samples=100)
print(result.mean, result.stderr, elbo(vae, x).mean, history.cost[-1])
save(vae, "run")
load("run", into=vae)
'''


@pytest.mark.slow
def test_a_users_script_is_clean_and_a_wrong_call_is_not(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT}log_likelihood()\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--cache-dir",
            tmp_path,
            script,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert f":{SCRIPT.count(chr(10)) + 1}: error:" in errors[0]
    assert "log_likelihood" in errors[0]
