"""Missing entries: errors and intervals of ``impute`` beside means and scikit-learn's imputer.

python -m benchmarks.imputation --root DATA                 # Fashion-MNIST and a table
python -m benchmarks.imputation --only table --epochs 20    # the table alone, which needs no files
"""

import argparse
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae import VAE, datasets, fit, likelihoods, networks, posteriors, priors
from pyro_vae.evaluation import UnreliableWeights, impute

LEVEL = 0.9
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass
class Case:
    """Rows with holes.

    Attributes:
        name: What they are.
        train, test: Rows with NaN, shape ``(N, *x_shape)``.
        complete: The test rows without holes.
        make: Networks' width and the number of latents.
        epochs: Passes over the training rows.
        nearest: Features by which scikit-learn's imputer predicts another one.
    """

    name: str
    train: Tensor
    test: Tensor
    complete: Tensor
    width: int
    z_dim: int
    epochs: int
    nearest: int | None


def punched(x: Tensor, share: float, seed: int) -> Tensor:
    """Rows whose entries are missing at random."""
    generator = torch.Generator().manual_seed(seed)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < share, math.nan)


def fashion(root: Path | None, epochs: int, examples: int) -> Case:
    """Fashion-MNIST, dequantized, with half of the pixels gone."""
    data = datasets.load("fashion-mnist", root)
    train, test = (datasets.dequantize(x, seed=0) for x in (data.train, data.test[:examples]))
    holes = punched(train, 0.5, 1), punched(test, 0.5, 2)
    return Case("Fashion-MNIST, half of the pixels gone", *holes, test, 500, 20, epochs, 20)


def table(epochs: int) -> Case:
    """scikit-learn's breast cancer data, standardized, with a fifth of the entries gone."""
    from sklearn.datasets import load_breast_cancer

    x = load_breast_cancer().data
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    train, test = x[:400], x[400:]
    holes = punched(train, 0.2, 1), punched(test, 0.2, 2)
    return Case("30 columns, a fifth of the entries gone", *holes, test, 128, 5, epochs, None)


def trained(case: Case) -> VAE:
    """A VAE of what is observed."""
    torch.manual_seed(0)
    shape, hidden = tuple(case.train.shape[1:]), (case.width, case.width)
    decoder = networks.MLP(case.z_dim, hidden, shape)
    encoder = networks.Observed(networks.MLP((2, *shape), hidden, 2 * case.z_dim))
    vae = VAE(
        priors.StandardNormal(case.z_dim),
        likelihoods.Observed(likelihoods.Gaussian(decoder, scale="shared")),
        posteriors.Normal(encoder),
    )
    # By the ELBO: MIWAE's bound has smaller errors, and weights too uneven for intervals.
    fit(vae, case.train, epochs=case.epochs, seed=0)
    return vae


def error(imputed: Tensor, case: Case) -> tuple[float, float]:
    """The root mean square error of the missing entries, and its standard error over rows."""
    holes = torch.isnan(case.test)
    squares = torch.where(holes, (imputed - case.complete) ** 2, 0.0).flatten(1).sum(1).double()
    counts = holes.flatten(1).sum(1)
    mean = squares.sum() / counts.sum()
    residual = (squares - mean * counts) / counts.double().mean()
    spread = residual.std() / math.sqrt(len(residual))
    return mean.sqrt().item(), (spread / (2 * mean.sqrt())).item()


def covered(vae: VAE, complete: Tensor, holes: Tensor, samples: int) -> tuple[float, float]:
    """The share of missing entries inside of their intervals, and its standard error over rows."""
    x = complete.masked_fill(holes, math.nan)
    low, high = impute(vae, x, samples, quantiles=ENDS, seed=0).quantiles
    inside = ((complete >= low) & (complete <= high) & holes).flatten(1).sum(1).double()
    counts = holes.flatten(1).sum(1)
    share = inside.sum() / counts.sum()
    residual = (inside - share * counts) / counts.double().mean()
    return share.item(), (residual.std() / math.sqrt(len(residual))).item()


def means(case: Case) -> Tensor:
    """The observed means of the training rows."""
    return torch.where(torch.isnan(case.test), case.train.nanmean(0), case.test)


def iterative(case: Case, rows: int) -> Tensor:
    """scikit-learn's ``IterativeImputer``, fitted to some training rows."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputer = IterativeImputer(
        random_state=0, max_iter=5, n_nearest_features=case.nearest, skip_complete=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        imputer.fit(case.train[:rows].flatten(1).numpy())
        found = imputer.transform(case.test.flatten(1).numpy())
    return torch.from_numpy(np.asarray(found)).to(case.test.dtype).view_as(case.test)


def measured(case: Case, samples: int, rows: int) -> list[str]:
    """A line of the table for each way to impute."""
    begun = time.perf_counter()
    vae = trained(case)
    seconds = time.perf_counter() - begun
    found = impute(vae, case.test, samples, seed=0)
    holes = torch.isnan(case.test)
    torch.manual_seed(1)
    drawn = vae.generate(len(case.test), sample=True)
    shares = [covered(vae, x, holes, samples) for x in (case.complete, drawn)]
    begun = time.perf_counter()
    other = iterative(case, rows)
    lines: list[tuple[str, tuple[float, float], float, str, str]] = [
        (
            f"`impute`, {samples:,} samples (median ESS {found.ess.median():.0f})",
            error(found.mean, case),
            seconds,
            f"{100 * shares[0][0]:.1f} ± {100 * shares[0][1]:.1f}",
            f"{100 * shares[1][0]:.1f} ± {100 * shares[1][1]:.1f}",
        ),
        ("IterativeImputer", error(other, case), time.perf_counter() - begun, "", ""),
        ("means of the training rows", error(means(case), case), 0.0, "", ""),
    ]
    return [
        f"| {case.name} | {way} | {value:.4f} ± {spread:.4f} | {took:.0f} | {real} | {model} |"
        for way, (value, spread), took, real, model in lines
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["fashion", "table"])
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    parser.add_argument(
        "--epochs", type=int, help="of each VAE; default 100, and 1000 of the table"
    )
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--examples", type=int, default=500, help="test images")
    parser.add_argument(
        "--rows", type=int, default=2000, help="that IterativeImputer is fitted to"
    )
    options = parser.parse_args(arguments)
    print("| data | by | RMSE | seconds | 90 % intervals: real | of the model |")
    print("|---|---|---:|---:|---:|---:|")
    warnings.simplefilter("ignore", UnreliableWeights)  # the table has the effective sample size
    if options.only != "table":
        case = fashion(options.root, options.epochs or 100, options.examples)
        print("\n".join(measured(case, options.samples, options.rows)), flush=True)
    if options.only != "fashion":
        case = table(options.epochs or 100)
        print("\n".join(measured(case, options.samples, options.rows)), flush=True)


if __name__ == "__main__":
    main()
