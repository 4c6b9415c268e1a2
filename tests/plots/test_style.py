"""The style for papers: widths, fonts, and that no figure is cut."""

import contextlib
import re
from collections.abc import Callable, Mapping
from inspect import isfunction
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from pyro_vae import VAE, plots, presets
from pyro_vae.models import HierarchicalVAE
from pyro_vae.plots.style import TEMPLATES

Z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
X = torch.rand(12, 6, 6, generator=torch.Generator().manual_seed(0))


def vae() -> VAE:
    return presets.build("pyro-mlp", z_dim=5, shape=(6, 6))


def layered() -> HierarchicalVAE:
    return presets.build("two-layers-mlp", z_dim=2, shape=(6, 6))


def history() -> Mapping[str, list[float]]:
    columns = ("cost", "reconstruction", "kl", "validation_cost", "test_cost")
    return {"epoch": [1.0, 2.0]} | {name: [200.0, 100.0] for name in columns}


def on_both_panels() -> Axes:
    first, second = plots.panels()
    plots.bands([1, 2], {"trace_elbo": [[1.0, 2.0], [2.0, 3.0]]}, "test −ELBO", ax=first)
    plots.dots({"trace_elbo": {"ELBO": [1.0, 2.0]}}, "nats per example", ax=second)
    return first


LONGEST = "test log-likelihood in nats per example"

FIGURES: dict[str, Callable[[], Axes]] = {
    "bands": lambda: plots.bands([1, 2], {"a": [[1.0, 2.0], [2.0, 3.0]]}, LONGEST),
    "bounds": lambda: plots.bounds([1, 10], [-90.0, -87.0], [0.1, 0.1], "vae"),
    "columns": lambda: plots.columns(Z[:, :3], Z[:20, :3], names=["age", "height", "weight"]),
    "dots": lambda: plots.dots({"a": {"ELBO": [1.0, 2.0], "log": [3.0, 4.0]}}, "nats"),
    "generated": lambda: plots.generated(vae()),
    "images": lambda: plots.images(X, columns=4, title="images"),
    "interpolation": lambda: plots.interpolation(vae().decode, Z[:3], Z[3:6]),
    "khat": lambda: plots.khat(Z[:, 0], 0.7),
    "latent": lambda: plots.latent(Z, torch.arange(60) % 10),
    "layers": lambda: plots.layers(layered(), X),
    "lines": lambda: plots.lines({"a": ([1, 2], [3.0, 4.0])}, "k", "nats per example"),
    "manifold": lambda: plots.manifold(lambda z: z[:, :1, None].expand(-1, 4, 4)),
    "panels": on_both_panels,
    "ranks": lambda: plots.ranks(torch.arange(40).reshape(2, 20) % 10, 9, ["z[0]", "z[1]"]),
    "reconstructions": lambda: plots.reconstructions(vae(), X),
    "side_by_side": lambda: plots.side_by_side({"x": X, "1 - x": 1 - X}),
    "training_curves": lambda: plots.training_curves(history()),
    "traversal": lambda: plots.traversal(vae().decode, Z),
}


def test_every_figure_is_among_these() -> None:
    named = {name for name in plots.__all__ if isfunction(getattr(plots, name))}
    assert named - {"save", "style"} == set(FIGURES)


@pytest.mark.parametrize("width", ["neurips", "icml"])
@pytest.mark.parametrize("name", list(FIGURES))
def test_a_figure_is_as_wide_as_the_column_and_has_room_for_its_text(
    name: str, width: str, tmp_path: Path
) -> None:
    with plots.style("paper", width=width):
        ax = FIGURES[name]()
        figure = ax.get_figure(root=True)
        assert figure is not None
        assert figure.get_figwidth() == TEMPLATES[width][0]
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
        assert drawn.x0 >= -0.01
        assert drawn.y0 >= -0.01
        assert drawn.x1 <= figure.get_figwidth() + 0.01
        assert drawn.y1 <= figure.get_figheight() + 0.01
    with plots.style("paper", width=width):
        ax = FIGURES[name]()
    plots.save(ax, tmp_path / "figure.png")  # outside of the context, it keeps its style
    texts = [text for text in ax.figure.findobj(Text) if text.get_text()]
    assert {text.get_fontfamily()[0] for text in texts} == {"STIXGeneral"}
    assert all(5 <= text.get_fontsize() <= 10 for text in texts)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width == round(300 * TEMPLATES[width][0])


@pytest.mark.parametrize("name", ["training_curves", "latent", "traversal"])
def test_a_pdf_has_the_width_of_the_column_and_its_fonts(name: str, tmp_path: Path) -> None:
    with plots.style(width="icml", columns=2):
        ax = FIGURES[name]()
    plots.save(ax, tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ *0 0 ([\d.]+) ([\d.]+) *\]", content)
    assert box is not None
    assert float(box[1]) == pytest.approx(6.75 * 72, abs=0.01)
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Type3" not in content
    assert b"STIX" in content


def test_a_figure_without_a_style_has_embedded_fonts_too(tmp_path: Path) -> None:
    plots.save(FIGURES["lines"](), tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    plots.save(FIGURES["lines"](), tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()


def test_settings_are_as_before_afterwards() -> None:
    before = dict(rcParams)
    with plots.style():
        assert rcParams["font.size"] == 8
    assert dict(rcParams) == before
    with contextlib.suppress(RuntimeError), plots.style():
        raise RuntimeError
    assert dict(rcParams) == before
    assert FIGURES["lines"]().figure.get_size_inches().tolist() == [6.0, 4.0]
    with plots.style(width=4.0):
        with plots.style(width=2.0):
            assert FIGURES["lines"]().figure.get_figwidth() == 2
        assert FIGURES["lines"]().figure.get_size_inches().tolist() == [4.0, 4.0 * 4 / 6]


def test_figures_of_other_code_have_the_width() -> None:
    with plots.style(width="jmlr"):
        figure, _ = plt.subplots()
        assert figure.get_figwidth() == 6.0


def test_panels_stand_one_above_the_other_in_a_narrow_column() -> None:
    def places(width: str) -> list[tuple[float, float]]:
        with plots.style(width=width):
            both = plots.panels()
        both[0].figure.draw_without_rendering()
        return [(ax.get_position().x0, ax.get_position().y0) for ax in both]

    left, right = places("neurips")
    assert left[0] < right[0]
    assert left[1] == pytest.approx(right[1])
    upper, lower = places("icml")
    assert upper[0] == pytest.approx(lower[0])
    assert upper[1] > lower[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "poster"}, "name: got 'poster', expected 'paper'"),
        ({"width": "nips"}, "width: got 'nips', expected one of neurips, .* or a number of inch"),
        ({"width": 0.0}, r"width: got 0\.0, expected a finite number above 0"),
        ({"columns": 2}, "columns: got 2, expected at most 1: a page of neurips has 1"),
        ({"width": "icml", "columns": 3}, "columns: got 3, expected at most 2: a page of icml"),
        ({"width": 3.0, "columns": 2}, "columns: got 2, expected at most 1: a width in inches"),
    ],
)
def test_what_is_no_style_is_refused_before_it_is_entered(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plots.style(**arguments)
