"""Every public argument, given wrong: an error that names it, at once.

The arguments are read from the signatures. ``RIGHT`` has what a call needs, so that one argument
alone is wrong, and ``WRONG`` has values that it does not take. An argument that is new needs an
entry in one of the two, or in ``ANYTHING`` with the reason for which nothing is wrong.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor, nn

import pyro_vae
from pyro_vae import (
    VAE,
    comparison,
    datasets,
    evaluation,
    fit,
    flows,
    likelihoods,
    models,
    networks,
    objectives,
    posteriors,
    presets,
    priors,
    report,
)
from pyro_vae.training import History

MODULES = (
    "pyro_vae",
    "priors",
    "likelihoods",
    "posteriors",
    "networks",
    "objectives",
    "optim",
    "datasets",
    "presets",
    "training",
    "evaluation",
    "comparison",
    "gradients",
    "plots",
    "estimators",
    "flows",
    "models",
    "report",
)

RESULTS = {
    "training.History",
    "training.NonFiniteLoss",
    "evaluation.ActiveUnits",
    "evaluation.Calibration",
    "evaluation.Certificate",
    "evaluation.Diagnosis",
    "evaluation.Elbo",
    "evaluation.ElboGap",
    "evaluation.Finding",
    "evaluation.Imputation",
    "evaluation.LogLikelihood",
    "evaluation.PredictiveCheck",
    "comparison.Comparison",
    "gradients.Gradient",
    "datasets.Dataset",
    "datasets.Table",
    "objectives.Traits",
    "presets.Preset",
    "report.Explorer",
}
"""Records that the package makes: they hold what they are given."""

PROTOCOLS = {"training.Tracker", "estimators.Estimator"}
"""What a user's class has to offer; they are not called."""

HOOKS = {
    "append", "as_batch", "as_observed", "bind_all", "check_batch", "drawing", "extra_repr",
    "forward", "placed", "reads", "setup",
}  # fmt: skip
"""Methods that the package calls itself."""

CALLED_BY_OTHERS = (
    "flows.", "optim.", "training.", "estimators.", "likelihoods.", "networks.", "pyro_vae.Pair",
)  # fmt: skip
"""Classes whose methods torch, Pyro or ``fit`` call: distributions, optimizers, callbacks."""

ANYTHING = {
    "optim.JointOptim.kwargs": "the options of torch's class, which checks them",
    "optim.from_torch.kwargs": "the options of torch's class, which checks them",
    "optim.as_pyro.argument": "a word for the message",
    "flows.FromZuko.support": "any constraint; Pyro's classes take theirs unchecked too",
    "flows.FromZuko.validate_args": "that of every distribution of torch",
    "VAE.model.context": "tensors of any kind: the parts say which",
    "VAE.guide.context": "tensors of any kind: the parts say which",
    "pyro_vae.Pair.modules": "named by their keywords, not by one name",
    "objectives.traits.objective": "an object of any kind: one without traits has none",
}


def small_vae() -> VAE:
    return VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (4,), 4)),
        posteriors.Normal(networks.MLP(4, (4,), 2)),
    )


def joined(into: int, out: int) -> nn.Module:
    return networks.Conditioned(networks.MLP(into + 2, (4,), out), (), classes=2)


def small_layers() -> models.HierarchicalVAE:
    return models.HierarchicalVAE(
        [posteriors.Normal(networks.MLP(2, (4,), 4)), priors.StandardNormal(2)],
        likelihoods.Bernoulli(networks.MLP(2, (4,), 4)),
        [posteriors.Normal(networks.MLP(n, (4,), 4)) for n in (4, 2)],
    )


def small_mixture() -> models.MixtureVAE:
    return models.MixtureVAE(
        priors.GaussianMixture(2, components=2),
        likelihoods.Bernoulli(networks.MLP(2, (4,), 4)),
        posteriors.Normal(networks.MLP(4, (4,), 4)),
    )


def small_labelled() -> models.SemiSupervisedVAE:
    return models.SemiSupervisedVAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(joined(2, 4)),
        posteriors.Normal(joined(4, 4)),
        models.Classifier(networks.MLP(4, (4,), 2)),
        classes=2,
    )


def small_missing() -> models.NotMissingAtRandom:
    return models.NotMissingAtRandom(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (4,), 4), scale=1.0),
        posteriors.Normal(networks.Observed(networks.MLP((2, 4), (4,), 4))),
        likelihoods.Bernoulli(networks.SelfMasking(4)),
    )


@cache
def small_comparison() -> comparison.Comparison:
    how: dict[str, Any] = {"epochs": 1, "seeds": (0,), "num_samples": 2, "batch_size": 8}
    named = {"trace": objectives.trace_elbo()}
    return comparison.compare(small_vae, pixels_of(), pixels_of(), named, **how)


def a_result(examples: int | None = None) -> evaluation.LogLikelihood:
    return evaluation.log_likelihood(small_vae(), pixels_of()[:examples], 30, seed=0)


def a_frame() -> pd.DataFrame:
    return pd.DataFrame({"age": [20.5, 30.5, 40.5, 20.5], "sex": ["f", "m", "f", "m"]})


OWNERS: dict[str, tuple[type, Callable[[], Any]]] = {
    "VAE": (VAE, small_vae),
    "HierarchicalVAE": (models.HierarchicalVAE, small_layers),
    "MixtureVAE": (models.MixtureVAE, small_mixture),
    "SemiSupervisedVAE": (models.SemiSupervisedVAE, small_labelled),
    "NotMissingAtRandom": (models.NotMissingAtRandom, small_missing),
    "Explorer": (report.Explorer, lambda: report.Explorer("<!doctype html>")),
    "History": (History, lambda: History({"epoch": [1, 2], "cost": [2.0, 1.0]})),
    "LogLikelihood": (evaluation.LogLikelihood, cache(lambda: a_result())),
    "Calibration": (
        evaluation.Calibration,
        cache(lambda: evaluation.calibration(small_vae(), 20, 4, seed=0)),
    ),
    "Comparison": (comparison.Comparison, small_comparison),
    "Table": (datasets.Table, lambda: datasets.Table.from_frame(a_frame())),
}
"""What has public methods, and makes a small one."""


def methods_of(owner: type) -> list[str]:
    """The public methods of a class that take arguments, but for hooks and what torch has."""
    found = []
    for name in dir(owner):
        method = inspect.getattr_static(owner, name)
        own = inspect.unwrap(getattr(method, "__func__", method))
        if name.startswith("_") or name in HOOKS or not inspect.isfunction(own):
            continue
        if own.__module__.startswith("pyro_vae") and set(inspect.signature(own).parameters) - {
            "self",
            "cls",
        }:
            found.append(name)
    return found


def observing_vae() -> VAE:
    return VAE(
        priors.StandardNormal(1),
        likelihoods.Observed(likelihoods.Bernoulli(networks.MLP(1, (4,), 4))),
        posteriors.Normal(networks.Observed(networks.MLP((2, 4), (4,), 2))),
    )


def layered_vae() -> Any:
    return presets.build("two-layers-mlp", z_dim=2, shape=(3, 3))


def pixels_of(examples: int = 8) -> Tensor:
    return (torch.arange(examples * 4).reshape(examples, 4) % 3 == 0).float()


def levels_of() -> Tensor:
    return torch.arange(32, dtype=torch.uint8).reshape(8, 4)


def images_of() -> Tensor:
    return torch.linspace(0, 1, 72).reshape(8, 3, 3)


def numbers(out: int | tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: networks.MLP(2, (3,), out)


def a_checkpoint() -> str:
    x = pixels_of()
    fit(small_vae(), x, epochs=1, batch_size=len(x), compile=False, checkpoint="checkpoint")
    return "checkpoint"


def zuko_flow() -> Any:
    return flows.spline(2, transforms=1, hidden=(3,))()  # as import zuko switches checks off


RIGHT: dict[str, Callable[[], Any]] = {
    "vae": small_vae,
    "x": pixels_of,
    "train": pixels_of,
    "test": pixels_of,
    "epochs": lambda: 1,
    "num_samples": lambda: 2,
    "z_dim": lambda: 2,
    "components": lambda: 2,
    "prior": lambda: priors.StandardNormal(1),
    "likelihood": lambda: likelihoods.Bernoulli(networks.MLP(1, (4,), 4)),
    "classifier": lambda: models.Classifier(networks.MLP(4, (3,), 3)),
    "missing": lambda: likelihoods.Bernoulli(networks.MLP(4, (3,), 4)),
    "df": lambda: 4.0,
    "network": numbers(4),
    "posterior": lambda: posteriors.Normal(networks.MLP(4, (3,), 4)),
    "pseudo_inputs": lambda: torch.full((2, 4), 0.5),
    "low": lambda: 0.0,
    "high": lambda: 1.0,
    "rank": lambda: 1,
    "in_shape": lambda: (4, 4),
    "out_shape": lambda: (4, 4),
    "hidden": lambda: (3,),
    "layer": lambda: nn.Linear(3, 2),
    "module": small_vae,
    "context_shape": tuple,
    "beta": lambda: 0.5,
    "alpha": lambda: 0.5,
    "k": lambda: 2,
    "m": lambda: 2,
    "nats": lambda: 1.0,
    "elbo": lambda: objectives.trace_elbo(),
    "objective": lambda: objectives.trace_elbo(),
    "text": lambda: "iwae:8",
    "steps": lambda: 10,
    "optimizer": lambda: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
    "cls": lambda: torch.optim.SGD,
    "kwargs": lambda: {"lr": 0.1},
    "levels": levels_of,
    "pixels": lambda: "binary",
    "seed": lambda: 0,
    "name": lambda: "pyro-mlp",
    "shape": lambda: (2, 2),
    "patience": lambda: 2,
    "folder": lambda: "a_folder_that_is_not_there",
    "into": small_vae,
    "precision": lambda: "float32",
    "statistic": lambda: lambda x: x.sum(-1),
    "vae_factory": lambda: small_vae,
    "objectives": lambda: {"elbo": objectives.trace_elbo()},
    "curves": lambda: {"a": [[1.0, 2.0]]},
    "xlabel": lambda: "x",
    "ylabel": lambda: "y",
    "values": lambda: [1.0, 2.0],
    "sizes": lambda: [1, 2],
    "errors": lambda: [0.1, 0.1],
    "threshold": lambda: 0.7,
    "z": lambda: torch.arange(16.0).reshape(8, 2),
    "SemiSupervisedVAE.decode.y": lambda: 1,
    "Table.encode.frame": a_frame,
    "Table.fill.frame": a_frame,
    "Table.fill.x": lambda: datasets.Table.from_frame(a_frame()).x,
    "Table.from_frame.frame": a_frame,
    "Table.from_dict.state": lambda: datasets.Table.from_frame(a_frame()).to_dict(),
    "Table.log_jacobian.x": lambda: datasets.Table.from_frame(a_frame()).x,
    "Table.to_frame.x": lambda: datasets.Table.from_frame(a_frame()).x,
    "LogLikelihood.above.other": a_result,
    "labels": lambda: torch.arange(8) % 2,
    "decode": lambda: lambda z: torch.zeros(len(z), 4, 4),
    "reconstructed": images_of,
    "rows": lambda: {"a": images_of()},
    "history": lambda: {"epoch": [1, 2], "cost": [2.0, 1.0]},
    "ax": lambda: plt.figure().subplots(),
    "path": lambda: "figure.png",
    "model": lambda: lambda x: x,
    "guide": lambda: lambda x: x,
    "context": lambda: 3,
    "transforms": lambda: 2,
    "draws": lambda: 50,
    "flow": zuko_flow,
    "names": lambda: ["a", "b"],
    "clusters": lambda: torch.arange(8) % 3,
    "ranks": lambda: torch.arange(20).reshape(2, 10),
    # Where a name has another meaning.
    "likelihoods.Beta.network": numbers((2, 3)),
    "likelihoods.Categorical.network": numbers((6, 3)),
    "likelihoods.Categorical.levels": lambda: 6,
    "likelihoods.Columns.network": numbers(2),
    "likelihoods.Columns.columns": lambda: {"a": likelihoods.Gaussian},
    "likelihoods.DiscretizedLogistic.network": numbers((2, 3)),
    "likelihoods.DiscretizedLogistic.levels": lambda: 6,
    "likelihoods.DiscretizedLogistic.components": lambda: 1,
    "likelihoods.Gaussian.network": numbers((2, 3)),
    "likelihoods.Laplace.network": numbers((2, 3)),
    "likelihoods.StudentT.network": numbers((2, 3)),
    "likelihoods.NegativeBinomial.network": numbers((2, 3)),
    "posteriors.LowRankNormal.network": numbers(6),
    "posteriors.MultivariateNormal.network": numbers(5),
    "posteriors.Mixture.network": numbers(10),
    "posteriors.Flow.network": numbers(7),
    "priors.OneHotCategorical.levels": lambda: 6,
    "networks.Columns.columns": lambda: ["real", "count"],
    "networks.Conditioned.network": numbers(4),
    "networks.Joint.of_x": numbers(3),
    "networks.Joint.of_z": numbers(3),
    "networks.ResidualMLP.width": lambda: 4,
    "models.Classifier.network": numbers(4),
    "models.HierarchicalVAE.priors": lambda: [priors.StandardNormal(2)],
    "models.HierarchicalVAE.posteriors": lambda: [
        posteriors.Normal(networks.MLP(4, (3,), 4)),
    ],
    "models.SemiSupervisedVAE.classes": lambda: 3,
    "datasets.keep_labels.count": lambda: 4,
    "plots.layers.vae": layered_vae,
    "report.report.source": small_vae,
    "report.report.x": pixels_of,
    "report.report.out": lambda: "page.html",
    "report.explore.x": pixels_of,
    "Explorer.save.path": lambda: "page.html",
    "plots.layers.x": images_of,
    "networks.Observed.network": lambda: networks.MLP((2, 4), (), 4),
    "pyro_vae.VAE.posterior": lambda: posteriors.Normal(networks.MLP(4, (4,), 2)),
    "datasets.load.name": lambda: "mnist",
    "datasets.bits_per_dim.levels": lambda: 256,
    "datasets.bits_per_dim.pixels": lambda: "levels",
    "first": lambda: torch.eye(4),
    "second": lambda: torch.ones(4, 4),
    "plots.bands.epochs": lambda: [1, 2],
    "plots.dots.runs": lambda: {"a": {"ELBO": [1.0, 2.0]}},
    "plots.style.name": lambda: "paper",
    "plots.lines.curves": lambda: {"a": ([1.0, 2.0], [1.0, 2.0])},
    "plots.khat.values": lambda: torch.tensor([0.1, 0.5]),
    "plots.ranks.num_samples": lambda: 19,
    "plots.columns.real": lambda: torch.rand(5, 2),
    "plots.columns.generated": lambda: torch.rand(5, 2),
    "plots.columns.names": lambda: None,
    "plots.images.x": images_of,
    "plots.generated.x": images_of,
    "plots.reconstructions.x": images_of,
    "presets.build.shape": lambda: (2, 2),
    "comparison.compare.seeds": lambda: (0,),
    "comparison.compare.gradient_epochs": lambda: (0,),
    "comparison.compare.num_samples": lambda: 2,
    "evaluation.elbo_gap.steps": lambda: 2,
    "evaluation.certify.num_samples": lambda: 2,
    "evaluation.certify.num_examples": lambda: 2,
    "evaluation.certify.context": lambda: None,
    "evaluation.calibration.context": lambda: None,
    "evaluation.impute.vae": lambda: observing_vae(),
    "evaluation.calibration.num_samples": lambda: 20,
    "training.load_checkpoint.folder": a_checkpoint,
    "pyro_vae.log_likelihood.vae": small_vae,
    "pyro_vae.log_likelihood.x": pixels_of,
    "VAE.decode.z": lambda: torch.zeros(3, 1),
    "VAE.decode.context": lambda: None,
    "VAE.embed.context": lambda: None,
    "VAE.reconstruct.context": lambda: None,
    "VAE.generate.context": lambda: None,
    "VAE.model.num_samples": lambda: 1,
    "pyro_vae.save.folder": lambda: "a_folder",
    "pyro_vae.fit.batch_size": lambda: 4,
    "comparison.compare.batch_size": lambda: 4,
    "comparison.compare.draws": lambda: 20,
}

PARTS: list[Any] = [None, 3, "parts", [], [3]]
COUNT: list[Any] = [0, -1, 1.5, "3", True, None]
MAYBE_COUNT: list[Any] = COUNT[:-1]
FLAG: list[Any] = [2, "yes", None]
POSITIVE: list[Any] = [0, -1.0, math.nan, math.inf, "1", True, None]
NUMBER: list[Any] = [math.nan, math.inf, "1", True, None]
TEXT: list[Any] = [3, None]
CHOICE: list[Any] = ["no such choice", 3]
MODULE: list[Any] = [None, 3, "network"]
PAIR: list[Any] = [None, 3, nn.Linear(2, 2)]
TENSOR: list[Any] = [None, 3, "x", [0.0]]
SHAPE: list[Any] = [0, -1, 1.5, "4", (2, 0), None]
FUNCTION: list[Any] = [3, "f"]
PATH: list[Any] = [3, 1.5, None]
SEED: list[Any] = [-1, 2**32, 1.5, "0", True]
DATA: list[Any] = [3, torch.zeros(0, 4), torch.zeros(()), torch.zeros(8, 3)]

LABELS: list[Any] = [3, "x", torch.zeros(3, dtype=torch.int64), torch.zeros(8)]
CLASS: list[Any] = [-1, 2, "1", 1.5, True]
WRONG: dict[str, list[Any]] = {
    "vae": PAIR,
    "x": [*TENSOR, torch.zeros(0, 4), torch.zeros(8, 3), torch.full((8, 4), math.nan)],
    "train": [*DATA, None],
    "test": DATA,
    "validation": [0.0, 1.0, -0.5, math.nan, True, *DATA[1:]],
    "epochs": [-1, 1.5, "1", True, None],
    "batch_size": COUNT,
    "accumulate": COUNT,
    "objective": [3, "iwae", lambda: 0],
    "optim": [3, "adam", lambda: 0],
    "pixels": CHOICE,
    "transform": FUNCTION,
    "seed": SEED,
    "compile": ["no", 2, None],
    "precision": [*CHOICE, None],
    "callbacks": [3, [3], None],
    "tracker": FUNCTION,
    "average": [3, "ema"],
    "checkpoint": PATH[:-1],
    "checkpoint_every": ["1", "0 epochs", "-1 epoch", 3, None, "1 fortnight"],
    "resume": FLAG,
    "recovery": [3, "yes"],
    "process_group": [3, "gloo"],
    "num_samples": COUNT,
    "num_examples": COUNT,
    "num_datasets": COUNT,
    "num_particles": COUNT,
    "kl": CHOICE,
    "max_bytes": [0, -1, 1.5, "much", True, None],
    "shared": FLAG,
    "estimator": [*CHOICE, None],
    "method": [*CHOICE, None],
    "model": FUNCTION,
    "guide": FUNCTION,
    "prior": [3, "normal", None],
    "likelihood": [3, "normal", None],
    "posterior": MODULE,
    "name": TEXT,
    "folder": PATH,
    "into": [3, nn.Linear(2, 2)],
    "training": [3, "x"],
    "overwrite": FLAG,
    "z_dim": COUNT,
    "transforms": COUNT,
    "components": COUNT,
    "codes": COUNT,
    "trained": FLAG,
    "temperature": POSITIVE[:-1],
    "clusters": [*TENSOR, torch.zeros(8), torch.zeros(3, dtype=torch.int64)],
    "hidden": [(0,), (1.5,), ("3",), (-1, 3), None],
    "df": [*POSITIVE, 1001.0],
    "low": [*NUMBER, 2.0],
    "high": [*NUMBER, -1.0],
    "pseudo_inputs": [
        *TENSOR,
        torch.zeros(2, 4, dtype=torch.int64),
        torch.zeros(0, 4),
        torch.zeros(4),
        torch.zeros(2, 3),
        torch.full((2, 4), 2.0),
        torch.full((2, 4), math.nan),
    ],
    "network": [*MODULE, nn.Identity()],
    "relaxed": FLAG,
    "levels": COUNT,
    "scale": [*POSITIVE, "no such scale"],
    "exposure": [-1, 1.5, "0", True],
    "rank": COUNT,
    "in_shape": SHAPE,
    "out_shape": SHAPE,
    "activation": [*FUNCTION, None, lambda: 3],
    "of_x": MODULE,
    "of_z": MODULE,
    "width": COUNT,
    "blocks": COUNT,
    "labelled": [0.0, 1.0, -0.5, math.nan, True, "some"],
    # Modules without an out_shape are taken, and their output is looked at.
    "networks.Joint.network": MODULE,
    "models.Classifier.network": MODULE,
    "models.HierarchicalVAE.priors": PARTS,
    "models.HierarchicalVAE.posteriors": PARTS,
    "inference": ["sideways", 3, None],
    "priors.GaussianMixture.covariance": CHOICE,
    "skip": FLAG,
    "models.SemiSupervisedVAE.classes": COUNT,
    "classifier": [3, "classifier"],
    "class_prior": [3, "prior"],
    "datasets.keep_labels.count": [*COUNT, 3],
    "below": [3, nn.Linear(2, 2)],
    "missing": [None, 3, "missing"],
    "plots.layers.x": [*TENSOR, torch.zeros(0, 3, 3), torch.zeros(3)],
    "plots.layers.context": [3, "context", torch.zeros(8, 2)],
    "init": FUNCTION,
    "context_shape": SHAPE,
    "classes": MAYBE_COUNT,
    "entry": [-1, 1.5, "0", True, None],
    "channels": [(), (0,), (1.5,), ("3",), None],
    "factor": [0, math.nan, math.inf, "1", True, None],
    "module": [*MODULE, nn.Linear(2, 2)],
    "layer": [*MODULE, nn.Conv2d(1, 1, 1)],
    "beta": [-1.0, math.nan, math.inf, "1", True, None],
    "k": COUNT,
    "m": COUNT,
    "alpha": [math.nan, math.inf, "1", True, None],
    "nats": [-1.0, math.nan, math.inf, "1", True, None],
    "elbo": [3, "iwae", None],
    "text": ["no_such", "iwae", "iwae:x", "", 3, None],
    "steps": COUNT,
    "start": [-0.5, math.nan, math.inf, "1", True, None],
    "end": [-0.5, math.nan, math.inf, "1", True, None],
    "lr": [-1.0, math.nan, math.inf, "1", None, True],
    "betas": [(0.9,), (1.5, 0.9), (-0.1, 0.9), (math.nan, 0.9), "ab", 3, None],
    "weight_decay": [-1.0, math.nan, math.inf, "1", None],
    "clip_norm": POSITIVE[:-1],
    "schedule": FUNCTION,
    "optimizer": [3, "adam", None],
    "cls": [3, "SGD", nn.Linear, None],
    "kwargs": [3, None, {"no_such_option": 1}],
    "root": [3, 1.5],
    "shape": SHAPE,
    "decay": [1.0, -0.5, math.nan, "1", True, None],
    "evaluate": FLAG,
    "patience": COUNT,
    "min_delta": [-1.0, math.nan, math.inf, "1", True, None],
    "restore_best": FLAG,
    "column": [3, None],
    "times": COUNT,
    "best": FLAG,
    "averaged": FLAG,
    "threshold": NUMBER,
    "history": [3, "x", {}],
    "learning_rate": POSITIVE,
    "particles": COUNT,
    "statistic": [*FUNCTION, None],
    "vae_factory": [*FUNCTION, None],
    "objectives": [3, {}, {"a": 3}, {3: objectives.trace_elbo()}],
    "seeds": [3, (), (0, 0), (-1,), ("0",), (True,)],
    "draws": COUNT,
    "gradient_epochs": [3, (-1,), (1.5,), (99,), ("0",)],
    "goal": [math.nan, math.inf, "1", True],
    "likelihood_goal": [math.nan, math.inf, "1", True],
    "likelihood_epochs": [3, (), (0,), (-1,), (1.5,), (99,), ("0",)],
    "on_run": FUNCTION,
    "keep": PATH[:-1],
    "ax": [3, "axes"],
    "columns": COUNT,
    "title": TEXT,
    "label": TEXT,
    "xlabel": TEXT,
    "ylabel": TEXT,
    "log": FLAG,
    "curves": [3, {}, {"a": 3}],
    "sizes": [3, None, []],
    "values": [3, None, []],
    "errors": [3, None, []],
    "z": [*TENSOR, torch.zeros(8), torch.zeros(8, 3, 1)],
    "labels": [*TENSOR, torch.zeros(3, dtype=torch.int64)],
    "dims": [(0,), (0, 5), (0.5, 1), 3],
    "first": [*TENSOR, torch.zeros(4), torch.zeros(3, 4), torch.zeros(4, 5)],
    "second": [*TENSOR, torch.zeros(4), torch.zeros(3, 4), torch.zeros(4, 5)],
    "spherical": FLAG,
    "decode": [*FUNCTION, None],
    "size": COUNT,
    "limit": POSITIVE,
    "quantile": FUNCTION,
    "path": PATH,
    "reconstructed": [*TENSOR, torch.zeros(3, 3, 3)],
    "rows": [3, {}, {"a": 3}, None],
    "names": [3, [3]],
    "ranks": [*TENSOR, torch.zeros(3)],
    "temperatures": COUNT,
    "leapfrog_steps": COUNT,
    "context": [3, "x", [3]],
    "flow": [3, nn.Linear(2, 2), None],
    "sample": FLAG,
    "holes": FLAG,
    "real": [*TENSOR, torch.zeros(0, 2), torch.zeros(2), torch.zeros(5, 3)],
    "generated": [*TENSOR, torch.zeros(0, 2), torch.zeros(2), torch.zeros(5, 3)],
    "shown": [3, [], ["no such column"], "0"],
    "table": [3, "x"],
    # Where a name has another meaning.
    "pyro_vae.VAE.name": [3, None, ""],
    "pyro_vae.Pair.name": [3, None, ""],
    "pyro_vae.Pair.model": [*FUNCTION, None],
    "pyro_vae.Pair.guide": [*FUNCTION, None],
    "pyro_vae.VAE.posterior": [3, "normal", None],
    "priors.VampPrior.low": [math.nan, "1", True, None, 2.0],  # the reals have no ends
    "priors.VampPrior.high": [math.nan, "1", True, None, -1.0],
    "evaluation.impute.x": [*TENSOR, torch.zeros(0, 4), torch.zeros(8, 3)],
    "evaluation.impute.quantiles": [0.5, "half", [], [1.5], ["half"], [math.nan], None],
    "evaluation.impute.num_draws": [-1, 1.5, "1", True, None],
    "evaluation.calibration.x": [3, "x", [0.0], torch.zeros(0, 4), torch.zeros(8, 3)],
    "evaluation.certify.x": TENSOR[1:],
    "datasets.binarize.levels": [*TENSOR, torch.zeros(3)],
    "datasets.dequantize.levels": [*TENSOR, torch.zeros(3)],
    "datasets.to_pixels.levels": [*TENSOR, torch.zeros(3)],
    "datasets.to_pixels.pixels": [*CHOICE, None],
    "datasets.check_pixels.pixels": [*CHOICE, None],
    "datasets.bits_per_dim.pixels": [*CHOICE, None, "binary"],
    "datasets.bits_per_dim.nats": ["1", None, True],
    "evaluation.density_draw.levels": [*TENSOR, torch.zeros(8, 4)],
    "evaluation.density_draw.pixels": [*CHOICE, None],
    "evaluation.data_hash.x": [None, 3, "x", [0.0]],
    "gradients.advanced.steps": COUNT[1:],  # none is a number of steps
    "gradients.measure.batch_size": MAYBE_COUNT,
    "evaluation.diagnose.history": [3, "x"],
    "networks.MLP.hidden": [(0,), (1.5,), ("3",), (-1, 3), None],
    "networks.Columns.columns": [3, None, [], ["no such kind"], [0], [1.5], ["real"]],
    "likelihoods.Columns.columns": [3, None, {}, {"a": 3}, {3: likelihoods.Gaussian}],
    "networks.Folded.network": MODULE,
    "networks.Observed.x_shape": SHAPE[:-1],
    "networks.Conditioned.network": MODULE,
    "posteriors.Normal.network": MODULE,
    "posteriors.LowRankNormal.network": MODULE,
    "posteriors.MultivariateNormal.network": MODULE,
    "posteriors.Mixture.network": MODULE,
    "posteriors.OneHotCategorical.network": MODULE,
    "presets.build.name": [*CHOICE, None],
    "presets.build.z_dim": MAYBE_COUNT,
    "presets.get.name": [*CHOICE, None],
    "datasets.load.name": [*CHOICE, None],
    "objectives.warm_up.objective": [3, "iwae", None],
    "plots.images.x": [*TENSOR, torch.zeros(0, 3, 3), torch.zeros(3), torch.zeros(2, 5)],
    "plots.generated.x": [*TENSOR, torch.zeros(0, 3, 3), torch.zeros(3)],
    "plots.reconstructions.x": [*TENSOR, torch.zeros(3, 3, 3), torch.zeros(3)],
    "plots.bands.epochs": [3, None, []],
    "plots.dots.runs": [3, {}, {"a": 3}, {"a": {}}, {"a": {"b": 3}}, {"a": {"b": ["1"]}}, None],
    "plots.interpolation.columns": [*COUNT, 1],
    "plots.style.name": [*CHOICE, None],
    "plots.style.width": [0, -1.0, math.nan, math.inf, "nips", True, None],
    "plots.style.columns": [*COUNT, 2],
    "plots.traversal.rows": COUNT,
    "plots.traversal.low": [*NUMBER, 0.0, -1.0, 0.95, 1.0],
    "plots.traversal.high": [*NUMBER, 0.0, 0.05, 1.0],
    "plots.traversal.start": [*TENSOR[1:], torch.zeros(3), torch.zeros(1, 2)],
    "plots.khat.threshold": NUMBER[1:],  # NaN draws none
    "plots.khat.values": [*TENSOR[:-1], torch.zeros(0)],
    "report.report.source": [3, None, [], [3], nn.Linear(2, 2)],
    "report.report.x": [3, "x", [0.0], torch.zeros(0, 4), torch.zeros(8, 3), torch.zeros(1, 4)],
    "report.report.out": PATH,
    "report.report.labels": [3, "x", [3] * 8, ["a"], torch.zeros(8), torch.arange(3)],
    "report.report.history": [3, "x", {}],
    "report.report.result": [3, "x", {}],
    "report.report.data": FLAG,
    "report.report.root": [3, 1.5, "data"],
    "Explorer.save.path": PATH,
    "report.explore.x": [3, "x", [0.0], torch.zeros(0, 4), torch.zeros(8, 3)],
    "plots.training_curves.history": [3, None, {"cost": [1.0]}],
    "plots.save.ax": [3, "axes", None],
    "flows.InverseAutoregressive.context": COUNT,
    "flows.InverseAutoregressive.z_dim": COUNT,
    "HierarchicalVAE.generate.z": [3, "z", torch.zeros(8, 3)],
    "SemiSupervisedVAE.model.labels": LABELS,
    "SemiSupervisedVAE.guide.labels": LABELS,
    "HierarchicalVAE.generate.level": [-1, 4, "1", 1.5, True],
    "MixtureVAE.generate.y": CLASS,
    "SemiSupervisedVAE.generate.y": CLASS,
    "SemiSupervisedVAE.decode.y": [*CLASS, None],
    "SemiSupervisedVAE.embed.y": CLASS,
    "LogLikelihood.above.other": [3, "other", None, a_result(examples=3)],
    "LogLikelihood.interval.level": [*NUMBER, 0.0, 1.0],
    "LogLikelihood.plot.axes": [3, "axes", (1, 2, 3), (1, 2)],
    "Comparison.plot_gradients.part": CHOICE,
    "Table.encode.frame": [3, "frame", None, a_frame()[["age"]]],
    "Table.fill.frame": [3, "frame", None, a_frame()[["age"]]],
    "Table.from_frame.frame": [3, "frame", None],
    "Table.from_frame.kinds": [3, "kinds", {"age": "colour"}, {"height": "real"}],
    "Table.from_dict.state": [3, None, {}],
    "VAE.decode.z": [*TENSOR, torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64)],
    "VAE.model.x": [3, "x", torch.zeros(8, 3)],
    "VAE.guide.x": [*TENSOR, torch.zeros(8, 3)],
    "VAE.embed.x": [*TENSOR, torch.zeros(8, 3)],
    "VAE.reconstruct.x": [*TENSOR, torch.zeros(8, 3)],
}

NAMED_AS = {
    "datasets.keep_labels.labels": "labels|count",  # of which there are too few of a class
    "networks.Columns.columns": "columns|network",  # whose in_shape does not fit them
    "plots.columns.real": "real|generated",  # one of which has other columns than the other
    "optim.as_pyro.optimizer": "optim",  # what its argument `argument` says
    # As the command line calls them.
    "objectives.parse.text": "text|objective",
    "presets.build.name": "name|preset",
    "presets.get.name": "name|preset",
    # A network says that it got an input of another shape, and the part whose network it is.
    "VAE.decode.z": "z|input",
    "VAE.embed.x": "x|input",
    "VAE.reconstruct.x": "x|input",
    "VAE.guide.x": "x|input",
    "gradients.measure.x": "x|input",
    "report.explore.x": "x|input",
    "comparison.compare.train": "train|input",
}


def of_models() -> Iterator[tuple[str, list[Any]]]:
    """What the further models take no more than a VAE does."""
    wrong = {"x": [*TENSOR, torch.zeros(8, 3)], "z": [*TENSOR, torch.zeros(3, 3)]}
    for owner in ("HierarchicalVAE", "MixtureVAE", "SemiSupervisedVAE", "NotMissingAtRandom"):
        for method in methods_of(OWNERS[owner][0]):
            argument = "z" if method == "decode" else "x"
            if method != "generate":
                first = int(method == "model")  # which draws x where it is None
                yield f"{owner}.{method}.{argument}", wrong[argument][first:]


for _name, _values in of_models():
    WRONG[_name], NAMED_AS[_name] = _values, f"{_name[-1]}|input"


def module_of(name: str) -> Any:
    """A public module, which the package may have under another path."""
    if name == "pyro_vae":
        return pyro_vae
    module = getattr(pyro_vae, name, None)
    return import_module(f"pyro_vae.{name}") if module is None else module


def targets() -> dict[str, Callable[..., Any]]:
    """Every public function and class once, by the first name under which it is public."""
    found: dict[str, Callable[..., Any]] = {}
    seen: set[Any] = set()
    for name in MODULES:
        for public in module_of(name).__all__:
            value = getattr(module_of(name), public)
            exception = inspect.isclass(value) and issubclass(value, Exception | Warning)
            called = inspect.isclass(value) or inspect.isfunction(value)
            target = f"{name}.{public}"
            if called and not exception and value not in seen:
                seen.add(value)
                if target not in RESULTS | PROTOCOLS:
                    found[target] = value
    for name, (owner, _) in OWNERS.items():
        found |= {f"{name}.{method}": getattr(owner, method) for method in methods_of(owner)}
    return found


TARGETS = targets()


def parameters(target: str) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(TARGETS[target]).parameters.values() if p.name != "self"]


def every_argument() -> list[tuple[str, str]]:
    return [(target, p.name) for target in TARGETS for p in parameters(target)]


def entry(table: dict[str, Any], target: str, parameter: str) -> Any:
    """What a table has for an argument: by its full name, or else by its own."""
    return table.get(f"{target}.{parameter}", table.get(parameter))


def described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}".removeprefix("torch.") + str(tuple(value.shape))
    return re.sub(r" at 0x\w+| object.*", "", repr(value))[:40]


def wrong_cases() -> Iterator[ParameterSet]:
    for target, parameter in every_argument():
        if f"{target}.{parameter}" in ANYTHING:
            continue
        for index, value in enumerate(entry(WRONG, target, parameter) or ()):
            yield pytest.param(target, parameter, value, id=f"{target}.{parameter}[{index}]")


def call(target: str, arguments: dict[str, Any]) -> Any:
    function = TARGETS[target]
    owner, _, method = target.partition(".")
    if owner in OWNERS:
        function = getattr(OWNERS[owner][1](), method)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for p in inspect.signature(function).parameters.values():
        if p.name not in arguments:
            continue
        if p.kind is p.VAR_POSITIONAL:
            positional.append(arguments[p.name])
        elif p.kind is p.VAR_KEYWORD:
            named |= arguments[p.name]
        elif p.kind is p.KEYWORD_ONLY:
            named[p.name] = arguments[p.name]
        else:
            positional.append(arguments[p.name])
    result = function(*positional, **named)
    if hasattr(result, "__enter__"):  # A context's work begins when it is entered.
        with result:
            pass
    return result


def right_arguments(target: str) -> dict[str, Any]:
    """Right values of the arguments that a call needs, and of those that keep it short."""
    made: dict[str, Any] = {}
    for p in parameters(target):
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        needed = p.default is p.empty
        # A method takes its positional arguments in order, so none may be left out.
        if needed or f"{target}.{p.name}" in RIGHT or p.kind is p.POSITIONAL_OR_KEYWORD:
            made[p.name] = (
                entry(RIGHT, target, p.name)()
                if needed or f"{target}.{p.name}" in RIGHT
                else p.default
            )
    return made


def test_every_public_argument_has_wrong_values() -> None:
    missing = [
        f"{target}.{parameter}"
        for target, parameter in every_argument()
        if f"{target}.{parameter}" not in ANYTHING and not entry(WRONG, target, parameter)
    ]
    needed = [
        f"{target}.{p.name}"
        for target in TARGETS
        for p in parameters(target)
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and not entry(RIGHT, target, p.name)
    ]
    assert not missing, (
        f"add values that {missing} do not take to WRONG, by the argument's name or the full one "
        "(or the full one to ANYTHING, with the reason for which nothing is wrong)"
    )
    assert not needed, f"add a function that makes a right value of {needed} to RIGHT"


def test_methods_of_every_public_class_are_looked_at() -> None:
    """New classes with methods that users call are not forgotten."""
    known = {owner for owner, _ in OWNERS.values()}
    forgotten = []
    for name in MODULES:
        for public in module_of(name).__all__:
            value, target = getattr(module_of(name), public), f"{name}.{public}"
            if not inspect.isclass(value) or value in known or target in PROTOCOLS:
                continue
            if not target.startswith(CALLED_BY_OTHERS) and methods_of(value):
                forgotten.append(target)
    assert not forgotten, f"add a small one of {forgotten} to OWNERS"


def test_the_tables_have_no_entries_of_arguments_that_are_gone() -> None:
    every = {f"{target}.{parameter}" for target, parameter in every_argument()}
    names = {parameter for _, parameter in every_argument()}
    for table in (RIGHT, WRONG, ANYTHING, NAMED_AS):
        assert not {key for key in table if key not in every | names}


@pytest.mark.parametrize(("target", "parameter", "value"), list(wrong_cases()))
def test_a_wrong_argument_is_named(
    target: str, parameter: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = right_arguments(target) | {parameter: value}
    files = set(tmp_path.rglob("*"))
    state = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)) as caught:
        call(target, arguments)
    plt.close("all")
    argument = NAMED_AS.get(f"{target}.{parameter}", parameter)
    assert re.search(rf"\b({argument})\b", str(caught.value)), str(caught.value)
    assert set(tmp_path.rglob("*")) == files, "a file was written before the error"
    if "vae" in arguments:
        assert torch.equal(torch.get_rng_state(), state), "numbers were drawn before the error"
