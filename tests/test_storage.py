"""Saving and loading: bit for bit, and nothing but the right thing."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import pyro_vae
from pyro_vae import VAE, likelihoods, load, networks, posteriors, presets, priors, save
from pyro_vae.storage import DamagedRun, check_savable, read_config
from pyro_vae.utils.sealed import sealed_config

from .vaes import IMAGE_PRESETS, bernoulli_vae


@pytest.mark.parametrize("name", IMAGE_PRESETS)
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
    preset = read_config(tmp_path / "name")["preset"]
    huge = ({"z_dim": 10**9}, {"z_dim": 10**30}, {"shape": [10**9]}, {"shape": [10**9, 10**9]})
    for damage in ("pyro-mlp", {}, *({**preset, **odd} for odd in ({"colour": 1}, *huge))):
        edit(tmp_path / "name", preset=damage)
        with pytest.raises(DamagedRun, match=r"(damaged preset|of another model).*, expected"):
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


@pytest.mark.slow
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


def edit(folder: Path, **entries: Any) -> None:
    """Changes a configuration, with its checksum."""
    config = json.loads((folder / "config.json").read_text()) | entries
    config.pop("sha256")
    (folder / "config.json").write_bytes(sealed_config(config))


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
        edit(tmp_path, versions={"torch": "1.0"})
        with pytest.raises(ValueError, match="parameters of another model"):
            load(tmp_path, into=vae)
    save(bernoulli_vae().double(), tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"another model: .* is torch.float64.*; expected the"):
        load(tmp_path, into=vae)
    assert torch.equal(state(vae), before)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: damaged"):
        load(tmp_path, into=vae)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DamagedRun, match=r"config.json: has no checksum"):
        load(tmp_path, into=vae)
    save(bernoulli_vae(), tmp_path, overwrite=True)
    edit(tmp_path, format=99)
    with pytest.raises(DamagedRun, match="not a configuration of format 2"):
        load(tmp_path, into=vae)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        save(presets.build("iwae-mlp", z_dim=1, shape=6), folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(DamagedRun, match=f"{name}: is no file"):
            load(folder)
    (tmp_path / "file").write_text("")
    for overwrite in (False, True):
        with pytest.raises(NotADirectoryError, match="is a file, expected a new"):
            save(bernoulli_vae(), tmp_path / "file", overwrite=overwrite)


class Tied(nn.Module):
    """An encoder and a decoder of one matrix, of which the decoder has a view."""

    out_shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 6))
        self.register_buffer("back", self.weight.detach().t())
        self.register_buffer("part", self.weight.detach()[:1])
        self.register_buffer("twin", self.weight.detach())

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.back)


def test_views_and_tied_tensors_are_saved(tmp_path: Path) -> None:
    def make() -> VAE:
        encoder = posteriors.Normal(networks.MLP(6, (), 4))
        return VAE(priors.StandardNormal(2), likelihoods.Bernoulli(Tied()), encoder)

    vae, other = make(), make()
    save(vae, tmp_path)
    load(tmp_path, into=other)
    assert torch.equal(state(vae), state(other))
    network = other.likelihood.network
    assert network.back.data_ptr() == network.twin.data_ptr() == network.weight.data_ptr()
    assert torch.equal(network.back, network.weight.t())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = [name.rpartition(".")[2] for name in file.keys()]  # noqa: SIM118
    assert "twin" not in names
    assert {"weight", "back", "part"} <= {*names}


def test_numbers_of_numpy_are_written(tmp_path: Path) -> None:
    shape = tuple(np.array([2, 3]))
    vae = presets.build("iwae-mlp", z_dim=np.int64(2), shape=shape)
    save(vae, tmp_path, training={"lr": np.float32(0.5), "deep": [{"n": np.int64(3)}]})
    assert read_config(tmp_path)["training"] == {"lr": 0.5, "deep": [{"n": 3}]}
    assert torch.equal(state(load(tmp_path)), state(vae))


class Extra(nn.Module):
    """A network with a state that is no tensor."""

    out_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_what_cannot_be_saved_is_known_before(tmp_path: Path) -> None:
    vae = bernoulli_vae()
    check_savable(vae)
    assert not list(tmp_path.iterdir())
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(Extra()),
    )
    for act in (check_savable, lambda vae: save(vae, tmp_path / "run")):
        with pytest.raises(TypeError, match=r"_extra_state: got a dict, expected a dense tensor"):
            act(vae)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="training: got a set"):
        check_savable(bernoulli_vae(), {"options": [{1}]})


def mutated(content: bytes, random: Random) -> bytes:
    """Content in which a bit is flipped, a part is lost, repeated or new, or a number changed."""
    at, other = sorted(random.randrange(len(content) + 1) for _ in range(2))
    kind = random.randrange(6)
    if kind == 0:
        place = random.randrange(len(content))
        flipped = content[place] ^ (1 << random.randrange(8))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[other:]
    if kind == 3:
        return content[:other] + content[at:]
    if kind == 4:
        return content[:at] + random.randbytes(random.randrange(1, 9)) + content[at:]
    digits = [i for i, byte in enumerate(content[:2000]) if 48 <= byte <= 57]
    place = random.choice(digits)
    return content[:place] + b"%d" % random.randrange(10**6) + content[place + 1 :]


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_folders_load_the_right_numbers_or_are_refused(tmp_path: Path, count: int) -> None:
    vae = presets.build("iwae-mlp", z_dim=1, shape=2)
    random, right = Random(count), state(vae)
    save(vae, tmp_path, training={"epochs": 3})
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    config = read_config(tmp_path)
    refusals: list[tuple[Path, str]] = []
    for _ in range(count):
        path = random.choice(list(whole))
        path.write_bytes(mutated(whole[path], random))
        try:
            assert read_config(tmp_path) == config
            assert torch.equal(state(load(tmp_path)), right)
        except DamagedRun as error:
            refusals.append((path, str(error)))
        path.write_bytes(whole[path])
    # A mutation may be the file itself, or change a space of the JSON.
    assert len(refusals) > 0.8 * count
    assert all(str(path) in message for path, message in refusals)


def test_names_of_priors_without_state_stay_out(tmp_path: Path) -> None:
    """The standard normal has nothing to save: its z_dim is the configuration's."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), 3), scale="shared"),
        posteriors.Normal(networks.MLP(3, (), 4)),
    )
    assert not [key for key in vae.state_dict() if key.startswith("prior")]
    assert "likelihood.raw_scale" in vae.state_dict()
