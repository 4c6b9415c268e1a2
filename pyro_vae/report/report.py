"""Reports: a page of a run or of a pair, several runs side by side, and the explorer alone."""

import html
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.pair import Pair, check_pair
from pyro_vae.report.decoding import decoding_of
from pyro_vae.report.evidence import Evidence, latent_points
from pyro_vae.report.explorer import explorer_of
from pyro_vae.report.layers import NotInPage
from pyro_vae.report.page import rendered
from pyro_vae.report.parts import Section, Text
from pyro_vae.report.sections import (
    POINTS,
    latents,
    likelihood,
    pictures,
    summary,
    thumbnails,
    training,
)
from pyro_vae.report.sections import explore as explore_section
from pyro_vae.report.several import side_by_side
from pyro_vae.report.sources import evidence_of_pair, evidence_of_runs
from pyro_vae.training import History
from pyro_vae.utils.checks import check_flag, check_path, check_seed, kind
from pyro_vae.utils.context import Batch, as_batch

__all__ = ["Explorer", "explore", "report"]


def report(
    source: str | Path | Pair | Sequence[str | Path],
    x: Batch | None = None,
    *,
    out: str | Path,
    labels: Tensor | Sequence[str] | None = None,
    history: History | None = None,
    result: LogLikelihood | None = None,
    data: bool = True,
    root: str | Path | None = None,
    seed: int | None = 0,
) -> Path:
    """Writes one HTML page of a run, of a pair, or of several runs; it needs no network.

    A page of one has the verdict, an explorer of the decoder, curves, log-likelihoods with k-hat,
    reconstructions and new examples, and the latents. One of several runs has them side by side,
    with paired differences of log-likelihoods where these are of the same data, and the explorer
    of each.

    Arguments:
        source: The folder of a run that ``pyro-vae train`` wrote; a VAE or any :class:`Pair`; or
            several folders.
        x: Examples for a pair, or a tuple of them and their context: the first 1000 are looked
            at. None leaves out what needs them. A run has its own.
        out: The file.
        labels: A label of each example of a pair: integers, or strings.
        history: The history of a pair's training.
        result: A log-likelihood of a pair.
        data: Whether the page has examples of the data, their reconstructions and their latent
            points.
        root: The folder of a run's data, as in ``datasets.load``.
        seed: Fixes the noise; None draws from torch's global generator.

    Returns:
        The file.

    Raises:
        TypeError: The source is something else, or a run comes with what is a pair's.
        ValueError: A folder is given twice, or labels are not one for each example.
        FileNotFoundError: A folder holds no run.
        DamagedRun: A run is damaged. No page is written then.
        ModuleNotFoundError: Bokeh or Jinja2 is not installed: ``pip install 'pyro_vae[report]'``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.report import report
        >>> vae = presets.build("bernoulli-mlp", shape=(28, 28))
        >>> x = datasets.binarize(datasets.load("digits").test[:20], seed=0)
        >>> with TemporaryDirectory() as folder:
        ...     page = report(vae, x, out=f"{folder}/page.html").read_text(encoding="utf-8")
        >>> page.startswith("<!doctype html>")
        True
    """
    check_path("out", out)
    check_path("root", root, none=True)
    check_flag("data", data)
    check_seed(seed)
    if isinstance(source, Pair):
        if root is not None:
            raise TypeError("root: got a folder for a pair, expected None: x is its data")
        found = [evidence_of_pair(source, x, labels, history, result, seed)]
    else:
        folders = _folders(source)
        given = {"x": x, "labels": labels, "history": history, "result": result}
        for argument, value in given.items():
            if value is not None:
                raise TypeError(
                    f"{argument}: got {kind(value)} for a run, expected None: a run has its own"
                )
        found = evidence_of_runs(folders, None if root is None else Path(root), seed)
    text = _page(found, seed, data)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _folders(source: object) -> list[Path]:
    if isinstance(source, str | Path):
        return [Path(source)]
    if isinstance(source, Sequence) and source and all(isinstance(f, str | Path) for f in source):
        return [Path(folder) for folder in source]
    raise TypeError(
        f"source: got {kind(source)}, expected the folder of a run, several folders, or a pair"
    )


def _page(found: Sequence[Evidence], seed: int | None, data: bool) -> str:
    contained = Section("data", "What this page contains", [Text(_contained(found, data))])
    if len(found) > 1:
        title = ", ".join(own.name for own in found)
        return rendered(title, [*side_by_side(found, seed, data), contained])
    (own,) = found
    sheet, size = thumbnails(own) if data else ("", None)
    sections = [
        summary(own),
        explore_section(own),
        *training(own),
        *likelihood(own),
        *pictures(own, seed, data),
        *latents(own, size, data),
        contained,
    ]
    return rendered(own.name, sections, sheet)


def _contained(found: Sequence[Evidence], data: bool) -> str:
    """Which of the data the page has."""
    one = len(found) == 1
    decoder = " A decoder's weights are in it where there is an explorer."
    if not data:
        return f"No examples of the data: this page was made without them.{decoder}"
    if all(own.seen is None for own in found):
        return f"No examples of the data.{decoder}"
    points = f", and the latent points, labels and small pictures of up to {POINTS} of them"
    return (
        f"This file has examples with their reconstructions{points if one else ''}. Without them: "
        f"pyro-vae report --no-data, or report(..., data=False).{decoder}"
    )


class Explorer:
    """The explorer of a decoder, which a notebook shows.

    Attributes:
        page: Its page, as a text.
    """

    def __init__(self, page: str) -> None:
        self.page = page

    def _repr_html_(self) -> str:
        framed = html.escape(self.page, quote=True)
        return (
            f'<iframe srcdoc="{framed}" title="Explorer of the decoder" '
            'style="width:100%;height:44rem;border:0"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page to a file, and returns it."""
        check_path("path", path)
        Path(path).write_text(self.page, encoding="utf-8")
        return Path(path)


def explore(vae: Composed, x: Batch | None = None) -> Explorer:
    """An explorer of a decoder: drag the point of two latents, and the image changes.

    Arguments:
        vae: A VAE, or another pair of images that is made of parts.
        x: Examples, or a tuple of them and their context, by which the latents are ordered, the
            most active first; None leaves them in their order.

    Returns:
        What a notebook shows, and ``save`` writes.

    Raises:
        TypeError: `vae` is not made of parts.
        ValueError: x is no image, or the pair has no decoder.

    Example:
        >>> from pyro_vae.report import explore
        >>> vae = presets.build("bernoulli-mlp", shape=(28, 28))
        >>> explore(vae).page.startswith("<!doctype html>")
        True
    """
    check_pair(vae)
    if not isinstance(vae, Composed):
        raise TypeError(f"vae: got {kind(vae)}, expected a pair that is made of parts, as a VAE")
    try:
        points = None if x is None else latent_points(vae, as_batch(x))
        part = explorer_of(decoding_of(vae), points)
    except NotInPage as error:
        raise ValueError(f"vae: got one that cannot be explored, since {error}") from error
    return Explorer(rendered("Explorer", [Section("explore", vae.name, [part])]))
