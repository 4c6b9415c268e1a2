"""The sections of a report of one pair."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.pair import Pair
from pyro_vae.report import charts
from pyro_vae.report.decoding import decoding_of, images_of, is_given
from pyro_vae.report.evidence import Evidence, Seen
from pyro_vae.report.explorer import explorer_of
from pyro_vae.report.layers import NotInPage
from pyro_vae.report.parts import Chart, Lines, Part, Picture, Points, Section, Table, Text
from pyro_vae.report.pictures import png, sheet
from pyro_vae.report.score import Score
from pyro_vae.utils.context import rows
from pyro_vae.utils.random import seeded

__all__ = [
    "POINTS",
    "explore",
    "latents",
    "likelihood",
    "pictures",
    "summary",
    "thumbnails",
    "training",
]

POINTS = 500
"""How many examples the picture of the latents has, each with a thumbnail."""

_LONGEST_SHEET = 1_000_000  # bytes of their thumbnails
_SHOWN = 10  # examples in a row
_SAMPLES, _OF_EACH = 50, 5
_ZOOM = 2  # pixels of the page for one of an image


def summary(own: Evidence) -> Section:
    """The verdict in three lines, and what the pair is."""
    parts: list[Part] = []
    if own.scores:
        score = own.scores[-1]
        mean = f"log p(x) = {score.mean:.2f} ± {score.stderr:.2f} nats per example"
        more = f"{len(score.values):,} examples, Monte Carlo error {score.mc_error:.3f}"
        parts += [Text(f"{mean} ({more})", "number"), _trust(score)]
    else:
        parts.append(
            Text("No log-likelihood of these parameters: pyro-vae evaluate RUN makes one.")
        )
    if own.seen is not None:
        findings = own.seen.diagnosis.findings
        parts += [Text(str(finding), "doubt") for finding in findings]
        if not findings:
            parts.append(Text("The diagnosis found nothing wrong."))
    return Section("summary", "Summary", [*parts, Lines(own.about)])


def _trust(score: Score) -> Text:
    if score.doubt:
        return Text(f"Take care: {score.doubt}.", "doubt")
    if not score.num_samples:
        return Text("It is exact.")
    return Text(
        f"It can be trusted: with {score.how} samples, k-hat is at most {score.threshold:.2f} for "
        "each example."
    )


def explore(own: Evidence, name: str = "explorer") -> Section:
    """The live explorer of a name that no other on the page has, or why there is none."""
    try:
        if not isinstance(own.pair, Composed):
            raise NotInPage("the pair is not composed of parts, so the page knows no decoder")
        decoding = decoding_of(own.pair)
        points = None if own.seen is None else own.seen.points
        part: Part = explorer_of(decoding, points, name)
    except NotInPage as error:
        part = Text(f"There is no explorer: {error}.")
    return Section("explore", "Explore", [part])


def training(own: Evidence) -> list[Section]:
    """The curves."""
    history = own.history
    if history is None or not history.get("epoch"):
        return []
    costs, kl = charts.curves({own.name: history})
    last = [f"{name} {history[name][-1]:.2f}" for name in ("cost", "kl") if name in history]
    words = f"After {history['epoch'][-1]} epochs: {', '.join(last)} nats per example."
    parts = [
        Chart("costs", costs, f"Costs by epoch. {words}", f"Costs by epoch. {words}"),
        Chart("kl", kl, "The KL, on a scale of its own.", f"KL by epoch. {words}"),
    ]
    return [Section("training", "Training", parts)]


def likelihood(own: Evidence) -> list[Section]:
    """The ELBO's terms, the scores, the bound by the number of samples, and k-hat."""
    parts: list[Part] = [] if own.seen is None else [_terms(own.seen)]
    if own.scores:
        parts.append(_scores(own.scores))
        last = own.scores[-1]
        if last.num_samples > 1:
            parts.append(_bounds(own.name, last))
        if not math.isnan(last.threshold):
            parts.append(_khats(last))
    return [Section("likelihood", "Log-likelihood", parts)] if parts else []


def _terms(seen: Seen) -> Table:
    bound = seen.bound
    terms = {
        "ELBO": (bound.mean, bound.stderr),
        "reconstruction": (bound.reconstruction_mean, bound.reconstruction_stderr),
        "KL": (bound.kl_mean, bound.kl_stderr),
    }
    caption = f"ELBO of {len(bound.values):,} examples, in nats per example"
    rows = [(name, f"{mean:.2f}", f"{error:.2f}") for name, (mean, error) in terms.items()]
    return Table(caption, ["term", "mean", "std. error"], rows)


def _scores(scores: Sequence[Score]) -> Table:
    header = ["samples", "log p(x)", "std. error", "MC error", "examples", "k-hat too high"]
    rows = [
        (
            score.how,
            f"{score.mean:.2f}",
            f"{score.stderr:.2f}",
            f"{score.mc_error:.3f}",
            f"{len(score.values):,}",
            score.doubtful,
        )
        for score in scores
    ]
    return Table("Log-likelihoods, in nats per example", header, rows)


def _bounds(name: str, score: Score) -> Chart:
    words = (
        f"The mean of L_k rises from {score.bounds[0]:.2f} with one sample to {score.mean:.2f} "
        f"with {score.num_samples:,}."
    )
    drawn = charts.bounds({name: (score.sizes, score.bounds, score.errors)})
    return Chart("bounds", drawn, f"{words} Where it still rises, log p(x) is higher.", words)


def _khats(score: Score) -> Chart:
    words = f"k-hat is above {score.threshold:.2f}, or undefined, for {score.doubtful} examples."
    drawn = charts.khats(score.khat, score.threshold)
    caption = f"{words} Beyond the dashed line, {score.num_samples:,} samples are too few."
    return Chart("khats", drawn, caption, f"Histogram of k-hat. {words}")


def pictures(own: Evidence, seed: int | None, data: bool) -> list[Section]:
    """Examples beside their reconstructions, what is reconstructed worst, and new examples.

    Arguments:
        own: The pair.
        seed: Fixes the new examples.
        data: Whether examples of the data are shown.
    """
    parts: list[Part] = []
    try:
        if data and own.seen is not None:
            parts += _reconstructions(own.pair, own.seen)
        if isinstance(own.pair, Composed):
            with seeded(seed):
                parts += _samples(own.pair, own.seen if data else None)
    except NotInPage:
        return []
    return [Section("pictures", "What it makes", parts)] if parts else []


def _reconstructions(pair: Pair, seen: Seen) -> list[Part]:
    x, made = seen.batch[0], seen.reconstructed
    if made is None:
        return []
    each = {label: i for i, label in reversed(list(enumerate(seen.labels or ())))}
    first = [each[label] for label in sorted(each)][:_SHOWN]  # the first of each label
    first = first if len(first) > 1 else list(range(min(_SHOWN, len(x))))
    costs = seen.bound.reconstruction
    worst = costs.argsort(descending=True)[:_SHOWN].tolist()
    numbers = ", ".join(f"{costs[i].item():.0f}" for i in worst)
    return [
        _picture(
            images_of(pair, torch.cat([x[first], made[first]])),
            len(first),
            "Examples, and their reconstructions below.",
            f"{len(first)} examples in a row, their reconstructions below",
        ),
        _picture(
            images_of(pair, torch.cat([x[worst], made[worst]])),
            len(worst),
            f"Reconstructed worst of {len(x):,}: they cost {numbers} nats.",
            f"The {len(worst)} examples that cost most to reconstruct, reconstructions below",
        ),
    ]


def _samples(pair: Composed, seen: Seen | None) -> list[Part]:
    """New examples: of each class, or of the contexts of the first examples, if there are any."""
    try:
        decoding = decoding_of(pair)
    except NotInPage:
        decoding = None
    if decoding is not None and decoding.classes is not None:
        made = decoding.of_each_class(_OF_EACH)
        what = f"{_OF_EACH} of each class"
    elif not is_given(pair):
        made = pair.generate(_SAMPLES)
        what = "draws of the prior, decoded"
    elif seen is not None and len(seen.batch) > 1:
        context = rows(seen.batch[1:], slice(_SHOWN))
        made = pair.generate(_OF_EACH, context=context)
        what = f"{_OF_EACH} for each of the contexts of {len(context[0])} examples"
    else:
        return []
    alt = f"{len(made)} new examples"
    return [_picture(images_of(pair, made), _SHOWN, f"New examples: {what}.", alt)]


def _picture(images: Tensor, columns: int, caption: str, alt: str) -> Picture:
    pixels = sheet(images, columns)
    height, width = pixels.shape[:2]
    return Picture(png(pixels), caption, alt, _ZOOM * width, _ZOOM * height)


def thumbnails(own: Evidence) -> tuple[str, tuple[int, int] | None]:
    """The sheet of the latents' examples below each other, and the size of one.

    The sheet is empty if the examples are no images, or if it were too long.
    """
    if own.seen is None or not _has_plane(own.seen.points):
        return "", None
    try:
        images = images_of(own.pair, own.seen.batch[0][:POINTS])
    except NotInPage:
        return "", None
    found = png(sheet(images, 1))
    if len(found) > _LONGEST_SHEET:
        return "", None
    return found, (images.shape[1], images.shape[2])


def latents(own: Evidence, thumbnail: tuple[int, int] | None, data: bool) -> list[Section]:
    """The latent points by label, and how active each latent is.

    Arguments:
        own: The pair.
        thumbnail: Height and width of an example in the sheet, or None.
        data: Whether the points are shown.
    """
    if own.seen is None:
        return []
    parts: list[Part] = []
    if data and own.seen.points is not None and _has_plane(own.seen.points):
        parts.append(_scatter(own.seen.points, own.seen.labels, thumbnail))
    units = own.seen.units
    if units is not None:
        words = (
            f"{units.count} of {len(units.statistic)} latents are active: their points vary by "
            f"more than {units.threshold:g} over the examples."
        )
        parts.append(Chart("units", charts.latent_units(units, own.seen.kl), words, words))
    return [Section("latents", "Latents", parts)] if parts else []


def _has_plane(points: Tensor | None) -> bool:
    return points is not None and points.dim() == 2 and points.shape[1] > 1


def _scatter(
    points: Tensor, labels: Sequence[str] | None, thumbnail: tuple[int, int] | None
) -> Points:
    spread = points.float().var(0).argsort(descending=True)
    first, second = sorted(spread[:2].tolist())
    plane = points[:POINTS, [first, second]].float().cpu()
    names = ["all"] * len(plane) if labels is None else list(labels[: len(plane)])
    words = f"Latent points of {len(plane):,} examples in z{first + 1} and z{second + 1}"
    words += ", the two that vary most" if points.shape[1] > 2 else ""
    words += "" if labels is None else ", by label"
    shown = " The example under the pointer is shown." if thumbnail else ""
    drawn = charts.scatter(plane, names, (first, second), thumbnail)
    each = [(round(x, 4), round(y, 4), n) for (x, y), n in zip(plane.tolist(), names, strict=True)]
    return Points("points", drawn, f"{words}.{shown}", f"{words}.", each, thumbnail)
