import pathlib

import keras
import numpy as np
import pytest

from moa_tf.errors import InputError
from moa_tf.preprocessing.feature_map import (
    FeatureMap,
    align_to_rectangle,
    embed_features,
    to_pixels,
)

FIXTURE = np.load(pathlib.Path(__file__).parent / "fixtures" / "deepinsight.npz")


@pytest.mark.parametrize("embedding", ["gaussian", "clusters", "uniform", "tsne"])
@pytest.mark.parametrize("discretization", ["round", "quantile", "assignment"])
@pytest.mark.parametrize("size", [24, 61, 224])
def test_every_feature_has_the_pixel_that_pydeepinsight_gives(embedding, discretization, size):
    coordinates = align_to_rectangle(FIXTURE[f"{embedding}/embedding"], "pydeepinsight")
    pixels = to_pixels(coordinates, size, discretization)
    np.testing.assert_array_equal(pixels, FIXTURE[f"{embedding}/{discretization}/{size}"])


def test_a_turned_rectangle_is_set_upright():
    corners = np.array([[0, 0], [4, 0], [4, 2], [0, 2], [1, 1.0]])
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    upright = align_to_rectangle(corners @ turn.T)
    sides = sorted(np.ptp(upright, axis=0))
    np.testing.assert_allclose(sides, [2, 4], atol=1e-9)
    # A rotation keeps distances, so the point that was in the middle of the left half still is.
    distances = np.linalg.norm(upright - upright[4], axis=1)
    np.testing.assert_allclose(distances[:4], np.linalg.norm(corners[:4] - corners[4], axis=1), atol=1e-9)


def test_no_direction_gives_a_smaller_rectangle():
    for name in ("gaussian", "clusters", "uniform", "tsne"):
        points = FIXTURE[f"{name}/embedding"].astype(float)
        found = np.prod(np.ptp(align_to_rectangle(points), axis=0))
        angles = np.linspace(0, np.pi / 2, 2000)
        axes = np.stack([np.cos(angles), np.sin(angles)]), np.stack([-np.sin(angles), np.cos(angles)])
        areas = np.ptp(points @ axes[0], axis=0) * np.ptp(points @ axes[1], axis=0)
        assert areas.min() * 0.99 < found <= areas.min() * (1 + 1e-9), name


def test_round_stretches_over_the_grid_and_keeps_the_far_edge_inside():
    coordinates = np.array([[0, 0], [10, 1], [4.9, 0.24], [5.0, 0.25], [9.9, 0.5]])
    np.testing.assert_array_equal(to_pixels(coordinates, 4), [[0, 0], [3, 3], [1, 0], [2, 1], [3, 2]])


def test_assignment_gives_each_feature_its_own_pixel_and_the_least_squared_distance():
    coordinates = np.array([[0, 0], [0.1, 0.1], [0.05, 0.2], [2, 2], [1.9, 1.95]])
    pixels = to_pixels(coordinates, 3, "assignment")
    assert len(np.unique(pixels, axis=0)) == 5
    scaled = coordinates / 2 * 3
    cost = ((scaled - pixels - 0.5) ** 2).sum()
    rng = np.random.default_rng(0)
    grid = np.stack(np.divmod(np.arange(9), 3), 1)
    others = [grid[rng.permutation(9)[:5]] for _ in range(3000)]
    assert cost <= min(((scaled - other - 0.5) ** 2).sum() for other in others) + 1e-12


def test_assignment_needs_a_pixel_for_every_feature():
    with pytest.raises(InputError, match="10 features and 3² = 9 pixels"):
        to_pixels(np.random.default_rng(0).normal(size=(10, 2)), 3, "assignment")


def test_points_on_a_line_are_refused():
    line = np.arange(6.0)[:, None] * [1, 2]
    with pytest.raises(InputError, match="one line"):
        align_to_rectangle(line)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((10, 3)), "3 features, expected at least 4"),
        (np.zeros((10, 5)), "5 features, t-SNE needs more than perplexity=5"),
        (np.full((10, 8), np.nan), "8 features have values that are not finite"),
    ],
)
def test_features_that_cannot_be_embedded_are_refused(features, message):
    with pytest.raises(InputError, match=message):
        embed_features(features)


@pytest.mark.parametrize(
    "embedding", ["tsne", pytest.param("umap", marks=pytest.mark.slow), "pca", "kernel-pca"]
)
def test_features_of_one_group_lie_together(embedding):
    if embedding == "umap":
        pytest.importorskip("umap")
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], 20)
    signal = rng.uniform(0.2, 1, size=(200, 2))
    features = signal[:, group] + rng.normal(0, 0.02, (200, 40))
    points = embed_features(features, embedding, seed=3)
    assert points.shape == (40, 2)
    centers = np.stack([points[group == g].mean(0) for g in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, group)


def test_a_map_is_the_same_for_the_same_seed():
    features = np.random.default_rng(0).uniform(size=(30, 25))
    first, second = (embed_features(features, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_layer_keeps_its_map_in_a_saved_model(tmp_path):
    features = np.random.default_rng(0).uniform(size=(30, 25)).astype("float32")
    layer = FeatureMap(16, perplexity=4.0, seed=2, name="feature_map")
    inputs = keras.Input((25,))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match="adapt"):
        _ = layer.pixels
    layer.adapt(features)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(features)), features)
    expected = to_pixels(align_to_rectangle(embed_features(features, perplexity=4.0, seed=2)), 16)
    np.testing.assert_array_equal(layer.pixels, expected)

    model.save(tmp_path / "map.keras")
    loaded = keras.saving.load_model(tmp_path / "map.keras").get_layer("feature_map")
    np.testing.assert_array_equal(loaded.pixels, expected)
    np.testing.assert_array_equal(loaded.coordinates, layer.coordinates)
    np.testing.assert_array_equal(loaded.coordinates.max(0), [1, 1])
    assert loaded.get_config() == layer.get_config()


def test_every_edge_of_the_hull_is_tried():
    # A triangle with an obtuse angle has its smallest rectangle along the longest edge alone: twice its area.
    for turn in np.linspace(0, 2 * np.pi, 12):
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        triangle = np.array([[0, 0], [10, 0], [3, 1], [4, 0.5]]) @ axes.T
        assert np.prod(np.ptp(align_to_rectangle(triangle), axis=0)) == pytest.approx(10)


@pytest.mark.parametrize("embedding", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_features_are_near_by_their_direction_not_by_their_size(embedding):
    if embedding == "umap":
        pytest.importorskip("umap")
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], 20)
    signal = rng.uniform(0.2, 1, size=(200, 2))
    size = np.tile([1, 30], 20)
    features = signal[:, group] * (1 + rng.normal(0, 0.02, (200, 40))) * size
    points = embed_features(features, embedding, seed=3)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(40, np.inf))
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(group[nearest], group)
    # By chance 10 of 19 neighbours are of the other size; by plain distance none would be.
    assert 10 < (size[nearest] != size).sum() < 32
