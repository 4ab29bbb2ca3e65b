import itertools

import numpy as np
import pytest

from moa_tf.explanation.feature_map_plots import plot_activations, plot_density, plot_mechanisms

RNG = np.random.default_rng(0)
PIXELS = np.concatenate([RNG.integers(0, 10, (40, 2)), RNG.integers(0, 60, (20, 2))])


def points(axes):
    (scatter,) = axes.collections
    return np.asarray(scatter.get_offsets()), np.asarray(scatter.get_array())


def test_the_crowded_corner_is_the_densest_and_rows_run_downwards(tmp_path):
    figure = plot_density(PIXELS, 60)
    axes = figure.axes[0]
    places, density = points(axes)
    # Offsets are (x, y), so (column, row).
    np.testing.assert_array_equal(np.unique(places[:, ::-1], axis=0), np.unique(PIXELS, axis=0))
    crowded = (places < 10).all(axis=1)
    assert density[crowded].min() > density[(places > 30).all(axis=1)].max()
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    shared = 60 - len(np.unique(PIXELS, axis=0))
    assert axes.get_title(loc="left") == f"60 features on 60 × 60 pixels, {shared} share one"
    figure.savefig(tmp_path / "density.png")
    assert (tmp_path / "density.png").read_bytes()[:4] == b"\x89PNG"


def test_two_mechanisms_and_their_difference():
    first, second = RNG.uniform(size=60), RNG.uniform(size=60)
    figure = plot_mechanisms(PIXELS, 60, {"dna_inhibitor": first, "b": second}, [402, 3])
    left, middle, right = figure.axes[:3]
    assert left.get_title(loc="left") == "dna inhibitor, mean of 402"
    assert right.get_title(loc="left") == "dna inhibitor − b"
    np.testing.assert_allclose(points(left)[1], first)
    np.testing.assert_allclose(points(middle)[1], second)
    np.testing.assert_allclose(np.sort(points(right)[1]), np.sort(first - second))
    low, high = right.collections[0].get_clim()
    assert low == -high
    assert left.collections[0].get_clim() == middle.collections[0].get_clim()
    with pytest.raises(ValueError, match="3 mechanisms, expected 2"):
        plot_mechanisms(PIXELS, 60, dict.fromkeys("abc", first))


def test_the_strongest_features_are_named_at_their_place():
    activation = RNG.uniform(size=60)
    names = [f"gene {i}" for i in range(60)]
    maps = {"a_mechanism": activation, "b": np.zeros(60), "c": np.zeros(60)}
    figure = plot_activations(PIXELS, 60, maps, names, top=5, grid=(8, 8))
    axes = figure.axes[0]
    assert [panel.get_title(loc="left") for panel in figure.axes[:3]] == ["a mechanism", "b", "c"]
    strongest = np.argsort(-activation)[:5]
    assert {text.get_text() for text in axes.texts} == {names[i] for i in strongest}
    for text in axes.texts:
        row, column = PIXELS[names.index(text.get_text())]
        assert text.xy == (column, row)
    assert axes.collections[0].colorbar.ax.get_ylabel() == "class activation (logit), read from 8 × 8 cells"


def test_lines_to_names_do_not_cross():
    """Also where the upper of two features is the one on the left, and where several share a pixel."""
    rng = np.random.default_rng(1)
    pixels = np.concatenate([rng.integers(0, 60, (20, 2)), [[30, 1], [31, 50], [30, 1]]])
    figure = plot_activations(pixels, 60, {"a": np.ones(23)}, [str(i) for i in range(23)], top=23)
    lines = [(np.array(text.xy, float), np.array(text.xyann, float)) for text in figure.axes[0].texts]
    assert len({tuple(end) for _, end in lines}) == 23

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    for (a, b), (c, d) in itertools.combinations(lines, 2):
        assert side(a, b, c) * side(a, b, d) >= 0 or side(c, d, a) * side(c, d, b) >= 0
