"""docs/gallery.md has every figure, and its lines draw them."""

import re
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from pyro_vae import plots
from pyro_vae.comparison import Comparison
from pyro_vae.evaluation import Calibration, LogLikelihood
from pyro_vae.training import History

from .gallery import PAGE, draw, steps

TEXT = PAGE.read_text()
FUNCTIONS = [name for name in plots.__all__ if name.islower()]
METHODS = [
    (kind.__name__, name)
    for kind in (Calibration, Comparison, History, LogLikelihood)
    for name in dir(kind)
    if name.startswith("plot")
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_on_the_page(name: str) -> None:
    assert f"`plots.{name}`" in TEXT
    code = "\n".join(code for code, _ in steps(TEXT))
    assert f"plots.{name}(" in code or name in ("dots", "save")  # which others call


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_result_that_draws_itself_is_on_the_page(kind: str, name: str) -> None:
    makers = {
        "Calibration": "calibration(...).plot(",
        "Comparison": "compare(...).plot(" if name == "plot" else f"`{name}(",
        "History": "history.plot(",
        "LogLikelihood": "log_likelihood(...).plot(",
    }
    assert makers[kind] in TEXT


def test_pictures_are_there_small_and_told_in_words() -> None:
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", TEXT)
    paths = [PAGE.parent / link for _, link in pictures]
    assert set(paths) == set((PAGE.parent / "gallery").iterdir())
    assert len(paths) == len([link for _, link in steps(TEXT) if link])
    assert sum(path.stat().st_size for path in paths) < 1.5e6
    for path in paths:
        height, width = imread(path).shape[:2]
        assert 500 <= width <= 1700, path.name
        assert height <= 1700, path.name


SHORTER = (
    (r"\bepochs=\d+", "epochs=1"),
    (r"\bseeds=\([\d, ]+\)", "seeds=(0, 1)"),
    (r"likelihood_epochs=\([\d, ]+\)", "likelihood_epochs=(1,)"),
    (r"\bnum_(samples|datasets)=\d+", r"num_\1=60"),
    (r"\[:2000\]", "[:256]"),
    (r"\bdata\.train,", "data.train[:256],"),
)


@pytest.mark.slow
def test_the_lines_draw_the_pictures(tmp_path: Path) -> None:
    def shorter(code: str) -> str:
        for long, short in SHORTER:
            code = re.sub(long, short, code)
        return code

    drawn = draw(tmp_path, shorter)
    assert [link for _, link in steps(TEXT) if link] == list(drawn)
    for link, ax in drawn.items():
        assert isinstance(ax, Axes)
        assert (tmp_path / link).stat().st_size > 0
