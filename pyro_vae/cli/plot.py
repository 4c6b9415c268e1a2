"""``pyro-vae plot``: draws a run."""

from typing import Annotated, Any

import torch
import typer

from pyro_vae import datasets, plots, presets, storage
from pyro_vae.cli.options import RootOption, RunArgument, opened, say
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset
from pyro_vae.models import HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.runs import Rows, is_conditional
from pyro_vae.training import History
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

_IMAGES = 2000  # in the figure of the latent space
_FORMATS = ("png", "pdf", "svg")


def plot(
    run: RunArgument,
    quantiles: Annotated[
        bool,
        typer.Option("--quantiles", help="Space the manifold evenly in the prior's probability."),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Fixes the draw of the pixels and of the generated images.")
    ] = 0,
    format_: Annotated[
        str, typer.Option("--format", help=f"Format of the files: {', '.join(_FORMATS)}.")
    ] = "png",
    root: RootOption = None,
) -> None:
    """Draw a run: curves, reconstructions, generated images, manifold, latent space, traversal."""
    if format_ not in _FORMATS:
        raise ValueError(f"format: got {format_!r}, expected one of {', '.join(_FORMATS)}")
    found = opened(run, root)
    vae, settings, dataset = found.vae, found.settings, found.dataset
    z_dim = _z_dim(vae)
    if quantiles and z_dim != 2:
        raise ValueError(f"quantiles: the run has {z_dim} latents, expected 2")
    if quantiles and not isinstance(vae, VAE):
        raise ValueError(f"quantiles: the run has a {type(vae).__name__}, expected a VAE")
    figures = {"curves": History.load_csv(run / storage.METRICS).plot()}
    if isinstance(dataset, Rows):
        figures |= _of_rows(vae, dataset, seed)
    else:
        figures |= _figures(vae, dataset, settings["pixels"], quantiles, seed)
    folder = run / storage.FIGURES
    folder.mkdir(exist_ok=True)
    for name, ax in figures.items():
        plots.save(ax, folder / f"{name}.{format_}")
    if "manifold" not in figures and not isinstance(dataset, Rows):
        labels = " and labels" if is_conditional(vae) else ""
        say(f"no manifold: it takes 2 latents, the run has {z_dim}{labels}")
    say(f"pictures: {folder} ({', '.join(f'{name}.{format_}' for name in figures)})")


def _z_dim(vae: Composed) -> int:
    """The number of latents, of the top layer if there are several."""
    prior = vae.priors[-1] if isinstance(vae, HierarchicalVAE) else vae.prior
    return int(prior().event_shape[0])


def _of_rows(vae: Composed, rows: Rows, seed: int) -> dict[str, Any]:
    """Draws the test rows of a table beside as many draws of the model."""
    with seeded(seed):
        drawn = vae.generate(len(rows.test), sample=True)
    frames = (rows.table.to_frame(x) for x in (rows.test, drawn))
    return {"columns": plots.columns(*frames)}


def _figures(
    vae: Composed, dataset: Dataset, pixels: datasets.Pixels, quantiles: bool, seed: int
) -> dict[str, Any]:
    """Draws what the VAE makes of the test set and of draws of its prior."""
    conditional = is_conditional(vae)
    classes = torch.arange(presets.CLASSES) if conditional else None
    with seeded(seed):
        x = datasets.to_pixels(dataset.test[:_IMAGES], pixels)
        generated = plots.generated(vae, context=classes)
    labels = dataset.test_labels[: len(x)]
    # One image of each class says more than the first ten images.
    shown = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()]
    given = labels if conditional else None
    points = vae.embed(x, given)
    z = points[-1] if isinstance(vae, HierarchicalVAE) else points
    own = None if given is None else given[shown]
    figures = {
        "reconstructions": plots.reconstructions(x[shown], vae.reconstruct(x[shown], own)),
        "generated": generated,
    }
    if isinstance(vae, HierarchicalVAE):
        with seeded(seed):
            figures["layers"] = plots.layers(vae, x[shown], context=own)
    elif z.shape[1] == 2 and isinstance(vae, VAE) and not conditional:
        quantile = vae.prior().base_dist.icdf if quantiles else None
        figures["manifold"] = plots.manifold(vae.decode, quantile=quantile)
    if z.shape[1] >= 2:
        figures["latent"] = plots.latent(z, labels)
    # A class or another layer beside z would be one more thing to choose.
    if not (conditional or isinstance(vae, HierarchicalVAE | SemiSupervisedVAE)):
        figures["traversal"] = plots.traversal(vae.decode, z)
    return figures
