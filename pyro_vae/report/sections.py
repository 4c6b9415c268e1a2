"""The sections of a report of one pair."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.report import charts
from pyro_vae.report.decoding import Decoding, decoding_of
from pyro_vae.report.evidence import Evidence, Score
from pyro_vae.report.explorer import explorer_of
from pyro_vae.report.layers import NotInPage
from pyro_vae.report.page import Chart, Explore, Lines, Part, Picture, Section, Table, Text
from pyro_vae.report.pictures import as_images, png, sheet
from pyro_vae.utils.random import seeded

__all__ = ["explore", "latents", "likelihood", "pictures", "summary", "thumbnails", "training"]

_POINTS = 500  # in the picture of the latents, each with a thumbnail
_SHOWN, _SAMPLES, _WORST = 10, 50, 10
_ZOOM = 2  # pixels of the page for one of an image


def summary(own: Evidence) -> Section:
    """What the pair is, and the verdict in three lines."""
    parts: list[Part] = []
    if own.scores:
        score = own.scores[-1]
        parts += [Text(_line_of(score), "number"), _trust(score)]
    else:
        parts.append(Text("No log-likelihood of these parameters: pyro-vae evaluate makes one."))
    if own.found is not None:
        parts += [Text(str(f), "doubt") for f in own.found.findings]
        if not own.found.findings:
            parts.append(Text("The diagnosis found nothing wrong."))
    return Section("summary", "Summary", [*parts, Lines(list(own.about.items()))])


def _line_of(score: Score) -> str:
    return (
        f"log p(x) = {score.mean:.2f} ± {score.stderr:.2f} nats per example "
        f"({len(score.values):,} examples, Monte Carlo error {score.mc_error:.3f})"
    )


def _trust(score: Score) -> Text:
    """Whether an estimate is to be trusted, in a line."""
    if score.doubt:
        return Text(f"Take care: {score.doubt}.", "doubt")
    if not score.num_samples:
        return Text("It is exact.")
    return Text(
        f"It can be trusted: k-hat is below {score.threshold:.2f} for each example, "
        f"with {score.num_samples:,} {score.estimator} samples."
    )


def explore(own: Evidence) -> list[Section]:
    """The live explorer; none for what is no image."""
    if not isinstance(own.pair, Composed):
        return []
    try:
        decoding = decoding_of(own.pair)
        found = explorer_of(decoding, _activity(own, decoding))
    except NotInPage:
        return []
    part = Explore("explorer", found.spec, found.note, found.latents, found.classes)
    return [Section("explore", "Explore", [part])]


def _activity(own: Evidence, decoding: Decoding) -> Tensor | None:
    """How active each latent of the top is."""
    if own.points is None or own.points.dim() != 2 or own.points.shape[1] != decoding.z_dim:
        return None
    return own.points.float().var(0)


def training(own: Evidence) -> list[Section]:
    """The curves."""
    if own.history is None or not len(own.history):
        return []
    history = own.history
    costs, kl = charts.curves({own.name: history})
    last = ", ".join(f"{name} {history[name][-1]:.2f}" for name in ("cost", "kl"))
    words = f"After {history['epoch'][-1]} epochs: {last} nats per example."
    parts = [
        Chart(costs, f"Costs by epoch, in nats per example. {words}", f"Costs by epoch. {words}"),
        Chart(kl, "The KL, on a scale of its own.", f"KL by epoch. {words}"),
    ]
    return [Section("training", "Training", parts)]


def likelihood(own: Evidence) -> list[Section]:
    """The scores, the bound by the number of samples, and k-hat."""
    parts: list[Part] = [_terms(own)] if own.bound is not None else []
    if own.scores:
        rows = [
            (
                f"{s.num_samples:,} {s.estimator}",
                f"{s.mean:.2f}",
                f"{s.stderr:.2f}",
                f"{s.mc_error:.3f}",
                f"{len(s.values):,}",
                _above(s),
            )
            for s in own.scores
        ]
        header = ["samples", "log p(x)", "std. error", "MC error", "examples", "k-hat too high"]
        parts.append(Table("Log-likelihoods, in nats per example", header, rows))
        last = own.scores[-1]
        if last.num_samples > 1:
            bounds = charts.bounds({own.name: (last.sizes, last.bounds, last.errors)})
            words = (
                f"The mean of L_k rises from {last.bounds[0]:.2f} with one sample to "
                f"{last.mean:.2f} with {last.num_samples:,}."
            )
            caption = f"{words} Where it still rises, log p(x) is higher."
            parts.append(Chart(bounds, caption, words))
        if not math.isnan(last.threshold):
            words = f"k-hat is above {last.threshold:.2f} for {_above(last)} examples."
            parts.append(
                Chart(
                    charts.khats(last.khat, last.threshold),
                    f"{words} Beyond the dashed line, {last.num_samples:,} samples are too few.",
                    f"Histogram of k-hat. {words}",
                )
            )
    return [Section("likelihood", "Log-likelihood", parts)] if parts else []


def _terms(own: Evidence) -> Table:
    bound = own.bound
    assert bound is not None
    rows = [
        (name, f"{mean:.2f}", f"{error:.2f}")
        for name, mean, error in (
            ("ELBO", bound.mean, bound.stderr),
            ("reconstruction", bound.reconstruction_mean, bound.reconstruction_stderr),
            ("KL", bound.kl_mean, bound.kl_stderr),
        )
    ]
    caption = f"The ELBO of {len(bound.values):,} examples, in nats per example"
    return Table(caption, ["term", "mean", "std. error"], rows)


def _above(score: Score) -> str:
    if math.isnan(score.threshold):
        return "unknown"
    return f"{int((~(score.khat <= score.threshold)).sum()):,} of {len(score.khat):,}"


def pictures(own: Evidence, seed: int = 0, data: bool = True) -> list[Section]:
    """Examples beside their reconstructions, new ones, and what is reconstructed worst."""
    parts: list[Part] = []
    try:
        if isinstance(own.pair, Composed) and own.batch is not None and data:
            parts += _reconstructions(own)
        if isinstance(own.pair, Composed):
            parts += _samples(own.pair, seed)
    except NotInPage:
        return []
    return [Section("pictures", "What it makes", parts)] if parts else []


def _reconstructions(own: Evidence) -> list[Part]:
    assert own.batch is not None
    assert own.bound is not None
    x, made = own.batch[0], own.reconstructed
    if made is None or torch.isnan(x).any():
        return []
    first = list(range(min(_SHOWN, len(x))))
    if own.labels is not None and len(own.labels.unique()) > 1:
        labels = own.labels
        first = [int((labels == y).nonzero()[0, 0]) for y in labels.unique()[:_SHOWN].tolist()]
    worst = own.bound.reconstruction.argsort(descending=True)[:_WORST].tolist()
    costs = ", ".join(f"{own.bound.reconstruction[i].item():.0f}" for i in worst)
    return [
        _picture(
            [x[first], made[first]],
            len(first),
            "Examples (above) and their reconstructions.",
            f"{len(first)} examples in a row, their reconstructions below",
        ),
        _picture(
            [x[worst], made[worst]],
            len(worst),
            f"Reconstructed worst of {len(x):,}: they cost {costs} nats.",
            f"The {len(worst)} examples with the greatest reconstruction cost, and what is made",
        ),
    ]


def _samples(pair: Any, seed: int) -> list[Part]:
    """New examples; of each class where the pair takes one."""
    with seeded(seed):
        try:
            classes = decoding_of(pair).classes
        except NotInPage:
            classes = None
        given = None if classes is None else torch.arange(classes)
        if given is None:
            made = pair.generate(_SAMPLES)
        elif hasattr(pair, "classify"):
            made = torch.cat([pair.generate(5, y=int(y)) for y in given])
        else:
            made = pair.generate(5, context=given)
    columns = 10
    what = "of each class five" if given is not None else "draws of the prior, decoded"
    return [_picture([made], columns, f"New examples: {what}.", f"{len(made)} new examples")]


def _picture(rows: Sequence[Tensor], columns: int, caption: str, alt: str) -> Picture:
    pixels = sheet(torch.cat([as_images(x) for x in rows]), columns)
    height, width = pixels.shape[:2]
    return Picture(png(pixels), caption, alt, _ZOOM * width, _ZOOM * height)


def thumbnails(own: Evidence) -> tuple[str, tuple[int, int]] | None:
    """The examples of the latents' picture below each other, and the size of one."""
    if own.batch is None:
        return None
    try:
        images = as_images(own.batch[0][:_POINTS])
    except NotInPage:
        return None
    return png(sheet(images, 1)), (images.shape[1], images.shape[2])


def latents(own: Evidence, thumbnail: tuple[int, int] | None) -> list[Section]:
    """The latent points by label, and how active each latent is."""
    parts: list[Part] = []
    if own.points is not None and own.points.dim() == 2 and own.points.shape[1] > 1:
        spread = own.points.float().var(0).argsort(descending=True)
        dims = sorted(spread[:2].tolist())
        points = own.points[:_POINTS, dims].float().cpu()
        names = _names(own.labels, len(points))
        words = f"Latent points of {len(points):,} examples in z{dims[0] + 1} and z{dims[1] + 1}"
        more = ", the two that vary most" if own.points.shape[1] > 2 else ""
        parts.append(
            Chart(
                charts.scatter(points, names, (dims[0], dims[1]), thumbnail),
                f"{words}{more}, by label. The example under the pointer is shown.",
                f"{words}.",
            )
        )
    if own.units is not None:
        kl = own.kl if own.kl is not None and len(own.kl) == len(own.units.statistic) else None
        words = (
            f"{own.units.count} of {len(own.units.statistic)} latents are active: their points "
            f"vary by more than {own.units.threshold:g} over the examples."
        )
        chart = charts.units(kl, own.units.statistic, own.units.threshold)
        parts.append(Chart(chart, words, words))
    return [Section("latents", "Latents", parts)] if parts else []


def _names(labels: Tensor | None, count: int) -> list[str]:
    return ["all"] * count if labels is None else [str(y) for y in labels[:count].tolist()]
