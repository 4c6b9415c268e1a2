"""What a run's folder gives back."""

from pathlib import Path

import pytest
import torch

from pyro_vae import datasets, presets, save
from pyro_vae.datasets import Dataset
from pyro_vae.runs import first_of, is_conditional, load_any, load_data, open_run, with_labels

SETTINGS = {"data": "digits", "pixels": "binary"}


def test_a_run_is_read_again(tmp_path: Path, digits: Dataset) -> None:
    vae = presets.build("bernoulli-mlp", shape=digits.shape)
    save(vae, tmp_path, training=SETTINGS)
    run = open_run(tmp_path, None)
    for name, value in vae.state_dict().items():
        assert torch.equal(run.vae.state_dict()[name], value)
    assert run.settings == SETTINGS
    assert torch.equal(run.dataset.test, digits.test)
    assert run.folder == tmp_path


def test_a_run_of_another_maker_is_refused(tmp_path: Path) -> None:
    save(presets.build("bernoulli-mlp", shape=(28, 28)), tmp_path)
    with pytest.raises(ValueError, match="was not written by pyro-vae train"):
        open_run(tmp_path, None)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        open_run(tmp_path / "none", None)


def test_parameters_have_to_be_finite(tmp_path: Path) -> None:
    vae = presets.build("bernoulli-mlp", shape=(28, 28))
    with torch.no_grad():
        next(iter(vae.parameters())).view(-1)[0] = torch.nan
    save(vae, tmp_path, training=SETTINGS)
    with pytest.raises(ValueError, match="parameters that are not finite"):
        open_run(tmp_path, None)


def test_all_images_are_the_first_of_them(digits: Dataset) -> None:
    assert len(first_of("examples", digits.test, None)) == len(digits.test)
    assert len(first_of("examples", digits.test, len(digits.test))) == len(digits.test)
    with pytest.raises(ValueError, match="examples: got 2001, expected at most the 2000 images"):
        first_of("examples", digits.test, len(digits.test) + 1)


@pytest.mark.parametrize(
    ("name", "takes", "conditional"),
    [
        ("conv", False, False),
        ("conditional-mlp", True, True),
        ("semi-supervised-mlp", True, False),
    ],
)
def test_labels_go_where_they_are_taken(
    name: str, takes: bool, conditional: bool, digits: Dataset
) -> None:
    vae = presets.build(name, shape=digits.shape)
    given = with_labels(vae, digits.test[:5], digits.test_labels)
    assert isinstance(given, tuple) == takes
    assert is_conditional(vae) == conditional
    if isinstance(given, tuple):
        assert torch.equal(given[1], digits.test_labels[:5])


def test_data_are_loaded_by_their_name(tmp_path: Path) -> None:
    assert load_any("digits", None).shape == load_data("digits", None).shape == (28, 28)
    with pytest.raises(ValueError, match=f"one of {', '.join(datasets.names())}"):
        load_data("digit", None)
    with pytest.raises(ValueError, match="root: got"):
        load_any(str(tmp_path / "people.csv"), tmp_path)
