"""Pictures over the DeepInsight map: where features crowd, what mechanisms look like, what a network looks at.

Source: 'Drug Discovery With Neural Networks', figures 10 (map) and 11 (mean images of two mechanisms).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moa_tf.explanation.figures import plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAP = "#f4f4f2"
"""Ground of the map: neither end of any colour scale used here."""


@plain_style()
def plot_density(pixels: np.ndarray, image_size: int) -> Figure:
    """Every feature at its pixel, coloured by how crowded its neighbourhood is.

    The density is a Gaussian kernel's (Scott's bandwidth), so that it integrates to the number of features; as
    the pixels are few thousandths of it, it is given for 100 pixels.

    Args:
        pixels: [F, 2] row and column of each feature, `FeatureMap.pixels`.
        image_size: pixels on a side.

    Returns:
        The figure; `save_figure` writes it.
    """
    from scipy.stats import gaussian_kde

    pixels = np.asarray(pixels)
    # A feature's own kernel counts too. Shared pixels leave the covariance regular, as a map spans an area.
    density = gaussian_kde(pixels.T)(pixels.T) * len(pixels) * 100
    shared = len(pixels) - len(np.unique(pixels, axis=0))
    figure, (axes,) = _figure(1)
    order = np.argsort(density)
    points = _scatter(axes, pixels[order], density[order], image_size, cmap="viridis", vmin=0)
    axes.set_title(
        f"{len(pixels)} features on {image_size} × {image_size} pixels, {shared} share one", loc="left"
    )
    figure.colorbar(points, ax=axes, label="features per 100 pixels", shrink=0.9)
    return figure


@plain_style()
def plot_mechanisms(
    pixels: np.ndarray, image_size: int, means: Mapping[str, np.ndarray], counts: Sequence[int] | None = None
) -> Figure:
    """The mean images of two mechanisms side by side, and their difference.

    Args:
        pixels: [F, 2] row and column of each feature.
        image_size: pixels on a side.
        means: two mechanisms' names -> [F] mean scaled features of their signatures.
        counts: how many signatures each mean is of, for the titles.

    Returns:
        The figure.

    Raises:
        ValueError: not two mechanisms.
    """
    if len(means) != 2:
        raise ValueError(f"plot_mechanisms: {len(means)} mechanisms, expected 2")
    (first, second), values = means, [np.asarray(value) for value in means.values()]
    # A few outlying features would take up the whole scale.
    low, high = np.quantile(np.concatenate(values), [0.01, 0.99])
    figure, axes = _figure(3)
    for place, (name, value) in enumerate(zip((first, second), values, strict=True)):
        points = _scatter(axes[place], pixels, value, image_size, cmap="viridis", vmin=low, vmax=high)
        count = f", mean of {counts[place]}" if counts else ""
        axes[place].set_title(name.replace("_", " ") + count, loc="left")
    figure.colorbar(points, ax=axes[:2], label="scaled value", shrink=0.9, pad=0.02)
    difference = values[0] - values[1]
    limit = np.quantile(np.abs(difference), 0.99) or 1.0
    order = np.argsort(np.abs(difference))
    points = _scatter(
        axes[2], pixels[order], difference[order], image_size, cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    axes[2].set_title(f"{first} − {second}".replace("_", " "), loc="left")
    figure.colorbar(points, ax=axes[2], label="difference of scaled values", shrink=0.9)
    return figure


@plain_style()
def plot_activations(
    pixels: np.ndarray,
    image_size: int,
    activations: Mapping[str, np.ndarray],
    names: Sequence[str] = (),
    top: int = 12,
    unit: str = "logit",
    grid: Sequence[int] = (),
) -> Figure:
    """Every feature at its pixel, coloured by its class activation; a panel for each mechanism.

    Args:
        pixels: [F, 2] row and column of each feature.
        image_size: pixels on a side.
        activations: title of the panel, such as the mechanism -> [F] activation.
        names: F labels, gene symbols for example; the strongest features are named.
        top: how many to name, at most.
        unit: of the activation, for the scale.
        grid: rows and columns of cells between which the activation is interpolated, to be said in the scale.

    Returns:
        The figure.
    """
    pixels = np.asarray(pixels)
    resolution = f", read from {grid[0]} × {grid[1]} cells" if len(grid) else ""
    figure, panels = _figure(len(activations), columns=2)
    for axes, (title, activation) in zip(panels, activations.items(), strict=False):
        activation = np.asarray(activation)
        order = np.argsort(activation, kind="stable")
        points = _scatter(axes, pixels[order], activation[order], image_size, cmap="YlOrRd", vmin=0)
        axes.set_title(title.replace("_", " "), loc="left")
        figure.colorbar(points, ax=axes, label=f"class activation ({unit}){resolution}", shrink=0.9)
        if len(names):
            _label(axes, pixels, order[::-1][:top], names, image_size)
    return figure


def _figure(count: int, columns: int = 3) -> tuple[Figure, Sequence[Axes]]:
    # No pyplot: that would choose a window system and keep every figure in memory.
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(6.4 * columns, 5.4 * rows), dpi=110, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _scatter(axes: Axes, pixels: np.ndarray, values: np.ndarray, image_size: int, **style: object) -> object:
    """Squares larger than a pixel: one of 300² is smaller than a dot of the screen."""
    axes.set_facecolor(_MAP)
    axes.set(
        xlim=(-2, image_size + 1), ylim=(image_size + 1, -2), aspect="equal", xlabel="column", ylabel="row"
    )
    return axes.scatter(pixels[:, 1], pixels[:, 0], c=values, s=13, marker="s", linewidths=0, **style)


def _label(axes: Axes, pixels: np.ndarray, which: np.ndarray, names: Sequence[str], image_size: int) -> None:
    """Names in a column beside the map, each with a line to its feature; no two lines cross.

    Of all ways to deal out the places the one with the shortest lines is taken: two lines that crossed would be
    shorter with their places exchanged.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = pixels[which].T
    beside = image_size * 1.03
    heights = np.linspace(0.03, 0.97, len(which)) * image_size
    lengths = np.hypot(rows[:, None] - heights, (columns - beside)[:, None])
    for number, place in zip(*linear_sum_assignment(lengths), strict=True):
        axes.annotate(
            names[which[number]],
            (columns[number], rows[number]),
            (beside, heights[place]),
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "0.45",
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 1,
                # Else the line aims at the middle of the name, and a long one's could cross another after all.
                "relpos": (0, 0.5),
            },
        )
