"""Runs that are kept: a comparison goes on from them as if it had not been interrupted."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.comparison import Comparison, compare
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.storage import DamagedRun
from pyro_vae.training import History
from pyro_vae.utils.sealed import sealed_state, unsealed_state

from ..vaes import bernoulli_vae, binary

BOUNDS = {"elbo": objectives.trace_elbo(), "iwae:4": objectives.iwae(4)}
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 20,
    "num_samples": 30,
    "draws": 20,
}


def data() -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return binary(40), binary(12)


def compared(
    keep: Path | None, seeds: tuple[int, ...] = (0, 7), stop: int | None = None, **others: Any
) -> tuple[Comparison, list[tuple[str, int]]]:
    """A comparison, and the runs that it trained; Ctrl-C is pressed after `stop` of them."""
    trained: list[tuple[str, int]] = []

    def on_run(name: str, seed: int, history: History, result: LogLikelihood) -> None:
        trained.append((name, seed))
        if len(trained) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    train, test = data()
    given = {"vae_factory": bernoulli_vae, "train": train, "test": test, "objectives": BOUNDS}
    given |= SETTINGS | others
    return compare(**given, seeds=seeds, on_run=on_run, keep=keep), trained


def numbers(result: Comparison) -> dict[str, Any]:
    """All numbers of a comparison but the seconds, with tensors as bytes."""
    found: dict[str, Any] = {
        "others": (result.seeds, result.pixels, result.gradients, result.peak_bytes,
                   result.steps, result.goal, result.complete, result.likelihoods),
    }  # fmt: skip
    for name, runs in result.histories.items():
        found[f"history {name}"] = [
            ({c: v for c, v in h.items() if c != "seconds"}, h.ended) for h in runs
        ]
        found[f"likelihood {name}"] = [
            {f.name: plain(getattr(r, f.name)) for f in fields(r)}
            for r in result.log_likelihoods[name]
        ]
    return found


def plain(value: object) -> object:
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    return value


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """A comparison that was not interrupted."""
    return compared(None)[0]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a whole comparison; not to be written to."""
    folder = tmp_path_factory.mktemp("kept")
    compared(folder)
    return folder


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_comparison_goes_on(stop: int, tmp_path: Path, whole: Comparison) -> None:
    order = [("elbo", 0), ("iwae:4", 0), ("elbo", 7), ("iwae:4", 7)]
    if stop < 2:
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path, stop=stop)
    else:
        part, _ = compared(tmp_path, stop=stop)
        assert not part.complete
        assert part.seeds == (0,)
        assert part.histories["elbo"][0].cost == whole.histories["elbo"][0].cost
    names = ["0-elbo-seed-0", "0-elbo-seed-7", "1-iwae-4-seed-0"]
    kept = sorted(path.stem for path in tmp_path.iterdir())
    assert kept == sorted({1: names[:1], 2: names[::2], 3: names}[stop])
    result, trained = compared(tmp_path)
    assert trained == order[stop:]
    assert numbers(result) == numbers(whole)
    again, trained = compared(tmp_path)
    assert trained == []
    assert numbers(again) == numbers(whole)
    assert again.histories["iwae:4"][1].seconds == result.histories["iwae:4"][1].seconds
    assert repr(again) == repr(result)


def test_an_interruption_within_a_run_keeps_those_before(
    tmp_path: Path, whole: Comparison
) -> None:
    """Ctrl-C in the estimate of the second run: it is no run, and is trained again."""
    presses = iter([True])

    class Pressed(nn.Module):
        def forward(self) -> torch.distributions.Distribution:
            is_second = len(list(tmp_path.iterdir())) == 1
            if is_second and not self.training and next(presses, False):
                raise KeyboardInterrupt
            return priors.StandardNormal(1)()

    def make() -> VAE:
        vae = bernoulli_vae()
        return VAE(Pressed(), vae.likelihood, vae.posterior)

    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, vae_factory=make)
    assert [path.stem for path in tmp_path.iterdir()] == ["0-elbo-seed-0"]
    result, trained = compared(tmp_path, vae_factory=make)
    assert len(trained) == 3
    found, expected = numbers(result), numbers(whole)
    found["others"] = expected["others"]  # its prior takes a few more bytes
    assert found == expected


@pytest.mark.slow
def test_seeds_may_be_added(tmp_path: Path, whole: Comparison) -> None:
    compared(tmp_path, seeds=(0,))
    result, trained = compared(tmp_path)
    assert trained == [("elbo", 7), ("iwae:4", 7)]
    assert numbers(result) == numbers(whole)
    fewer, trained = compared(tmp_path, seeds=(0,), goal=2.5)
    assert not trained
    assert fewer.seeds == (0,)
    assert fewer.goal == 2.5


def test_log_likelihoods_along_the_runs_are_kept(tmp_path: Path) -> None:
    """And with the same epochs, the goal in log-likelihood may change."""
    along = {"likelihood_epochs": (1, 2)}
    made, _ = compared(tmp_path, **along)
    read, trained = compared(tmp_path, likelihood_goal=-3.0, **along)
    assert not trained
    assert read.likelihood_goal == -3.0
    assert numbers(read) == numbers(made)
    assert [list(run) for run in read.likelihoods["elbo"]] == [[1, 2], [1, 2]]


def test_runs_of_before_there_were_such_epochs_are_read(
    done: Path, tmp_path: Path, whole: Comparison
) -> None:
    """They have neither the setting nor the log-likelihoods by epoch."""
    for path in done.iterdir():
        config, tensors = unsealed_state(path)
        del config["settings"]["likelihood_epochs"], config["likelihoods"]
        (tmp_path / path.name).write_bytes(sealed_state(config, tensors))
    result, trained = compared(tmp_path)
    assert not trained
    assert numbers(result) == numbers(whole)
    with pytest.raises(ValueError, match="likelihood_epochs: got 1, expected 2"):
        compared(tmp_path, likelihood_epochs=(1,))


def relu_vae() -> VAE:
    vae = bernoulli_vae()
    encoder = networks.MLP(6, (8,), 2, nn.ReLU)
    return VAE(vae.prior, vae.likelihood, posteriors.Normal(encoder))


def scaled_vae() -> VAE:
    vae = bernoulli_vae()
    with torch.no_grad():
        next(vae.parameters()).mul_(1.5)
    return vae


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"epochs": 3}, "epochs: got 3, expected 2"),
        ({"batch_size": 10}, "batch_size: got 10, expected 20"),
        ({"num_samples": 31}, "num_samples: got 31, expected 30"),
        ({"draws": 21}, "draws: got 21, expected 20"),
        ({"gradient_epochs": (0, 2)}, "gradient_epochs: got 2, expected 1"),
        ({"likelihood_epochs": (1,)}, "likelihood_epochs: got 1, expected 2"),
        ({"likelihood_goal": -3.0}, "likelihood_epochs: got 1, expected 2"),
        ({"train": data()[0][:39]}, r"train: got torch.float32 \(39, 6\), expected .* \(40, 6\)"),
        ({"test": 1 - data()[1]}, "test: got checksum [0-9a-f]{16}, expected checksum "),
        ({"seeds": (7, 0)}, "seeds: got 7 first, expected 0 first"),
        ({"objectives": dict(reversed(BOUNDS.items()))}, "objectives: got iwae.* expected elbo"),
        ({"objectives": BOUNDS | {"b": BOUNDS["elbo"]}}, "objectives: got b: .*expected nothing"),
        (
            {"objectives": BOUNDS | {"iwae:4": objectives.miwae(2, 2)}},
            r"objectives: got .*_mean_of_groups\(m=2\).* expected iwae:4: .*_log_mean\(\)",
        ),
        ({"vae_factory": relu_vae}, r"vae_factory, on seed 0: got .*ReLU.*, expected .*Tanh"),
        ({"vae_factory": scaled_vae}, "vae_factory, on seed 0: got initial parameters with check"),
        ({"vae_factory": lambda: bernoulli_vae(hidden=9)}, "vae_factory, on seed 0: got "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_other_settings_are_refused(other: dict[str, Any], message: str, done: Path) -> None:
    before = sorted(path.name for path in done.iterdir())
    with pytest.raises(ValueError, match=message) as error:
        compared(done, **other)
    assert str(done) in str(error.value)
    assert sorted(path.name for path in done.iterdir()) == before


def test_pixels_are_a_setting(tmp_path: Path) -> None:
    """And the pixels of the log-likelihood are read with a run."""
    levels = [torch.randint(0, 256, (n, 6), dtype=torch.uint8) for n in (40, 12)]
    few = {"train": levels[0], "test": levels[1], "epochs": 1}

    def relaxed() -> VAE:
        vae = bernoulli_vae()
        return VAE(
            vae.prior, likelihoods.Bernoulli(vae.likelihood.network, relaxed=True), vae.posterior
        )

    made, _ = compared(tmp_path, (0,), pixels="grey", vae_factory=relaxed, **few)
    read, trained = compared(tmp_path, (0,), pixels="grey", vae_factory=relaxed, **few)
    assert not trained
    assert read.pixels == "dequantized" or read.pixels == "binary"
    assert numbers(read) == numbers(made)
    with pytest.raises(ValueError, match="pixels: got 'binary', expected 'grey'"):
        compared(tmp_path, (0,), pixels="binary", vae_factory=relaxed, **few)


def test_a_damaged_file_is_named_or_read_right(
    done: Path, tmp_path: Path, whole: Comparison
) -> None:
    """Bytes are flipped in 50 places of the first run's file, which has the gradients."""
    contents = {path.name: path.read_bytes() for path in done.iterdir()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "0-elbo-seed-0.safetensors"
    content = contents[path.name]
    draw = random.Random(0)
    refused = 0
    for _ in range(50):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            result, trained = compared(tmp_path)
        except DamagedRun as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert not trained
            assert numbers(result) == numbers(whole)
    assert refused > 40


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.rename(path.with_stem("0-elbo-seed-9")), "0-elbo-seed-9.*was renamed"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file"),
    ],
)
def test_files_that_were_cut_or_moved(
    damage: Callable[[Path], object], message: str, done: Path, tmp_path: Path
) -> None:
    path = tmp_path / "0-elbo-seed-7.safetensors"
    path.write_bytes((done / path.name).read_bytes())
    damage(path)
    with pytest.raises(DamagedRun, match=message):
        compared(tmp_path)


def test_a_file_in_the_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(NotADirectoryError, match=r"keep: got .*kept, which is a file"):
        compared(tmp_path / "kept")


def test_what_was_half_written_is_no_run(done: Path, tmp_path: Path, whole: Comparison) -> None:
    """A file that was written aside, and not renamed: the power went."""
    for path in done.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    last = tmp_path / "1-iwae-4-seed-7.safetensors"
    last.with_name(last.name + ".new").write_bytes(last.read_bytes()[:100])
    last.unlink()
    result, trained = compared(tmp_path)
    assert trained == [("iwae:4", 7)]
    assert numbers(result) == numbers(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in done.iterdir()
    )
