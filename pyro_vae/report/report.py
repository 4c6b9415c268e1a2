"""Reports: a page of a run or of a pair, several runs side by side, and the explorer alone."""

import html
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pyro_vae import datasets, storage
from pyro_vae.composed import Composed
from pyro_vae.evaluation import LogLikelihood, active_units
from pyro_vae.pair import Pair, check_pair
from pyro_vae.report.decoding import decoding_of
from pyro_vae.report.evidence import EXAMPLES, Evidence, Score, gathered
from pyro_vae.report.explorer import explorer_of
from pyro_vae.report.layers import NotInPage
from pyro_vae.report.page import Explore, Section, Text, rendered
from pyro_vae.report.sections import explore as explore_section
from pyro_vae.report.sections import (
    latents,
    likelihood,
    pictures,
    summary,
    thumbnails,
    training,
)
from pyro_vae.report.several import side_by_side
from pyro_vae.runs import Rows, open_run, with_labels
from pyro_vae.training import History
from pyro_vae.utils.checks import check_flag, check_path, kind
from pyro_vae.utils.context import Batch, as_batch
from pyro_vae.utils.random import seeded

__all__ = ["Explorer", "explore", "report"]


def report(
    source: str | Path | Pair | Sequence[str | Path],
    x: Batch | None = None,
    *,
    out: str | Path,
    labels: Tensor | None = None,
    history: History | None = None,
    result: LogLikelihood | None = None,
    data: bool = True,
    root: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Writes one HTML page of a run, of a pair, or of several runs; it needs no network.

    A page of one has the verdict, an explorer of the decoder, curves, log-likelihoods with k-hat,
    reconstructions and new examples, and the latents. One of several runs has them side by side,
    with paired differences of log-likelihoods where these are of the same data.

    Arguments:
        source: The folder of a run that ``pyro-vae train`` wrote; a VAE or any :class:`Pair`; or
            several folders.
        x: Examples for a pair, or a tuple of them and their context: the first 1000 are looked
            at. None leaves out what needs them. A run has its own.
        out: The file.
        labels: A label of each example of a pair.
        history: The history of a pair's training.
        result: A log-likelihood of a pair.
        data: Whether the page has examples of the data, their reconstructions and their latent
            points.
        root: The folder of a run's data, as in ``datasets.load``.
        seed: Fixes the noise.

    Returns:
        The file.

    Raises:
        TypeError: The source is something else, or a run comes with what is a pair's.
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
    check_flag("data", data)
    if isinstance(source, Pair):
        scores = () if result is None else (Score.of(result),)
        about = {"pair": type(source).__name__, "parameters": _parameters(source)}
        name = source.name if isinstance(source, Composed) else "pair"
        found = [gathered(name, about, source, x, labels, history, scores, seed)]
    else:
        given = {"x": x, "labels": labels, "history": history, "result": result}
        for argument, value in given.items():
            if value is not None:
                raise TypeError(f"{argument}: got one for a run, expected None: it has its own")
        found = [_of_run(Path(folder), root, seed) for folder in _folders(source)]
    text = _page(found, data, seed)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _folders(source: object) -> list[str | Path]:
    if isinstance(source, str | Path):
        return [source]
    if isinstance(source, Sequence) and source and all(isinstance(f, str | Path) for f in source):
        return list(source)
    raise TypeError(
        f"source: got {kind(source)}, expected the folder of a run, several folders, or a pair"
    )


def _parameters(pair: Pair) -> str:
    return f"{sum(p.numel() for p in pair.parameters() if p.requires_grad):,}"


def _of_run(folder: Path, root: str | Path | None, seed: int) -> Evidence:
    """A run's history, evaluations of its parameters, and test set."""
    run = open_run(folder, None if root is None else Path(root))
    settings, config, vae = run.settings, storage.read_config(folder), run.vae
    test, labels = run.dataset.test[:EXAMPLES], run.dataset.test_labels[:EXAMPLES]
    if settings["pixels"] is not None:
        with seeded(seed):
            test = datasets.to_pixels(test, settings["pixels"])
    digest = storage.weights_hash(folder)
    scores = [
        Score.read(record)
        for record in storage.evaluations(folder)
        if record.get("weights_hash") == digest and "bounds" in record
    ]
    preset = config["preset"]
    about = {
        "preset": f"{preset['name']}, {preset['z_dim']} latents",
        "data": f"{settings['data']}, {settings['pixels'] or 'rows of a table'}",
        "epochs": f"{settings.get('epochs_done')} of {settings.get('epochs')}",
        "objective": str(settings.get("objective")),
        "parameters": _parameters(vae),
        "made by": str(settings.get("command", "unknown")),
        "made on": str(settings.get("date", "unknown")),
        "versions": ", ".join(f"{name} {v}" for name, v in config["versions"].items()),
    }
    history = History.load_csv(folder / storage.METRICS)
    none = isinstance(run.dataset, Rows) or not len(labels)
    given = with_labels(vae, test, labels)
    own = None if none else labels
    return gathered(folder.name, about, vae, given, own, history, scores, seed)


def _page(found: Sequence[Evidence], data: bool, seed: int) -> str:
    if len(found) > 1:
        title = ", ".join(own.name for own in found)
        return rendered(title, [*side_by_side(found, data), _embedded(found, data)])
    (own,) = found
    shown = thumbnails(own) if data else None
    sheet, size = shown or ("", None)
    sections = [
        summary(own),
        *explore_section(own),
        *training(own),
        *likelihood(own),
        *pictures(own, seed, data),
        *(latents(own, size) if data else []),
        _embedded(found, data),
    ]
    return rendered(own.name, sections, sheet)


def _embedded(found: Sequence[Evidence], data: bool) -> Section:
    """What the page has of the data."""
    if not data:
        text = "No examples of the data: this page was made without them."
    else:
        counts = [len(own.batch[0]) for own in found if own.batch is not None]
        text = (
            "No examples of the data."
            if not counts
            else "Examples of the data are in this file: those that are shown above, and the "
            f"latent points, labels and small pictures of up to {max(counts):,} of them. "
            "Without them: pyro-vae report --no-data, or report(..., data=False)."
        )
    text += " The decoder's weights are in it where there is an explorer."
    return Section("data", "What this page contains", [Text(text)])


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
        decoding = decoding_of(vae)
        activity = None
        if x is not None:
            units = active_units(vae, as_batch(x), seed=0)
            activity = list(units.by_site().values())[-1].flatten()
            activity = activity if len(activity) == decoding.z_dim else None
        found = explorer_of(decoding, activity)
    except NotInPage as error:
        raise ValueError(f"vae: got one that cannot be explored, since {error}") from error
    part = Explore("explorer", found.spec, found.note, found.latents, found.classes)
    return Explorer(rendered("Explorer", [Section("explore", vae.name, [part])]))
