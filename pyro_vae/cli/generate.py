"""``pyro-vae generate``: new examples of a run, as a file."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from pyro_vae import presets
from pyro_vae.cli.options import RunArgument, check_out, say
from pyro_vae.composed import Composed
from pyro_vae.models import MixtureVAE, SemiSupervisedVAE
from pyro_vae.runs import is_conditional, table_of, trained
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.random import seeded


def generate(
    run: RunArgument,
    out: Annotated[
        Path,
        typer.Argument(
            help="File that is written: .csv for a table, .npy for images.", show_default=False
        ),
    ],
    count: Annotated[int, typer.Option(help="Number of examples.")] = 100,
    point: Annotated[
        bool,
        typer.Option("--point", help="Write the likelihood's point values in place of draws."),
    ] = False,
    label: Annotated[
        int | None, typer.Option(help="Class of all examples, for a run that has classes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the draws.")] = 0,
) -> None:
    """Write new examples: draws of x from the model, as a CSV file or a NumPy array."""
    check_count("count", count)
    check_seed(seed)
    vae, _ = trained(run)
    table = table_of(vae)
    check_out(out, ".npy" if table is None else ".csv")
    settings = _of_class(vae, label)
    with seeded(seed):
        x = vae.generate(count, sample=not point, **settings)
    if table is None:
        np.save(out, x.cpu().numpy())
    else:
        table.to_frame(x).to_csv(out, index=False, float_format="%.9g")  # as float32 has them
    say(f"written: {out} (shape {tuple(x.shape)})")


def _of_class(vae: Composed, label: int | None) -> dict[str, Any]:
    """What ``generate`` takes for a class.

    Raises:
        ValueError: The run has no classes, or needs one, or the class is out of range.
    """
    classes, is_needed = _classes(vae), is_conditional(vae)
    if label is None and not is_needed:
        return {}
    if not classes:
        raise ValueError(f"label: got {label}, expected none: the run has no classes")
    if label is None or not 0 <= label < classes:
        why = ", which the run's likelihood takes" if is_needed else ""
        got = "none" if label is None else label
        raise ValueError(f"label: got {got}, expected a class from 0 to {classes - 1}{why}")
    return {"context": torch.tensor([label])} if is_needed else {"y": label}


def _classes(vae: Composed) -> int:
    """The number of classes of a run's pair; 0 for none."""
    if is_conditional(vae):
        return presets.CLASSES
    if isinstance(vae, SemiSupervisedVAE):
        return vae.classes
    if isinstance(vae, MixtureVAE):
        return int(vae.prior().mixture_distribution.logits.shape[-1])
    return 0
