"""Pages in Chromium: the explorer decodes as torch does, and nothing goes wrong."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import (
    VAE,
    datasets,
    fit,
    likelihoods,
    load,
    networks,
    posteriors,
    presets,
    priors,
    save,
)  # fmt: skip
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset
from pyro_vae.report import explore, report
from pyro_vae.report.decoding import BOUND, decoding_of
from tests.vaes import IMAGE_PRESETS

from .conftest import Opened, until
from .test_report import HOSTILE

ROOT = Path(__file__).parent.parent.parent
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
PIXELS = """(canvas) => [...canvas.getContext("2d").getImageData(
    0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0)"""

POINT = """(number) => {
    const [x, y] = JSON.parse(document.getElementById("points-spec").textContent)[number];
    const view = Object.values(Bokeh.index).find(
        (v) => v.model.renderers.some((r) => r.data_source.name === "chosen"));
    view.el.scrollIntoView({ block: "center", behavior: "instant" });
    const box = view.el.getBoundingClientRect();
    return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""
"""Where the chart of the latent points has one of them."""


def batch(name: str, digits: Dataset, count: int = 60) -> Any:
    x, y = datasets.binarize(digits.test[:count], seed=0), digits.test_labels[:count]
    chosen = presets.get(name)
    return (x, y) if chosen.conditional or chosen.labelled else x


def in_page(page: Any, z: Tensor, y: Tensor) -> Tensor:
    """What the page's decoder gives."""
    script = """([z, y]) => {
        const root = document.querySelector("[data-explorer]");
        return z.map((each, i) => [...root.decode(each, y[i])]);
    }"""
    return torch.tensor(page.evaluate(script, [z.tolist(), y.tolist()]))


def levels(page: Any, part: str = "image") -> Tensor:
    """The grey levels of a canvas."""
    return torch.tensor(page.locator(f"[data-part={part}]").evaluate(PIXELS))


@pytest.fixture(params=["a pair", "two runs"])
def page_of(
    request: pytest.FixtureRequest, preset: Callable[[str], Composed], digits: Dataset,
    tmp_path: Path,
) -> Path:  # fmt: skip
    """A page with all that it may have: of a conditional pair, and of two runs."""
    path = tmp_path / "page.html"
    if request.param == "a pair":
        given = batch("conditional-mlp", digits)
        return report(preset("conditional-mlp"), given, out=path, labels=given[1])
    return report(two_runs(preset, digits, tmp_path), out=path)


def two_runs(
    preset: Callable[[str], Composed], digits: Dataset, folder: Path
) -> tuple[Path, Path]:
    """Two runs of other presets."""
    names = "bernoulli-mlp", "conditional-mlp"
    for name in names:
        vae = preset(name)
        history = fit(vae, batch(name, digits), epochs=2, batch_size=30, seed=0)
        settings = {"data": "digits", "pixels": "binary", "epochs": 2, "epochs_done": 2}
        save(vae, folder / name, training=settings)
        history.save_csv(folder / name / "metrics.csv")
    return folder / names[0], folder / names[1]


def place(page: Any) -> list[float]:
    """The latents of the point on the plane."""
    said = page.locator("[data-part=place]").inner_text()
    return [float(part.split("=")[1]) for part in said.split(",")]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "conditional-mlp" else pytest.param(name, marks=pytest.mark.slow)
        for name in IMAGE_PRESETS
    ],
)
def test_the_page_decodes_as_torch_does(
    name: str, preset: Callable[[str], Composed], opened: Opened, tmp_path: Path
) -> None:
    vae = preset(name)
    decoding = decoding_of(vae)
    z = 1.5 * torch.randn(10, decoding.z_dim)
    y = torch.randint(decoding.classes or 1, (10,))
    with opened(explore(vae).save(tmp_path / "page.html")) as page:
        off = in_page(page, z, y) - decoding.decode(z, y).flatten(1)
    assert off.abs().max() < BOUND


@pytest.mark.slow
def test_the_point_is_dragged(
    preset: Callable[[str], Composed], opened: Opened, tmp_path: Path
) -> None:
    vae = preset("bernoulli-mlp")
    with opened(explore(vae).save(tmp_path / "page.html")) as page:
        plane = page.locator("[data-part=plane]")
        box, before = plane.bounding_box(), levels(page)
        cell = box["width"] / 15
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        assert place(page) == [0.0, 0.0]
        page.mouse.move(box["x"] + cell / 2, box["y"] + cell / 2)  # the upper left image
        page.mouse.up()
        assert place(page) == [-1.5, 1.5]
        after = levels(page)
        page.mouse.move(box["x"] + 9 * cell, box["y"] + 9 * cell)  # It is let go.
        assert torch.equal(levels(page), after)
    assert (after - before).abs().max() > 10
    expected = 255 * (1 - vae.decode(torch.tensor([-1.5, 1.5]))).flatten()
    assert (after - expected).abs().max() <= 255 * BOUND + 0.5


@pytest.mark.slow
def test_the_plane_is_the_manifold(
    preset: Callable[[str], Composed], opened: Opened, tmp_path: Path
) -> None:
    """Except for the mark of the point, in the middle."""
    vae = preset("bernoulli-mlp")
    with opened(explore(vae).save(tmp_path / "page.html")) as page:
        drawn = levels(page, "plane").reshape(15, 28, 15, 28).transpose(1, 2)
    line = torch.linspace(-1.5, 1.5, 15)
    z = torch.stack([line.expand(15, 15), line.flip(0)[:, None].expand(15, 15)], -1)
    off = (drawn - 255 * (1 - vae.decode(z))).abs().amax((2, 3))
    off[6:9, 6:9] = 0
    assert off.max() <= 255 * BOUND + 0.5


@pytest.mark.slow
def test_the_keyboard_alone_reaches_and_moves_everything(
    preset: Callable[[str], Composed], digits: Dataset, opened: Opened, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    given = batch("conditional-mlp", digits)
    report(preset("conditional-mlp"), given, out=path, labels=given[1])
    with opened(path) as page:
        for details in page.locator("details:not([open]) > summary").all():
            details.focus()
            page.keyboard.press("Enter")
        every = page.evaluate(
            """() => [...document.querySelectorAll("a, button, input, summary, [tabindex]")]
                .map((e, i) => { e.dataset.stop = i; return i; })"""
        )
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(len(every) + 5):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("Number(document.activeElement.dataset.stop ?? -1)"))
        assert reached >= set(every)

        plane, before = page.locator("[data-part=plane]"), place(page)
        plane.focus()
        for key, axis, sign in (
            ("ArrowLeft", 0, -1), ("ArrowRight", 0, 1), ("ArrowUp", 1, 1), ("ArrowDown", 1, -1)
        ):  # fmt: skip
            was, image = place(page), levels(page)
            page.keyboard.press(key)
            assert place(page)[axis] - was[axis] == pytest.approx(0.15 * sign, abs=0.011)
            assert not torch.equal(levels(page), image)
            page.keyboard.press(f"Shift+{key}")
            assert place(page)[axis] - was[axis] == pytest.approx(0.18 * sign, abs=0.011)
        for slider in page.locator("[data-latent]").all():
            image = levels(page)
            slider.focus()
            for _ in range(20):
                page.keyboard.press("ArrowRight")
            assert not torch.equal(levels(page), image)
        image = levels(page)
        page.locator("[data-class='7']").focus()
        page.keyboard.press("Enter")
        assert page.locator("[aria-pressed=true]").inner_text() == "7"
        assert not torch.equal(levels(page), image)
        image = levels(page)
        page.locator("[data-part=walk]").focus()
        page.keyboard.press("Space")
        said = json.dumps(page.locator("[data-part=place]").inner_text())
        until(page, f"document.querySelector('[data-part=place]').innerText !== {said}")
        page.keyboard.press("Space")
        assert page.locator("[data-part=walk]").get_attribute("aria-pressed") == "false"
        page.locator("[data-part=back]").focus()
        page.keyboard.press("Enter")
        assert place(page) == before == [0.0, 0.0]
        page.locator("[data-points] input").focus()
        page.keyboard.press("ArrowRight")
        label = int(given[1][1])
        assert page.locator("[data-points] output").inner_text() == f"{label}, example 1"
        assert page.locator(".thumbnail").is_visible()


@pytest.mark.slow
def test_each_of_two_runs_has_its_explorer(
    preset: Callable[[str], Composed], digits: Dataset, opened: Opened, tmp_path: Path
) -> None:
    runs = two_runs(preset, digits, tmp_path)
    with opened(report(runs, out=tmp_path / "page.html")) as page:
        for number, run in enumerate(runs, 1):
            decoding = decoding_of(load(run))
            z = 1.5 * torch.randn(5, decoding.z_dim)
            y = torch.randint(decoding.classes or 1, (5,))
            script = """([number, z, y]) => {
                const root = document.querySelector(`#run-${number} [data-explorer]`);
                return z.map((each, i) => [...root.decode(each, y[i])]);
            }"""
            found = torch.tensor(page.evaluate(script, [number, z.tolist(), y.tolist()]))
            assert (found - decoding.decode(z, y).flatten(1)).abs().max() < BOUND
        epochs = page.locator("#summary tbody td:last-child")
        assert epochs.all_inner_texts() == ["2", "2"]
        places = page.locator("[data-part=place]")
        page.locator("#run-2 [data-part=plane]").focus()
        before = places.all_inner_texts()
        page.keyboard.press("ArrowRight")
        after = places.all_inner_texts()
        assert before[0] == after[0]
        assert before[1] != after[1]


@pytest.mark.slow
def test_a_grid_answers_as_a_decoder_does(opened: Opened, tmp_path: Path) -> None:
    network = networks.Conditioned(networks.MLP(2 + 3, (30_000,), (8, 8)), (), classes=3)
    with torch.no_grad():
        network.network.layers[0].weight.mul_(3)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(network),
        posteriors.Normal(networks.Conditioned(networks.MLP(64 + 3, (4,), 4), (), classes=3)),
    )
    with opened(explore(vae).save(tmp_path / "page.html")) as page:
        page.locator("[data-class='2']").click()
        until(page, "document.querySelector('[data-explorer]').dataset.drawn === '2'")
        page.locator("[data-part=plane]").focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert place(page) == [1.5, 0.0]
        expected = 255 * (1 - vae.decode(torch.tensor([1.5, 0.0]), torch.tensor(2))).flatten()
        assert (levels(page) - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1400])
def test_nothing_is_wider_than_the_page(
    width: int, scheme: str, page_of: Path, opened: Opened,
    screenshot: Callable[[Any, str], None], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    with opened(page_of, width, scheme) as page:
        screenshot(page, request.node.name)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ends = page.evaluate(
            """() => [...document.querySelectorAll("main *:not(.wide *)")]
                .map((e) => e.getBoundingClientRect().right)"""
        )
        assert max(ends) <= width
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("main section > *, header > *")]
                .map((e) => e.getBoundingClientRect()).filter((b) => b.height)
                .map((b) => [b.top, b.bottom])"""
        )
        boxes.sort()
        below = itertools.pairwise(boxes)
        assert all(second[0] >= first[1] - 1 for first, second in below)  # Nothing overlaps.


def test_hostile_labels_are_text_in_a_browser(
    digits: Dataset, opened: Opened, tmp_path: Path
) -> None:
    x = batch("pyro-mlp", digits, 40)
    vae = presets.build("pyro-mlp", shape=(28, 28))
    vae.name = HOSTILE[0]
    labels = [HOSTILE[i % 4] for i in range(40)]
    path = tmp_path / "<b>'é\"" / "page.html"
    with opened(report(vae, x, out=path, labels=labels)) as page:
        assert page.title() == page.locator("h1").inner_text() == HOSTILE[0]
        legend = page.locator(".legend li").all_inner_texts()
        for label in HOSTILE:
            assert any(label in entry for entry in legend)
        slider = page.locator("[data-points] input")
        slider.focus()
        seen = set()
        for number in range(1, 7):
            page.keyboard.press("ArrowRight")
            said = page.locator("[data-points] output").inner_text()
            assert said == f"{labels[number]}, example {number}"
            x_y = page.evaluate(POINT, number)
            page.mouse.move(*x_y)
            page.wait_for_timeout(100)
            seen |= set(page.locator(".bk-tooltip-content").all_inner_texts())
        assert all(any(label in text for text in seen) for label in HOSTILE), seen
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.slow
def test_axe_finds_no_serious_fault(page_of: Path, opened: Opened) -> None:
    if not AXE.exists():
        pytest.skip("needs axe-core: npm install --no-save axe-core")
    for scheme in ("light", "dark"):
        with opened(page_of, scheme=scheme) as page:
            page.evaluate(AXE.read_text())
            found = page.evaluate("axe.run()")["violations"]
            grave = [v for v in found if v["impact"] in ("serious", "critical")]
            assert not grave, [(v["id"], v["nodes"][0]["html"][:300]) for v in grave]
