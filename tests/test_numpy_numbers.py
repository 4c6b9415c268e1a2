"""Numbers, flags and paths of NumPy and others are taken as Python's own, and stored as those."""

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_vae import (
    datasets,
    elbo,
    fit,
    likelihoods,
    load,
    log_likelihood,
    networks,
    objectives,
    optim,
    posteriors,
    presets,
    priors,
    save,
)
from pyro_vae.comparison import compare
from pyro_vae.objectives import described
from pyro_vae.training import Averaging, EarlyStopping, Recovery
from pyro_vae.utils import checks

from .vaes import Given, bernoulli_vae, binary

NUMBERS = ("float32", "float64", "int64", "a tensor", "an array", "a fraction")

STORED: dict[str, Callable[[Any], Any]] = {
    "free_bits": lambda n: objectives.free_bits(n).nats,
    "beta": lambda n: objectives.beta(n).beta,
    "ciwae": lambda n: described(objectives.ciwae(n, 2)),
    "renyi": lambda n: described(objectives.renyi(n / 2, 2)),
    "warm_up.start": lambda n: objectives.warm_up(objectives.trace_elbo(), 5, start=n).start,
    "warm_up.end": lambda n: objectives.warm_up(objectives.trace_elbo(), 5, end=n).end,
    "Scaled": lambda n: networks.Scaled(Given(3), n),
    "Averaging": lambda n: Averaging(n / 2).decay,
    "EarlyStopping": lambda n: EarlyStopping(2, n).min_delta,
    "Recovery": lambda n: Recovery(factor=n / 2),
    "Adam.lr": lambda n: optim.Adam(lr=n).pt_optim_args["lr"] if not tensor(n) else 1.0,
    "Adam.clip_norm": lambda n: optim.Adam(clip_norm=n).clip_norm,
    "Uniform": lambda n: priors.Uniform(2, -n, n),
    "Squashed": lambda n: posteriors.Squashed(posteriors.Normal(Given(2)), -n, n),
    "VampPrior": lambda n: priors.VampPrior(posteriors.Normal(Given(2)), torch.zeros(3, 4), -n, n),
    "Gaussian": lambda n: likelihoods.Gaussian(Given(3), scale=n),
    "StudentT": lambda n: likelihoods.StudentT(Given(3), scale=n, df=n),
    "priors.StudentT": lambda n: priors.StudentT(2, n),
}
"""What is kept of a number; the number is 1."""


def tensor(number: object) -> bool:
    return isinstance(number, torch.Tensor)


def one(kind: str) -> Any:
    made = {
        "float32": np.float32(1),
        "float64": np.float64(1),
        "int64": np.int64(1),
        "a tensor": torch.ones(()),
        "an array": np.ones((1,)),
        "a fraction": Fraction(1),
    }
    return made[kind]


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("case", STORED)
def test_a_number_is_stored_as_pythons(case: str, kind: str) -> None:
    python = 1 if kind == "int64" else 1.0
    assert repr(STORED[case](one(kind))) == repr(STORED[case](python))


REFUSED = ("free_bits", "beta", "ciwae", "warm_up.start", "warm_up.end", "Scaled", "EarlyStopping",
           "Adam.clip_norm", "Gaussian", "StudentT", "priors.StudentT")  # fmt: skip
RESULT = log_likelihood(bernoulli_vae(), binary(3), 30, seed=0)


@pytest.mark.parametrize(
    "number", ["1", True, np.True_, np.float32("nan"), np.str_("1"), np.ones(2), 1j]
)
@pytest.mark.parametrize("case", ["interval", *REFUSED])
def test_what_is_no_number_stays_refused(case: str, number: Any) -> None:
    make = RESULT.interval if case == "interval" else STORED[case]
    with pytest.raises((TypeError, ValueError), match=r"got .*, expected"):
        make(number)


RANGES: list[tuple[dict[str, Any], str, list[float], list[float]]] = [
    ({"low": 0, "high": 1}, "a number from 0 to 1", [0, 1], [-1e-9, 1.1]),
    ({"low": 0, "below": 1}, "a number from 0 to less than 1", [0, 0.9], [-1e-9, 1]),
    ({"above": 0, "below": 1}, "a number between 0 and 1", [1e-9], [0, 1]),
    ({"above": 0, "high": 9}, "a number above 0 and at most 9", [9], [0, 9.1]),
    ({"above": 0}, "a finite number above 0", [1e-9], [0]),
    ({"low": 0}, "a finite number from 0 up", [0], [-1e-9]),
    ({}, "a finite number", [-1e30], []),
]


@pytest.mark.parametrize(("ends", "expected", "inside", "outside"), RANGES)
def test_a_range_of_numbers(
    ends: dict[str, Any], expected: str, inside: list[float], outside: list[float]
) -> None:
    for number in inside:
        checks.check_number("n", number, **ends)
        checks.check_number("n", np.float32(number), **ends)
    for number in (*outside, float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=f"n: got .*, expected {expected}$"):
            checks.check_number("n", np.float64(number), **ends)


def test_an_interval_of_a_level_of_numpy() -> None:
    assert RESULT.interval(np.float64(0.9)) == RESULT.interval(0.9)
    assert type(RESULT.interval(torch.tensor(0.5))[0]) is float
    with pytest.raises(TypeError, match="level: got 'x', expected a number"):
        RESULT.interval("x")


def test_an_index_of_numpy() -> None:
    poisson = likelihoods.Poisson(Given(3), exposure=np.int64(0))
    assert type(poisson.exposure) is int
    classes: Any = np.int64(3)
    conditioned = networks.Conditioned(Given(3), (), classes=classes, entry=classes)
    assert type(conditioned.classes) is type(conditioned.entry) is int
    for wrong in ("0", -1, True, np.float32(0), None):
        with pytest.raises(ValueError, match=r"entry: got .*, expected an index from 0"):
            networks.Conditioned(Given(3), (), entry=wrong)


@pytest.mark.parametrize("flag", [np.True_, np.False_])
def test_a_flag_of_numpy(flag: Any) -> None:
    vae, x = bernoulli_vae(), binary()
    stop, average = EarlyStopping(2, restore_best=flag), Averaging(0.9, flag)
    relaxed = likelihoods.Bernoulli(Given(3), relaxed=flag)
    for stored in (stop.restore_best, average.evaluate, relaxed.relaxed):
        assert stored is bool(flag)
    if not flag:
        assert len(fit(vae, x, epochs=1, batch_size=4, compile=flag, resume=flag).cost) == 1
        assert elbo(vae, x, 3, seed=0, shared=flag).values.shape == (len(x),)


@pytest.mark.parametrize("flag", [1, "yes", None, torch.tensor(True)])
def test_what_is_no_flag_stays_refused(flag: Any) -> None:
    vae, x = bernoulli_vae(), binary()
    for argument, call in {
        "relaxed": lambda: likelihoods.Bernoulli(Given(3), relaxed=flag),
        "evaluate": lambda: Averaging(0.9, flag),
        "restore_best": lambda: EarlyStopping(2, restore_best=flag),
        "resume": lambda: fit(vae, x, epochs=1, resume=flag),
        "shared": lambda: elbo(vae, x, 3, shared=flag),
    }.items():
        with pytest.raises(TypeError, match=f"{argument}: got .*, expected True or False"):
            call()
    with pytest.raises(TypeError, match=r'compile: got .*, expected True, False or "auto"'):
        fit(vae, x, epochs=1, compile=flag)


COUNTED: dict[str, Callable[[Any], Any]] = {
    "trace_elbo": objectives.trace_elbo,
    "analytic_kl": objectives.analytic_kl,
    "sticking_the_landing": objectives.sticking_the_landing,
    "iwae": objectives.iwae,
    "dreg": objectives.dreg,
    "miwae": lambda n: objectives.miwae(n, n),
    "piwae": lambda n: objectives.piwae(n, n),
    "ciwae": lambda n: objectives.ciwae(0.5, n),
    "renyi": lambda n: objectives.renyi(0.5, n),
    "beta": lambda n: objectives.beta(2.0, n),
    "free_bits": lambda n: objectives.free_bits(0.5, n),
    "warm_up": lambda n: objectives.warm_up(objectives.trace_elbo(n), n),
}


@pytest.mark.parametrize("name", COUNTED)
def test_objectives_of_a_count_of_numpy_are_described_as_those_of_pythons(name: str) -> None:
    """A count that the description leaves out would not be compared on ``resume=True``."""
    make = COUNTED[name]
    assert described(make(np.int64(3))) == described(make(3)) != described(make(np.int64(2)))


class Folder(os.PathLike[str]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_a_training_with_settings_of_numpy_is_resumed_with_pythons(tmp_path: Path) -> None:
    """They are in the checkpoint, as JSON; the folder may be of any class that is a path."""
    whole: Any = np.int64
    folder, x = Folder(tmp_path), binary(8)
    first: dict[str, Any] = {
        "epochs": whole(1),
        "batch_size": whole(4),
        "seed": whole(0),
        "accumulate": whole(2),
        "compile": np.False_,
        "average": Averaging(np.float32(0.5), np.True_),
        "recovery": Recovery(whole(2), np.float32(0.5)),
        "optim": optim.Adam(np.float32(0.5), clip_norm=np.float32(1)),
        "callbacks": [EarlyStopping(whole(9), np.float32(0.5), restore_best=False, column="cost")],
    }
    second = {
        "epochs": 2,
        "batch_size": 4,
        "seed": 0,
        "accumulate": 2,
        "compile": False,
        "average": Averaging(0.5),
        "recovery": Recovery(2, 0.5),
        "optim": optim.Adam(0.5, clip_norm=1.0),
        "callbacks": [EarlyStopping(9, 0.5, restore_best=False, column="cost")],
    }
    fit(bernoulli_vae(), x, checkpoint=folder, **first)
    history = fit(bernoulli_vae(), x, checkpoint=folder, resume=True, **second)
    assert len(history.cost) == 2
    with pytest.raises(TypeError, match="checkpoint: got an int, expected a string or a Path or"):
        fit(bernoulli_vae(), x, epochs=1, checkpoint=3)


def test_a_preset_of_numpy_is_saved(tmp_path: Path) -> None:
    size: Any = np.int64(2)
    vae = presets.build("pyro-mlp", z_dim=size, shape=size)
    assert vae.preset is not None
    assert json.loads(json.dumps(vae.preset)) == vae.preset
    save(vae, tmp_path)
    assert load(tmp_path).preset == vae.preset


@pytest.mark.parametrize("make", [np.arange, torch.arange, range])
def test_seeds_and_epochs_may_be_arrays(make: Callable[[int], Any]) -> None:
    x = torch.eye(16)[:8]
    result = compare(
        lambda: presets.build("pyro-mlp", z_dim=2, shape=16),
        x,
        x,
        {"elbo": objectives.trace_elbo()},
        make(2),
        epochs=1,
        batch_size=8,
        num_samples=30,
        draws=20,
        gradient_epochs=make(2),
        goal=np.float32(1e9),
    )
    assert (
        repr((result.seeds, list(result.gradients), result.goal))
        == "((0, 1), [0, 1], 1000000000.0)"
    )


@pytest.mark.parametrize(
    "seeds",
    [np.array([0.5]), torch.tensor([-1]), np.array(["0"]), [None], [0, np.int64(0)], "01", 3],
)
def test_wrong_seeds_stay_refused(seeds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^seeds: .*got .*, expected"):
        compare(bernoulli_vae, binary(), binary(), seeds=seeds, epochs=1)


def test_the_root_of_data_may_be_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="FashionMNIST"):
        datasets.load("fashion-mnist", root=Folder(tmp_path))
    with pytest.raises(TypeError, match="root: got an int, expected a string or a Path or None"):
        datasets.load("fashion-mnist", root=3)
