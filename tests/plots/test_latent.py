"""Latent points: the dimensions that vary most, and labels that do not cover each other."""

from collections.abc import Sequence
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from pyro_vae import plots, presets
from pyro_vae.evaluation import active_units

POINTS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))


def offsets(ax: Axes) -> np.ndarray:
    return np.concatenate([np.asarray(points.get_offsets()) for points in ax.collections])


def boxes(ax: Axes) -> dict[str, Bbox]:
    """The box of each label, in pixels of the figure as it is drawn."""
    ax.figure.draw_without_rendering()
    found = {}
    for text in ax.texts:
        patch = text.get_bbox_patch()
        assert patch is not None
        found[text.get_text()] = patch.get_window_extent()
    return found


def assert_none_covers_another(ax: Axes) -> None:
    frame = ax.get_window_extent()
    found = boxes(ax)
    for one, other in combinations(found.values(), 2):
        assert not one.overlaps(other)
    for box in found.values():
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1


def test_latent_points_by_label() -> None:
    labels = torch.arange(30) % 10
    ax = plots.latent(POINTS, labels, dims=(0, 2))
    assert len(ax.collections) == 10
    for label, points in enumerate(ax.collections):
        assert np.asarray(points.get_offsets()) == pytest.approx(
            POINTS[labels == label][:, [0, 2]].numpy()
        )
    assert "z_{3}" in ax.get_ylabel()
    assert "of 3" not in ax.get_ylabel()  # it was chosen, and not by its rank


def test_the_most_active_dimensions_are_drawn_as_active_units_measures() -> None:
    x = (torch.rand(40, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    torch.manual_seed(2)
    vae = presets.build("pyro-mlp", z_dim=6, shape=16)
    statistic = active_units(vae, x).statistic
    z = vae.embed(x)
    ax = plots.latent(z, torch.zeros(40))
    order = statistic.argsort(descending=True).tolist()
    first, second = sorted(order[:2])
    assert offsets(ax) == pytest.approx(z[:, [first, second]].numpy())
    for dim, text in ((first, ax.get_xlabel()), (second, ax.get_ylabel())):
        rank = "1st" if dim == order[0] else "2nd"
        assert text == f"$z_{{{dim + 1}}}$ (variance {statistic[dim]:.2f}, {rank} of 6)"


@pytest.mark.parametrize("scales", [(1.0, 9.0), (9.0, 1.0)])
def test_two_dimensions_keep_their_order(scales: tuple[float, float]) -> None:
    z = POINTS[:, :2] * torch.tensor(scales)
    ax = plots.latent(z, torch.zeros(30))
    assert offsets(ax) == pytest.approx(z.numpy())
    assert ax.get_xlabel() == f"$z_{{1}}$ (variance {z[:, 0].var():.2f})"


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.3, 3.0])
@pytest.mark.parametrize("classes", [2, 10, 30])
def test_labels_do_not_cover_each_other(spread: float, classes: int) -> None:
    """Of classes whose medians are one, or near each other, all labels are there."""
    z = spread * torch.randn(300, 2, generator=torch.Generator().manual_seed(3))
    ax = plots.latent(z, torch.arange(300) % classes)
    assert {text.get_text() for text in ax.texts} == {str(c) for c in range(classes)}
    assert_none_covers_another(ax)


def test_labels_that_have_room_stay_at_their_median_and_others_have_a_line() -> None:
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])
    texts = {text.get_text(): text for text in plots.latent(z, torch.arange(4)).texts}
    assert {label for label, text in texts.items() if text.arrow_patch is not None} == {"1"}
    for label, text in texts.items():
        assert text.xy == pytest.approx(z[int(label)].tolist())
        assert (text.xyann == (0, 0)) == (label != "1")


def test_labels_are_placed_alike_each_time() -> None:
    z, labels = torch.zeros(100, 2), torch.arange(100) % 10
    one, other = (plots.latent(z, labels) for _ in range(2))
    assert [text.xyann for text in one.texts] == [text.xyann for text in other.texts]


@pytest.mark.parametrize("size", [(3.0, 2.0), (12.0, 8.0)])
def test_labels_on_given_axes_do_not_cover_each_other(size: Sequence[float]) -> None:
    _, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    axes[0].plot([1, 2])
    assert plots.latent(0.1 * POINTS, torch.arange(30) % 6, ax=axes[1]) is axes[1]
    assert_none_covers_another(axes[1])


def test_labels_without_room_are_left_to_the_legend() -> None:
    _, ax = plt.subplots(figsize=(1.5, 1.5))
    plots.latent(torch.zeros(100, 2), torch.arange(100), ax=ax)
    assert 0 < len(ax.texts) < 100
    found = list(boxes(ax).values())
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    legend = ax.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 100


def test_points_without_a_variance_are_refused_unless_dimensions_are_given() -> None:
    one = POINTS[:1]
    with pytest.raises(ValueError, match=r"z: got 1 points of shape \(1, 3\), expected two or"):
        plots.latent(one, torch.zeros(1))
    broken = POINTS.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="z: got points whose variance is nan, expected finite"):
        plots.latent(broken, torch.zeros(30))
    with pytest.raises(ValueError, match="z: got 1 dimension, expected two or more"):
        plots.latent(POINTS[:, :1], torch.zeros(30))
    assert "variance" not in plots.latent(one, torch.zeros(1), dims=(2, 0)).get_xlabel()
