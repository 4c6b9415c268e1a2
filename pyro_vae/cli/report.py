"""``pyro-vae report``: writes a page of one run, or of several side by side."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pyro_vae.cli.options import RootOption, say

_ONE, _SEVERAL = "report.html", "reports.html"


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder of a run; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"File of the page. Without it {_ONE} in the run, or {_SEVERAL} beside the first."
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    data: Annotated[bool, typer.Option(help="Whether the page has examples of the data.")] = True,
    seed: Annotated[int, typer.Option(help="Fixes the draw of the pixels and the noise.")] = 0,
    root: RootOption = None,
) -> None:
    """Write a page to look at: verdict, explorer, curves, log-likelihood, pictures, latents."""
    from pyro_vae.report import report as write

    path = out or (runs[0] / _ONE if len(runs) == 1 else runs[0].parent / _SEVERAL)
    source = runs[0] if len(runs) == 1 else runs
    written = write(source, out=path, data=data, root=root, seed=seed)
    say(f"report: {written}")
    if open_page:
        webbrowser.open(written.resolve().as_uri())
