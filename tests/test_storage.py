"""Saving and loading: bit for bit, and nothing but the right thing."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae import VAE, likelihoods, load, networks, posteriors, presets, priors, save

from .models import bernoulli_vae


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_round_trips_bit_for_bit(name: str, tmp_path: Path) -> None:
    for pixels in presets.get(name).pixels:
        vae = presets.build(name, z_dim=3, shape=(5, 4), pixels=pixels)
        save(vae, tmp_path / pixels)
        state = torch.get_rng_state()
        loaded = load(tmp_path / pixels)
        assert torch.equal(torch.get_rng_state(), state)
        assert loaded.preset == vae.preset
        assert repr(loaded) == repr(vae)
        assert loaded.state_dict().keys() == vae.state_dict().keys()
        for key, value in vae.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_a_vae_of_ones_own_is_loaded_into_one(tmp_path: Path) -> None:
    vae, other = bernoulli_vae(), bernoulli_vae()
    save(vae, tmp_path)
    with pytest.raises(ValueError, match="into: got None, expected the pair"):
        load(tmp_path)
    assert load(tmp_path, into=other) is other
    x = torch.bernoulli(torch.full((3, 6), 0.5))
    assert torch.equal(vae.reconstruct(x), other.reconstruct(x))


def test_a_preset_that_was_changed_is_no_preset(tmp_path: Path) -> None:
    vae = presets.build("pyro-mlp", z_dim=3, shape=6)
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(3, (400,), 6, nn.Tanh))
    save(vae, tmp_path)
    with pytest.raises(ValueError, match="into: got None"):
        load(tmp_path)


def test_batch_statistics_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    class Shared(nn.Module):
        """A prior around the posterior's own mean of a trained pseudo-input."""

        def __init__(self, posterior: nn.Module) -> None:
            super().__init__()
            self.posterior = posterior
            self.pseudo_input = nn.Parameter(torch.rand(1, 6))

        def forward(self) -> dist.Distribution:
            base = self.posterior(self.pseudo_input).base_dist
            return dist.Normal(base.loc[0], base.scale[0]).to_event(1)

    def make() -> VAE:
        encoder = networks.MLP(6, (4,), 2)
        encoder.layers.insert(1, nn.BatchNorm1d(4))
        posterior = posteriors.Normal(encoder)
        return VAE(Shared(posterior), likelihoods.Bernoulli(networks.MLP(1, (), 6)), posterior)

    vae, other = make(), make()
    vae.posterior(torch.rand(5, 6))
    save(vae, tmp_path)
    load(tmp_path, into=other)
    for key, value in vae.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    assert other.prior.posterior is other.posterior


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    vae = bernoulli_vae()
    save(vae, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds another run"):
        save(bernoulli_vae(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    save(bernoulli_vae(), tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_configuration_says_what_repeats_the_run(tmp_path: Path) -> None:
    save(presets.build("conv", shape=(8, 8)), tmp_path, training={"epochs": 3, "seed": 1})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["preset"] == {"name": "conv", "z_dim": 20, "shape": [8, 8], "pixels": "binary"}
    assert config["training"] == {"epochs": 3, "seed": 1}
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or (
        config["versions"]["torch"] == torch.__version__
    )
    assert {"python", "pyro_vae", "pyro-ppl"} <= set(config["versions"])


def test_what_a_preset_cannot_say_is_not_forgotten(tmp_path: Path) -> None:
    vae = presets.build("pyro-mlp", z_dim=2, shape=6)
    vae.name = "mine"
    save(vae, tmp_path / "name")
    assert load(tmp_path / "name").name == "mine"
    save(vae.double(), tmp_path / "double")
    with pytest.raises(ValueError, match="into: got None"):
        load(tmp_path / "double")
    config = json.loads((tmp_path / "name" / "config.json").read_text())
    for damage in ("pyro-mlp", {}, {**config["preset"], "colour": 1}):
        text = json.dumps({**config, "preset": damage})
        (tmp_path / "name" / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json: damaged preset"):
            load(tmp_path / "name")


def test_same_shapes_of_another_structure_are_refused(tmp_path: Path) -> None:
    vae = bernoulli_vae()
    save(vae, tmp_path)
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(1, (8,), 6, nn.ReLU))
    with pytest.raises(
        ValueError, match=r"into: got .*ReLU.* where there is .*, expected the same st"
    ):
        load(tmp_path, into=vae)


def test_a_failed_save_leaves_the_former_run(tmp_path: Path) -> None:
    save(bernoulli_vae(), tmp_path / "old")
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    for folder in ("old", "new"):
        with pytest.raises(TypeError):
            save(bernoulli_vae(), tmp_path / folder, training={"set": {1}}, overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_what_is_no_vae_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="vae: got a Linear, expected a VAE"):
        save(nn.Linear(2, 2), tmp_path)
    assert not list(tmp_path.iterdir())
    save(bernoulli_vae(), tmp_path)
    with pytest.raises(TypeError, match="into: got a Linear, expected a VAE"):
        load(tmp_path, into=nn.Linear(2, 2))


def test_a_source_tree_that_is_not_installed_saves(tmp_path: Path) -> None:
    """The version comes from the source, not from the metadata of an installation."""
    shutil.copytree(Path(pyro_vae.__file__).parent, tmp_path / "source" / "pyro_vae")
    code = """
import importlib.metadata as metadata, sys

find = metadata.distribution

def distribution(name):
    if name.replace("-", "_") == "pyro_vae":
        raise metadata.PackageNotFoundError(name)
    return find(name)

metadata.distribution = distribution
import pyro_vae

pyro_vae.save(pyro_vae.presets.build("iwae-mlp", z_dim=1, shape=6), sys.argv[1])
print(pyro_vae.__file__)
"""
    paths = [tmp_path / "source", sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    run = subprocess.run(
        [sys.executable, "-S", "-c", code, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(run.stdout.strip()).is_relative_to(tmp_path)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["versions"]["pyro_vae"] == pyro_vae.__version__


def state(vae: VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    vae = bernoulli_vae()
    before = state(vae)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load(tmp_path, into=vae)
    save(bernoulli_vae(), tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[:-10], b"not tensors", b""):
        weights.write_bytes(damage)
        with pytest.raises(ValueError, match=r"model.safetensors: damaged"):
            load(tmp_path, into=vae)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors"):
        load(tmp_path, into=vae)
    for foreign in (bernoulli_vae(z_dim=2), presets.build("iwae-mlp", z_dim=1, shape=6)):
        save(foreign, tmp_path, overwrite=True)
        with pytest.raises(ValueError, match=r"into: got .* where there is .*expected the same s"):
            load(tmp_path, into=vae)
        # Without the structure, as from another version of torch, names and shapes must do.
        config = json.loads((tmp_path / "config.json").read_text())
        config["versions"]["torch"] = "1.0"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="parameters of another model"):
            load(tmp_path, into=vae)
    save(bernoulli_vae().double(), tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"parameters of another model: .* is torch.float64"):
        load(tmp_path, into=vae)
    assert torch.equal(state(vae), before)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: damaged"):
        load(tmp_path, into=vae)
    (tmp_path / "config.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not a configuration of format 1"):
        load(tmp_path, into=vae)


def test_names_of_priors_without_state_stay_out(tmp_path: Path) -> None:
    """The standard normal has nothing to save: its z_dim is the configuration's."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), 3), scale="shared"),
        posteriors.Normal(networks.MLP(3, (), 4)),
    )
    assert not [key for key in vae.state_dict() if key.startswith("prior")]
    assert "likelihood.raw_scale" in vae.state_dict()
